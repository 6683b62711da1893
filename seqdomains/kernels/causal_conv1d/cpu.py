"""The causal depthwise convolution on a CPU: 16 channels per vector, SiLU and its gradient in the same pass.

A task is a run of sequences and one block of channels, walked over time: from the last row to the first with `reverse`.
"""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.kernels.compilation import flat, kernel, memory, run_tasks, sum_rows
from seqdomains.kernels.simd import WIDTH, load, load_part, muladd, sigmoid, splat, store, store_part

BLOCK: Final = 64
# Steps of 16 channels before the next 16: their rows of a block then share pages and stay in the first-level cache.
STEPS: Final = 64
# Inputs that the widest filter looks back on; shorter ones have taps of zero there.
LAGS: Final = 3
# The gradients of the weight and bias have at most this many partial rows, however many sequences there are.
RUNS: Final = 64


@kernel
def _convolve(first, last, scratch, shape, silu, borders, x, state, taps, bias, y):
    channels, width, run, reverse = shape
    blocks = (channels + BLOCK - 1) // BLOCK
    step = -channels if reverse else channels
    zero = splat(np.float32(0))
    for task in range(first, last):
        b0, c0 = (task // blocks) * run, (task % blocks) * BLOCK
        for b in range(b0, min(b0 + run, borders.size - 1)):
            length = borders[b + 1] - borders[b]
            row = borders[b + 1] - 1 if reverse else borders[b]
            for t0 in range(0, length, STEPS):
                for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
                    count = channels - c
                    w0, w1 = load_part(taps, c, count), load_part(taps, channels + c, count)
                    w2, w3 = load_part(taps, 2 * channels + c, count), load_part(taps, 3 * channels + c, count)
                    shift = zero
                    if bias.size > 0:
                        shift = load_part(bias, c, count)
                    for t in range(t0, min(t0 + STEPS, length)):
                        at = row * channels + t * step + c
                        if t >= LAGS:
                            x1, x2 = load_part(x, at - step, count), load_part(x, at - 2 * step, count)
                            x3 = load_part(x, at - 3 * step, count)
                        else:
                            early = (LAGS * b + LAGS + t) * channels + c
                            x1, x2, x3 = zero, zero, zero
                            if t >= 1:
                                x1 = load_part(x, at - step, count)
                            elif state.size > 0:
                                x1 = load_part(state, early - channels, count)
                            if t >= 2:
                                x2 = load_part(x, at - 2 * step, count)
                            elif state.size > 0:
                                x2 = load_part(state, early - 2 * channels, count)
                            if state.size > 0:
                                x3 = load_part(state, early - 3 * channels, count)
                        out = muladd(w1, x1, muladd(w0, load_part(x, at, count), shift))
                        if width > 2:
                            out = muladd(w2, x2, out)
                        if width > 3:
                            out = muladd(w3, x3, out)
                        if silu:
                            out = out * sigmoid(out)
                        store_part(y, at, out, count)


class Run(NamedTuple):
    """How sequences are shared out: sequences per task, tasks along them, and where they begin and end."""

    sequences: int
    runs: int
    borders: NDArray[np.int64]


def _runs(x: Tensor, cu_seqlens: Tensor | None) -> Run:
    batch, length, _ = x.shape
    borders = np.arange(batch + 1) * length if cu_seqlens is None else cu_seqlens.numpy()
    run = -(-(len(borders) - 1) // RUNS)
    return Run(run, -(-(len(borders) - 1) // run), borders.astype(np.int64))


def _before(state: Tensor | None) -> Tensor | None:
    """Return the 3 inputs before each sequence, shape (S, 3, D), zero past the filter's end."""
    return None if state is None else F.pad(state.detach().float(), (0, 0, LAGS - state.shape[1], 0))


def _taps(weight: Tensor) -> Tensor:
    """Return the weights by lag, shape (4, D): the present step first, zero past the filter's end."""
    taps = torch.zeros(LAGS + 1, weight.shape[0], dtype=torch.float32, device="cpu")
    taps[: weight.shape[1]] = weight.detach().t().flip(0)
    return taps


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Return y in x's dtype."""
    channels = x.shape[2]
    run = _runs(x, cu_seqlens)
    y = memory(*x.shape)
    run_tasks(
        _convolve,
        run.runs * -(-channels // BLOCK),
        0,
        (channels, weight.shape[1], run.sequences, reverse),
        silu,
        run.borders,
        *(flat(tensor) for tensor in (x, _before(state), _taps(weight), bias, y)),
    )
    return y.to(x.dtype)


@kernel
def _adjoint(first, last, scratch, shape, silu, borders, dy, x, state, taps, bias, dx, dtaps, dbias, dstate):
    channels, width, run, reverse = shape
    blocks = (channels + BLOCK - 1) // BLOCK
    step = -channels if reverse else channels
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    # Scratch: the gradients of the sums at the 3 steps after, then those of the bias and of the 4 taps so far.
    for task in range(first, last):
        part, c0 = task // blocks, (task % blocks) * BLOCK
        for at in range(3 * BLOCK, 8 * BLOCK, WIDTH):
            store(scratch, at, zero)
        for b in range(part * run, min(part * run + run, borders.size - 1)):
            length = borders[b + 1] - borders[b]
            row = borders[b + 1] - 1 if reverse else borders[b]
            for at in range(0, 3 * BLOCK, WIDTH):
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
                        at = row * channels + t * step + c
                        x0 = load_part(x, at, count)
                        if t >= LAGS:
                            x1, x2 = load_part(x, at - step, count), load_part(x, at - 2 * step, count)
                            x3 = load_part(x, at - 3 * step, count)
                        else:
                            early = (LAGS * b + LAGS + t) * channels + c
                            x1, x2, x3 = zero, zero, zero
                            if t >= 1:
                                x1 = load_part(x, at - step, count)
                            elif state.size > 0:
                                x1 = load_part(state, early - channels, count)
                            if t >= 2:
                                x2 = load_part(x, at - 2 * step, count)
                            elif state.size > 0:
                                x2 = load_part(state, early - 2 * channels, count)
                            if state.size > 0:
                                x3 = load_part(state, early - 3 * channels, count)
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
            if dstate.size > 0:
                for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
                    own, count = c - c0, channels - c
                    w1, w2 = load_part(taps, channels + c, count), load_part(taps, 2 * channels + c, count)
                    w3 = load_part(taps, 3 * channels + c, count)
                    g1, g2, g3 = load(scratch, own), load(scratch, BLOCK + own), load(scratch, 2 * BLOCK + own)
                    at = LAGS * b * channels + c
                    store_part(dstate, at, w3 * g1, count)
                    store_part(dstate, at + channels, muladd(w3, g2, w2 * g1), count)
                    store_part(dstate, at + 2 * channels, muladd(w3, g3, muladd(w2, g2, w1 * g1)), count)
        for c in range(c0, min(c0 + BLOCK, channels), WIDTH):
            own, count = c - c0, channels - c
            store_part(dbias, part * channels + c, load(scratch, 3 * BLOCK + own), count)
            for lag in range(LAGS + 1):
                store_part(dtaps, (4 * part + lag) * channels + c, load(scratch, (4 + lag) * BLOCK + own), count)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (dx, dweight, dbias, dstate), each in its input's dtype."""
    channels, width = x.shape[2], weight.shape[1]
    run = _runs(x, cu_seqlens)
    dx, dbias = memory(*x.shape), memory(run.runs, channels)
    dtaps = memory(run.runs, LAGS + 1, channels)
    dstate = None if state is None else memory(state.shape[0], LAGS, channels)
    run_tasks(
        _adjoint,
        run.runs * -(-channels // BLOCK),
        8 * BLOCK,
        (channels, width, run.sequences, reverse),
        silu,
        run.borders,
        *(flat(tensor) for tensor in (dy, x, _before(state), _taps(weight), bias, dx, dtaps, dbias, dstate)),
    )
    return (
        dx.to(x.dtype),
        sum_rows(dtaps)[:width].flip(0).t().contiguous().to(weight.dtype),
        None if bias is None else sum_rows(dbias).to(bias.dtype),
        None if state is None or dstate is None else dstate[:, LAGS + 1 - width :].to(state.dtype, copy=True),
    )
