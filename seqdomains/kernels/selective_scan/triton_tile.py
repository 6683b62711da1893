"""What the scan's Triton kernels share: tile shapes, places, rows of B and C, the step size, the pass over chunks.

A tile of states is [N, channels] and never leaves the registers.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Final, NamedTuple

import triton
import triton.language as tl

from seqdomains.kernels.triton_parts import columns, from_columns

# Integer arguments that change from call to call. Triton would compile again for 1 and for multiples of 16, and would
# let the alignment of a row decide how channels are spread over the lanes.
SIZES: Final = ["length", "channels", "chunk", "chunks", "channel_blocks", "first", "segment", "known", "blocks"]


class TileShape(NamedTuple):
    """Channels per program, N rounded up to a power of two, and warps per program."""

    channels: int
    states: int
    warps: int


def tile_shape(d_state: int, *, per_lane: int = 16) -> TileShape:
    """Choose the tile so that a lane of 32 holds `per_lane` states, or fewer when N is small.

    Examples
    --------
    >>> tile_shape(16), tile_shape(256, per_lane=8)
    (TileShape(channels=32, states=16, warps=1), TileShape(channels=8, states=256, warps=8))
    """
    states = 1 << (d_state - 1).bit_length()
    channels = 2 * per_lane if states <= 64 else per_lane
    return TileShape(channels, states, max(1, states * channels // (32 * per_lane)))


@triton.jit
def program_place(channels, chunks, channel_blocks, BD: tl.constexpr):
    """Return the program's flat chunk, batch row, chunk in the row, block of channels, channels, and which exist.

    All axes lie on the grid's x axis, which alone may exceed 65,535. Channel blocks are innermost: programs that run
    together read the same rows of B and C.
    """
    pid = tl.program_id(0)
    flat = pid // channel_blocks
    block = pid % channel_blocks
    channel = block * BD + tl.arange(0, BD)
    return flat.to(tl.int64), (flat // chunks).to(tl.int64), flat % chunks, block, channel, channel < channels


@triton.jit
def one_row(pointer, n, N: tl.constexpr, present):
    """Read the N values of B or C at one step in float32, zero beyond N and where the step does not exist."""
    return tl.load(pointer + n, mask=(n < N) & present, other=0.0).to(tl.float32)


@triton.jit
def state_offsets(channel, n, N: tl.constexpr):
    """Return the offsets of a [N, BD] tile in a (D, N) array."""
    return channel[None, :] * N + n[:, None]


@triton.jit
def advance(h, d, u, B_t, A2):
    """Return h_t from h_{t-1}; A2 = A log2(e)."""
    return tl.exp2(d[None, :] * A2) * h + B_t[:, None] * (d * u)[None, :]


@triton.jit
def decay_rates(A_ptr, channel, n, N: tl.constexpr, exists):
    """Read A as a [N, BD] tile times log2(e), so that a decay is one exp2."""
    mask = (n[:, None] < N) & exists[None, :]
    return tl.load(A_ptr + state_offsets(channel, n, N), mask=mask, other=0.0).to(tl.float32) * 1.4426950408889634


@triton.jit
def softplus(x):
    """Return log(1 + e^x) with a relative error of 4e-8 in the mean and 3e-7 at most; NaN stays NaN.

    max(x, 0) + log1p(e) with e = exp(-|x|), and log1p(e) = 2 artanh(s), s = e / (2 + e) <= 1/3, as a series in s^2
    whose first neglected term is 1.4e-8. log(1 + e) would lose half the digits where steps are small (e^x = 1e-3).
    exp2 takes |x| log2(e), whose rounding alone costs |x| 2^-24 of e: what product and constant lost is put back.
    Above 20 the result is x in float32, as in the official code; below -87 it stays at e^-87.
    """
    negative = tl.maximum(-tl.abs(x), -87.0)
    product = negative * 1.4426950216293335
    lost = tl.fma(negative, 1.4426950216293335, -product) + negative * 1.9259629911e-8
    e = tl.exp2(product)
    e += e * (lost * 0.6931471805599453)
    s = e / (2.0 + e)
    s2 = s * s
    series = 1.0 / 11.0 + s2 * (1.0 / 13.0)
    series = 1.0 / 9.0 + s2 * series
    series = 1.0 / 7.0 + s2 * series
    series = 1.0 / 5.0 + s2 * series
    series = 1.0 / 3.0 + s2 * series
    return tl.where(x < 0.0, 0.0, x) + 2.0 * s * (1.0 + s2 * series)


@triton.jit
def step_size(x, valid, SOFTPLUS: tl.constexpr):
    """Return d; zero, the identity step, where a step does not exist (softplus(bias) would not be zero there)."""
    d = x
    if SOFTPLUS:
        d = softplus(x)
    return tl.where(valid, d, 0.0)


@triton.jit
def four_chunks(sums_ptr, states_ptr, place, i, known, exists, A2, channels, N: tl.constexpr):
    """Read the decays and the ends of four chunks as [BLOCK, 4] tiles; chunks past `known` have neither."""
    mask = exists[:, None] & ((place >= 0) & (place < known))[None, :]
    total = tl.load(sums_ptr + place[None, :] * channels + (i // N)[:, None], mask=mask, other=0.0)
    ends = tl.load(states_ptr + place[None, :] * channels * N + i[:, None], mask=mask, other=0.0)
    return tl.exp2(A2[:, None] * total), ends


@triton.jit
def through_four(h, decays, ends, BLOCK: tl.constexpr):
    """Carry h through four chunks; return it and the [BLOCK, 4] states that enter them."""
    a0, a1, a2, a3 = columns(decays, BLOCK)
    e0, e1, e2, e3 = columns(ends, BLOCK)
    h1 = a0 * h + e0
    h2 = a1 * h1 + e1
    h3 = a2 * h2 + e2
    return a3 * h3 + e3, from_columns(h, h1, h2, h3, BLOCK)


@triton.jit(do_not_specialize=SIZES)
def pass_states(
    A_ptr, start_ptr, end_ptr, sums_ptr, states_ptr, channels, chunks, known, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr, HAS_START: tl.constexpr, WRITE_END: tl.constexpr,
):  # fmt: skip
    """Turn what each chunk adds to the carry into the carry that enters it, in place, in time order or reversed.

    The carry enters chunk c + 1 as exp(A S_c) carry_c + added_c, with S the chunk's sum of d. A program owns BLOCK of a
    batch row's D N states. Sixteen chunks are read before the first is written: the walk waits for memory only.
    """
    pid = tl.program_id(0)
    batch = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = i < channels * N
    A2 = tl.load(A_ptr + i, mask=exists, other=0.0).to(tl.float32) * 1.4426950408889634
    carry = tl.zeros([BLOCK], tl.float32)
    if HAS_START:
        carry = tl.load(start_ptr + batch * channels * N + i, mask=exists, other=0.0).to(tl.float32)
    states_ptr += batch * chunks * channels * N
    sums_ptr += batch * chunks * channels
    for c in range(0, chunks, 16):
        p0 = (c + tl.arange(0, 4)).to(tl.int64)
        if REVERSE:
            p0 = chunks - 1 - p0
        ahead = -4 if REVERSE else 4
        p1 = p0 + ahead
        p2 = p1 + ahead
        p3 = p2 + ahead
        a0, e0 = four_chunks(sums_ptr, states_ptr, p0, i, known, exists, A2, channels, N)
        a1, e1 = four_chunks(sums_ptr, states_ptr, p1, i, known, exists, A2, channels, N)
        a2, e2 = four_chunks(sums_ptr, states_ptr, p2, i, known, exists, A2, channels, N)
        a3, e3 = four_chunks(sums_ptr, states_ptr, p3, i, known, exists, A2, channels, N)
        carry, h0 = through_four(carry, a0, e0, BLOCK)
        carry, h1 = through_four(carry, a1, e1, BLOCK)
        carry, h2 = through_four(carry, a2, e2, BLOCK)
        carry, h3 = through_four(carry, a3, e3, BLOCK)
        write_four_chunks(states_ptr, p0, i, chunks, exists, h0, channels, N)
        write_four_chunks(states_ptr, p1, i, chunks, exists, h1, channels, N)
        write_four_chunks(states_ptr, p2, i, chunks, exists, h2, channels, N)
        write_four_chunks(states_ptr, p3, i, chunks, exists, h3, channels, N)
    if WRITE_END:
        tl.store(end_ptr + batch * channels * N + i, carry, mask=exists)


@triton.jit
def write_four_chunks(states_ptr, place, i, chunks, exists, h, channels, N: tl.constexpr):
    """Write the states entering four chunks."""
    mask = exists[:, None] & ((place >= 0) & (place < chunks))[None, :]
    tl.store(states_ptr + place[None, :] * channels * N + i[:, None], h, mask=mask)
