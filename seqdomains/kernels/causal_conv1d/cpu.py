"""The causal depthwise convolution on a CPU: 16 channels per vector, SiLU and its gradient in the same pass.

A task is one batch row and one block of channels, walked over time.
"""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from seqdomains.kernels.compilation import flat, kernel, run_tasks, sum_rows
from seqdomains.kernels.simd import WIDTH, load, load_part, muladd, sigmoid, splat, store, store_part

BLOCK: Final = 64
_GROUPS: Final = BLOCK // WIDTH


@kernel
def _convolve(first, last, scratch, shape, silu, x, weight, bias, state, y):
    length, channels, width = shape
    blocks = (channels + BLOCK - 1) // BLOCK
    before = width - 1
    for task in range(first, last):
        b, c0 = task // blocks, (task % blocks) * BLOCK
        for t in range(length):
            for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
                count = channels - c
                out = splat(np.float32(0))
                if bias.size > 0:
                    out = load_part(bias, c, count)
                for k in range(width):
                    s = t - before + k
                    tap = load_part(weight, k * channels + c, count)
                    if s >= 0:
                        out = muladd(tap, load_part(x, (b * length + s) * channels + c, count), out)
                    elif state.size > 0:
                        out = muladd(tap, load_part(state, (b * before + s + before) * channels + c, count), out)
                if silu:
                    out = out * sigmoid(out)
                store_part(y, (b * length + t) * channels + c, out, count)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """Return y in x's dtype."""
    batch, length, channels = x.shape
    y = torch.empty(x.shape)
    run_tasks(
        _convolve,
        batch * -(-channels // BLOCK),
        0,
        (length, channels, weight.shape[1]),
        silu,
        *(flat(tensor) for tensor in (x, weight.t(), bias, state, y)),
    )
    return y.to(x.dtype)


@kernel
def _adjoint(first, last, scratch, shape, silu, dy, x, weight, bias, state, dx, dweight, dbias, dstate):
    length, channels, width = shape
    blocks = (channels + BLOCK - 1) // BLOCK
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    # Scratch: the last 4 gradients of the sums as a ring, the gradients of the taps and of the bias, the
    # inputs under the taps.
    at_weight = 4 * BLOCK
    at_bias = at_weight + width * BLOCK
    at_value = at_bias + BLOCK
    before = width - 1
    for task in range(first, last):
        b, c0 = task // blocks, (task % blocks) * BLOCK
        for at in range(0, at_bias + BLOCK, WIDTH):
            store(scratch, at, zero)
        for t in range(length - 1, -width, -1):
            for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
                own, count = c - c0, channels - c
                change = zero
                if t >= 0:
                    change = load_part(dy, (b * length + t) * channels + c, count)
                    out = zero
                    if bias.size > 0:
                        out = load_part(bias, c, count)
                    for k in range(width):
                        s = t - before + k
                        value = zero
                        if s >= 0:
                            value = load_part(x, (b * length + s) * channels + c, count)
                        elif state.size > 0:
                            value = load_part(state, (b * before + s + before) * channels + c, count)
                        store(scratch, at_value + k * WIDTH, value)
                        out = muladd(load_part(weight, k * channels + c, count), value, out)
                    if silu:
                        gate = sigmoid(out)
                        change = change * gate * muladd(out, one - gate, one)
                    store(scratch, at_bias + own, load(scratch, at_bias + own) + change)
                    for k in range(width):
                        at = at_weight + k * BLOCK + own
                        value = load(scratch, at_value + k * WIDTH)
                        store(scratch, at, muladd(change, value, load(scratch, at)))
                store(scratch, (t & 3) * BLOCK + own, change)
                gradient = zero
                for k in range(width):
                    tap = load_part(weight, k * channels + c, count)
                    gradient = muladd(tap, load(scratch, ((t + before - k) & 3) * BLOCK + own), gradient)
                if t >= 0:
                    store_part(dx, (b * length + t) * channels + c, gradient, count)
                elif dstate.size > 0:
                    store_part(dstate, (b * before + t + before) * channels + c, gradient, count)
        for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
            own, count = c - c0, channels - c
            for k in range(width):
                at = (b * width + k) * channels + c
                store_part(dweight, at, load(scratch, at_weight + k * BLOCK + own), count)
            store_part(dbias, b * channels + c, load(scratch, at_bias + own), count)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients (dx, dweight, dbias, dstate), each in its input's dtype."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    dx = torch.empty(x.shape)
    dweight, dbias = torch.empty(batch, width, channels), torch.empty(batch, channels)
    dstate = None if state is None else torch.empty(state.shape)
    run_tasks(
        _adjoint,
        batch * -(-channels // BLOCK),
        (5 + width) * BLOCK + width * WIDTH,
        (length, channels, width),
        silu,
        *(flat(tensor) for tensor in (dy, x, weight.t(), bias, state, dx, dweight, dbias, dstate)),
    )
    return (
        dx.to(x.dtype),
        sum_rows(dweight).t().contiguous().to(weight.dtype),
        None if bias is None else sum_rows(dbias).to(bias.dtype),
        None if dstate is None or state is None else dstate.to(state.dtype),
    )
