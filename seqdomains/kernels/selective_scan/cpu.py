"""The selective scan on a CPU: 16 channels per vector, one pass over time, states recomputed per chunk in backward.

A task is one batch row and one block of channels. Its state tile is [N, 16] per group of 16 channels and stays in the
first-level cache. Forward stores the state that enters each chunk of CPU_CHUNK steps; backward walks the chunks from
last to first, recomputes a chunk's states into scratch, and steps back through them (README.md, "The adjoint").
"""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor

from seqdomains.kernels.compilation import flat, kernel, run_tasks, sum_rows
from seqdomains.kernels.selective_scan.plan import CPU_CHUNK
from seqdomains.kernels.simd import (
    WIDTH,
    exp2,
    load,
    load_part,
    muladd,
    sigmoid,
    softplus,
    splat,
    spread,
    store,
    store_part,
    totals,
)

CHUNK: Final = CPU_CHUNK
# Channels of a task: the sums over channels in dB and dC are gathered over a whole block before lanes are added.
BLOCK: Final = 64
_GROUPS: Final = BLOCK // WIDTH
_LN2: Final = np.float32(math.log(2.0))
# Scratch arrays a multiple of 4 KiB apart share the address bits by which a load is held against the stores before it,
# and wait for nothing; 320 bytes between them made backward 12 % faster.
_SKEW: Final = 80


@kernel
def _advance(first, last, scratch, shape, flags, inputs, outputs):
    u, dt, A, B, C, D, z, bias, h0 = inputs
    y, h_last, states = outputs
    _, length, channels, N = shape
    steps_softplus, has_D, has_z, has_bias, has_h0 = flags
    blocks = (channels + BLOCK - 1) // BLOCK
    chunks = (length + CHUNK - 1) // CHUNK
    tile = N * WIDTH
    decays = _GROUPS * tile
    for task in range(first, last):
        b, c0 = task // blocks, (task % blocks) * BLOCK
        groups = (min(BLOCK, channels - c0) + WIDTH - 1) // WIDTH
        for g in range(groups):
            c = c0 + g * WIDTH
            count = channels - c
            for n in range(N):
                store(scratch, decays + g * tile + n * WIDTH, load_part(A, n * channels + c, count))
                h = splat(np.float32(0))
                if has_h0:
                    h = load_part(h0, (b * N + n) * channels + c, count)
                store(scratch, g * tile + n * WIDTH, h)
        for k in range(chunks):
            for g in range(groups):
                c = c0 + g * WIDTH
                count = channels - c
                base = g * tile
                for n in range(N):
                    at = ((b * chunks + k) * N + n) * channels + c
                    store_part(states, at, load(scratch, base + n * WIDTH), count)
                skip = splat(np.float32(0))
                if has_D:
                    skip = load_part(D, c, count)
                shift = splat(np.float32(0))
                if has_bias:
                    shift = load_part(bias, c, count)
                for t in range(k * CHUNK, min(length, (k + 1) * CHUNK)):
                    row = (b * length + t) * channels + c
                    column = (b * length + t) * N
                    d = load_part(dt, row, count) + shift
                    if steps_softplus:
                        d = softplus(d)[0]
                    x = load_part(u, row, count)
                    dx = d * x
                    out = skip * x
                    for n in range(N):
                        at = base + n * WIDTH
                        a = exp2(d * load(scratch, decays + at))
                        h = muladd(a, load(scratch, at), dx * spread(B, column + n))
                        store(scratch, at, h)
                        out = muladd(spread(C, column + n), h, out)
                    if has_z:
                        gate = load_part(z, row, count)
                        out = out * (gate * sigmoid(gate))
                    store_part(y, row, out, count)
        for g in range(groups):
            c = c0 + g * WIDTH
            for n in range(N):
                store_part(h_last, (b * N + n) * channels + c, load(scratch, g * tile + n * WIDTH), channels - c)


def forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in u's dtype, h_last, and the state entering each chunk, shape (B, chunks, N, D)."""
    batch, length, channels = u.shape
    N = A.shape[1]
    y = torch.empty(u.shape)
    h_last = torch.empty(batch, N, channels)
    states = torch.empty(batch, -(-length // CHUNK), N, channels)
    flags = (softplus, *(tensor is not None for tensor in (D, z, bias, h0)))
    inputs = (u, dt, _scaled(A), B, C, D, z, bias, None if h0 is None else h0.transpose(1, 2))
    run_tasks(
        _advance,
        batch * -(-channels // BLOCK),
        2 * _GROUPS * N * WIDTH,
        (batch, length, channels, N),
        flags,
        tuple(flat(tensor) for tensor in inputs),
        tuple(flat(tensor) for tensor in (y, h_last, states)),
    )
    return y.to(u.dtype), h_last.transpose(1, 2).contiguous(), states


def _scaled(A: Tensor) -> Tensor:
    """Return A log2(e), states first: exp(d A) is 2 to the power of d times this."""
    return (A.detach().float() * math.log2(math.e)).t()


@register_jitable
def _layout(N: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return where arrays begin in the scratch of backward: those carried over chunks, those of one; and its size."""
    tile = N * WIDTH
    at_q = 0
    at_A = at_q + _GROUPS * tile + _SKEW
    at_dA = at_A + _GROUPS * tile + _SKEW
    at_sums = at_dA + _GROUPS * tile + _SKEW
    at_part = at_sums + 2 * _GROUPS * WIDTH
    at_a = at_part + tile + _SKEW
    at_h = at_a + CHUNK * tile + _SKEW
    at_dB = at_h + (CHUNK + 1) * tile + _SKEW
    at_dC = at_dB + CHUNK * tile + _SKEW
    # totals() reads whole groups of 16 states: past the end of dC where N is no multiple of 16.
    at_d = at_dC + CHUNK * tile + WIDTH * WIDTH
    at_slope = at_d + CHUNK * WIDTH
    at_gated = at_slope + CHUNK * WIDTH
    end = at_gated + CHUNK * WIDTH
    carried, kept = (at_q, at_A, at_dA, at_sums), (at_part, at_a, at_h, at_dB, at_dC, at_d, at_slope, at_gated)
    return carried, kept, end


@kernel
def _recompute(scratch, shape, flags, place, inputs, outputs):
    """Run one chunk of 16 channels forward from its stored state, keeping states, decays and steps; write dz.

    Returns the chunk's part of the gradient of D.
    """
    dy, _, u, dt, _, B, C, D, z, bias, states = inputs
    dz = outputs[6]
    _, length, channels, N = shape
    steps_softplus, has_D, has_z, has_bias, _ = flags
    b, k, c, base = place
    (_, at_A, _, _), (_, at_a, at_h, _, _, at_d, at_slope, at_gated), _ = _layout(N)
    chunks = (length + CHUNK - 1) // CHUNK
    count = channels - c
    tile = N * WIDTH
    one, sum_D = splat(np.float32(1)), splat(np.float32(0))
    skip, shift = splat(np.float32(0)), splat(np.float32(0))
    if has_D:
        skip = load_part(D, c, count)
    if has_bias:
        shift = load_part(bias, c, count)
    for n in range(N):
        store(scratch, at_h + n * WIDTH, load_part(states, ((b * chunks + k) * N + n) * channels + c, count))
    for i in range(min(CHUNK, length - k * CHUNK)):
        t = b * length + k * CHUNK + i
        row = t * channels + c
        d, slope = load_part(dt, row, count) + shift, one
        if steps_softplus:
            d, slope = softplus(d)
        store(scratch, at_d + i * WIDTH, d)
        store(scratch, at_slope + i * WIDTH, slope)
        x = load_part(u, row, count)
        dx = d * x
        out = skip * x
        for n in range(N):
            at = i * tile + n * WIDTH
            a = exp2(d * load(scratch, at_A + base + n * WIDTH))
            h = muladd(a, load(scratch, at_h + at), dx * spread(B, t * N + n))
            store(scratch, at_a + at, a)
            store(scratch, at_h + tile + at, h)
            out = muladd(spread(C, t * N + n), h, out)
        gated = load_part(dy, row, count)
        if has_z:
            gate = load_part(z, row, count)
            s = sigmoid(gate)
            store_part(dz, row, gated * out * s * muladd(gate, one - s, one), count)
            gated = gated * gate * s
        store(scratch, at_gated + i * WIDTH, gated)
        sum_D = muladd(gated, x, sum_D)
    return sum_D


@kernel
def _step_back(scratch, shape, flags, place, inputs, outputs):
    """Walk one chunk of 16 channels back through the states of `_recompute`; write du and ddt, add to dA, dB and dC.

    Returns the chunk's part of the gradient of the bias.
    """
    _, _, u, _, _, B, C, D, _, _, _ = inputs
    du, ddt = outputs[0], outputs[1]
    _, length, channels, N = shape
    b, k, c, base = place
    (at_q, at_A, at_dA, _), (at_part, at_a, at_h, at_dB, at_dC, at_d, at_slope, at_gated), _ = _layout(N)
    count = channels - c
    tile = N * WIDTH
    zero, skip, sum_bias = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
    if flags[1]:
        skip = load_part(D, c, count)
    # Sums over time are taken per chunk first: one sum over 2**20 steps would lose three digits.
    for n in range(N):
        store(scratch, at_part + n * WIDTH, zero)
    for i in range(min(CHUNK, length - k * CHUNK) - 1, -1, -1):
        t = b * length + k * CHUNK + i
        row = t * channels + c
        d = load(scratch, at_d + i * WIDTH)
        gated = load(scratch, at_gated + i * WIDTH)
        x = load_part(u, row, count)
        dx = d * x
        rate, through = zero, zero
        for n in range(N):
            at = i * tile + n * WIDTH
            own = base + n * WIDTH
            gh = muladd(gated, spread(C, t * N + n), load(scratch, at_q + own))
            q = gh * load(scratch, at_a + at)
            store(scratch, at_q + own, q)
            s = q * load(scratch, at_h + at)
            store(scratch, at_part + n * WIDTH, muladd(s, d, load(scratch, at_part + n * WIDTH)))
            through = muladd(s, load(scratch, at_A + own), through)
            rate = muladd(gh, spread(B, t * N + n), rate)
            store(scratch, at_dB + at, muladd(gh, dx, load(scratch, at_dB + at)))
            h = load(scratch, at_h + tile + at)
            store(scratch, at_dC + at, muladd(gated, h, load(scratch, at_dC + at)))
        store_part(du, row, muladd(rate, d, gated * skip), count)
        change = muladd(rate, x, through * splat(_LN2)) * load(scratch, at_slope + i * WIDTH)
        store_part(ddt, row, change, count)
        sum_bias = sum_bias + change
    for n in range(N):
        at = at_dA + base + n * WIDTH
        store(scratch, at, load(scratch, at) + load(scratch, at_part + n * WIDTH))
    return sum_bias


@kernel
def _retreat(first, last, scratch, shape, flags, inputs, outputs):
    _, dh, _, _, A, _, _, _, _, _, _ = inputs
    _, _, dA, dB, dC, dD, _, dbias, dh0 = outputs
    batch, length, channels, N = shape
    blocks = (channels + BLOCK - 1) // BLOCK
    tile = N * WIDTH
    (at_q, at_A, at_dA, at_sums), (_, _, _, at_dB, at_dC, _, _, _), _ = _layout(N)
    zero = splat(np.float32(0))
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        c0 = block * BLOCK
        groups = (min(BLOCK, channels - c0) + WIDTH - 1) // WIDTH
        for g in range(groups):
            c, count = c0 + g * WIDTH, channels - c0 - g * WIDTH
            for n in range(N):
                at = g * tile + n * WIDTH
                q = zero
                if flags[4]:
                    q = load_part(dh, (b * N + n) * channels + c, count)
                store(scratch, at_q + at, q)
                store(scratch, at_A + at, load_part(A, n * channels + c, count))
                store(scratch, at_dA + at, zero)
            store(scratch, at_sums + 2 * g * WIDTH, zero)
            store(scratch, at_sums + (2 * g + 1) * WIDTH, zero)
        for k in range((length - 1) // CHUNK, -1, -1):
            steps = min(CHUNK, length - k * CHUNK)
            for at in range(0, steps * tile, WIDTH):
                store(scratch, at_dB + at, zero)
                store(scratch, at_dC + at, zero)
            for g in range(groups):
                place = (b, k, c0 + g * WIDTH, g * tile)
                at = at_sums + 2 * g * WIDTH
                part = _recompute(scratch, shape, flags, place, inputs, outputs)
                store(scratch, at, load(scratch, at) + part)
                part = _step_back(scratch, shape, flags, place, inputs, outputs)
                store(scratch, at + WIDTH, load(scratch, at + WIDTH) + part)
            for i in range(steps):
                column = ((block * batch + b) * length + k * CHUNK + i) * N
                for n in range(0, N, WIDTH):
                    at = i * tile + n * WIDTH
                    store_part(dB, column + n, totals(scratch, at_dB + at), N - n)
                    store_part(dC, column + n, totals(scratch, at_dC + at), N - n)
        for g in range(groups):
            c, count = c0 + g * WIDTH, channels - c0 - g * WIDTH
            for n in range(N):
                at = g * tile + n * WIDTH
                store_part(dA, (b * N + n) * channels + c, load(scratch, at_dA + at), count)
                store_part(dh0, (b * N + n) * channels + c, load(scratch, at_q + at), count)
            store_part(dD, b * channels + c, load(scratch, at_sums + 2 * g * WIDTH), count)
            store_part(dbias, b * channels + c, load(scratch, at_sums + (2 * g + 1) * WIDTH), count)


def backward(
    dy: Tensor,
    dh_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    chunk_states: Tensor,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (du, ddt, dA, dB, dC, dD, dz, dbias, dh0), each in its input's dtype."""
    batch, length, channels = u.shape
    N = A.shape[1]
    blocks = -(-channels // BLOCK)
    du, ddt = torch.empty(u.shape), torch.empty(u.shape)
    dz = None if z is None else torch.empty(u.shape)
    dA, dh0 = torch.empty(batch, N, channels), torch.empty(batch, N, channels)
    dB, dC = torch.empty(blocks, batch, length, N), torch.empty(blocks, batch, length, N)
    dD, dbias = torch.empty(batch, channels), torch.empty(batch, channels)
    flags = (softplus, *(tensor is not None for tensor in (D, z, bias, dh_last)))
    dh = None if dh_last is None else dh_last.transpose(1, 2)
    inputs = (dy, dh, u, dt, _scaled(A), B, C, D, z, bias, chunk_states)
    run_tasks(
        _retreat,
        batch * blocks,
        _layout(N)[-1],
        (batch, length, channels, N),
        flags,
        tuple(flat(tensor) for tensor in inputs),
        tuple(flat(tensor) for tensor in (du, ddt, dA, dB, dC, dD, dz, dbias, dh0)),
    )
    return (
        du.to(u.dtype),
        ddt.to(dt.dtype),
        sum_rows(dA).t().contiguous().to(A.dtype),
        sum_rows(dB).to(B.dtype),
        sum_rows(dC).to(C.dtype),
        None if D is None else sum_rows(dD).to(D.dtype),
        None if dz is None or z is None else dz.to(z.dtype),
        None if bias is None else sum_rows(dbias).to(bias.dtype),
        None if h0 is None else dh0.transpose(1, 2).contiguous().to(h0.dtype),
    )
