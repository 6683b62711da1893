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
# Steps of 16 channels before the next 16: their rows of a block then share pages and stay in the first-level cache.
STEPS: Final = 64
# Inputs that the widest filter looks back on; shorter ones have taps of zero there.
LAGS: Final = 3


@kernel
def _convolve(first, last, scratch, shape, silu, x, head, taps, bias, y):
    length, channels, width = shape
    blocks = (channels + BLOCK - 1) // BLOCK
    zero = splat(np.float32(0))
    for task in range(first, last):
        b, c0 = task // blocks, (task % blocks) * BLOCK
        for t0 in range(0, length, STEPS):
            for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
                count = channels - c
                w0, w1 = load_part(taps, c, count), load_part(taps, channels + c, count)
                w2, w3 = load_part(taps, 2 * channels + c, count), load_part(taps, 3 * channels + c, count)
                shift = zero
                if bias.size > 0:
                    shift = load_part(bias, c, count)
                for t in range(t0, min(t0 + STEPS, length)):
                    at = (b * length + t) * channels + c
                    if t >= LAGS:
                        x1, x2 = load_part(x, at - channels, count), load_part(x, at - 2 * channels, count)
                        x3 = load_part(x, at - 3 * channels, count)
                    else:
                        early = (2 * LAGS * b + LAGS + t) * channels + c
                        x1, x2 = load_part(head, early - channels, count), load_part(head, early - 2 * channels, count)
                        x3 = load_part(head, early - 3 * channels, count)
                    out = muladd(w1, x1, muladd(w0, load_part(x, at, count), shift))
                    if width > 2:
                        out = muladd(w2, x2, out)
                    if width > 3:
                        out = muladd(w3, x3, out)
                    if silu:
                        out = out * sigmoid(out)
                    store_part(y, at, out, count)


def _head(x: Tensor, state: Tensor | None) -> Tensor:
    """Return the 3 inputs before x and the first 3 of x, shape (B, 6, D): all that the first steps look back on."""
    head = torch.zeros(x.shape[0], 2 * LAGS, x.shape[2])
    if state is not None:
        head[:, LAGS - state.shape[1] : LAGS] = state.detach()
    early = min(LAGS, x.shape[1])
    head[:, LAGS : LAGS + early] = x.detach()[:, :early]
    return head


def _taps(weight: Tensor) -> Tensor:
    """Return the weights by lag, shape (4, D): the present step first, zero past the filter's end."""
    taps = torch.zeros(LAGS + 1, weight.shape[0])
    taps[: weight.shape[1]] = weight.detach().t().flip(0)
    return taps


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
        *(flat(tensor) for tensor in (x, _head(x, state), _taps(weight), bias, y)),
    )
    return y.to(x.dtype)


@kernel
def _adjoint(first, last, scratch, shape, silu, dy, x, head, taps, bias, dx, dtaps, dbias, dstate):
    length, channels, width = shape
    blocks = (channels + BLOCK - 1) // BLOCK
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    # Scratch: the gradients of the sums at the 3 steps after, then those of the bias and of the 4 taps so far.
    for task in range(first, last):
        b, c0 = task // blocks, (task % blocks) * BLOCK
        for at in range(0, 8 * BLOCK, WIDTH):
            store(scratch, at, zero)
        for t0 in range((length - 1) // STEPS * STEPS, -1, -STEPS):
            for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
                own, count = c - c0, channels - c
                w0, w1 = load_part(taps, c, count), load_part(taps, channels + c, count)
                w2, w3 = load_part(taps, 2 * channels + c, count), load_part(taps, 3 * channels + c, count)
                shift = zero
                if bias.size > 0:
                    shift = load_part(bias, c, count)
                g1, g2, g3 = load(scratch, own), load(scratch, BLOCK + own), load(scratch, 2 * BLOCK + own)
                # Sums over time are taken per run of steps first: one sum over 2**20 steps would lose three digits.
                sum_bias, sum0, sum1, sum2, sum3 = zero, zero, zero, zero, zero
                for t in range(min(t0 + STEPS, length) - 1, t0 - 1, -1):
                    at = (b * length + t) * channels + c
                    x0 = load_part(x, at, count)
                    if t >= LAGS:
                        x1, x2 = load_part(x, at - channels, count), load_part(x, at - 2 * channels, count)
                        x3 = load_part(x, at - 3 * channels, count)
                    else:
                        early = (2 * LAGS * b + LAGS + t) * channels + c
                        x1, x2 = load_part(head, early - channels, count), load_part(head, early - 2 * channels, count)
                        x3 = load_part(head, early - 3 * channels, count)
                    g0 = load_part(dy, at, count)
                    if silu:
                        out = muladd(w1, x1, muladd(w0, x0, shift))
                        if width > 2:
                            out = muladd(w2, x2, out)
                        if width > 3:
                            out = muladd(w3, x3, out)
                        gate = sigmoid(out)
                        g0 = g0 * gate * muladd(out, one - gate, one)
                    store_part(dx, at, muladd(w3, g3, muladd(w2, g2, muladd(w1, g1, w0 * g0))), count)
                    sum_bias = sum_bias + g0
                    sum0 = muladd(g0, x0, sum0)
                    sum1 = muladd(g0, x1, sum1)
                    sum2 = muladd(g0, x2, sum2)
                    sum3 = muladd(g0, x3, sum3)
                    g3, g2, g1 = g2, g1, g0
                store(scratch, own, g1)
                store(scratch, BLOCK + own, g2)
                store(scratch, 2 * BLOCK + own, g3)
                store(scratch, 3 * BLOCK + own, load(scratch, 3 * BLOCK + own) + sum_bias)
                store(scratch, 4 * BLOCK + own, load(scratch, 4 * BLOCK + own) + sum0)
                store(scratch, 5 * BLOCK + own, load(scratch, 5 * BLOCK + own) + sum1)
                store(scratch, 6 * BLOCK + own, load(scratch, 6 * BLOCK + own) + sum2)
                store(scratch, 7 * BLOCK + own, load(scratch, 7 * BLOCK + own) + sum3)
        for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
            own, count = c - c0, channels - c
            w1, w2 = load_part(taps, channels + c, count), load_part(taps, 2 * channels + c, count)
            w3 = load_part(taps, 3 * channels + c, count)
            g1, g2, g3 = load(scratch, own), load(scratch, BLOCK + own), load(scratch, 2 * BLOCK + own)
            at = LAGS * b * channels + c
            store_part(dstate, at, w3 * g1, count)
            store_part(dstate, at + channels, muladd(w3, g2, w2 * g1), count)
            store_part(dstate, at + 2 * channels, muladd(w3, g3, muladd(w2, g2, w1 * g1)), count)
            store_part(dbias, b * channels + c, load(scratch, 3 * BLOCK + own), count)
            for lag in range(LAGS + 1):
                store_part(dtaps, (4 * b + lag) * channels + c, load(scratch, (4 + lag) * BLOCK + own), count)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients (dx, dweight, dbias, dstate), each in its input's dtype."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    dx, dbias = torch.empty(x.shape), torch.empty(batch, channels)
    dtaps, dstate = torch.empty(batch, LAGS + 1, channels), torch.empty(batch, LAGS, channels)
    run_tasks(
        _adjoint,
        batch * -(-channels // BLOCK),
        8 * BLOCK,
        (length, channels, width),
        silu,
        *(flat(tensor) for tensor in (dy, x, _head(x, state), _taps(weight), bias, dx, dtaps, dbias, dstate)),
    )
    return (
        dx.to(x.dtype),
        sum_rows(dtaps)[:width].flip(0).t().contiguous().to(weight.dtype),
        None if bias is None else sum_rows(dbias).to(bias.dtype),
        None if state is None else dstate[:, LAGS + 1 - width :].to(state.dtype, copy=True),
    )
