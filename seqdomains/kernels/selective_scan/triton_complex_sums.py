"""Sums over the states and over the channels of a tile in the sweeps over complex states, and where dB and dC go."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from seqdomains.kernels.triton_parts import columns


@triton.jit
def sum_states(tile, BN: tl.constexpr, BD: tl.constexpr):
    """Add a [N, BD] tile over its states."""
    if BN == 16:
        # Lanes hold four states of a channel each. A butterfly over them would leave each sum in all of four lanes;
        # taking the four parts apart brings them to one.
        c0, c1, c2, c3 = columns(tl.trans(tl.sum(tl.reshape(tile, [4, 4, BD]), 1)), BD)
        return (c0 + c1) + (c2 + c3)
    else:
        return tl.sum(tile, 0)


@triton.jit
def channel_part(tile, factor, BN: tl.constexpr, BD: tl.constexpr, FORM: tl.constexpr):
    """Multiply a [N, BD] tile by a factor per channel and add over channels as far as a lane has several."""
    tile = tile * factor[None, :]
    if FORM == 2:
        return tile
    elif BN == 16:
        return tl.sum(tl.reshape(tile, [BN, BD // 8, 8]), 1)
    else:
        return tl.sum(tile, 1)


@triton.jit
def pair_part(xr, xi, factor, BN: tl.constexpr, BD: tl.constexpr, FORM: tl.constexpr, COMPLEX: tl.constexpr):
    """Do `channel_part` for a pair; the second part counts only if B or C is complex."""
    real = channel_part(xr, factor, BN, BD, FORM)
    if COMPLEX:
        return real, channel_part(xi, factor, BN, BD, FORM)
    else:
        return real, real


@triton.jit
def finish_sums(
    pointer, total, p0, p1, p2, p3, BN: tl.constexpr, N: tl.constexpr, FORM: tl.constexpr, PARTS: tl.constexpr = 1
):
    """Add four steps' `channel_part` over channels and store four rows of dB or dC, or if it is constant add to it.

    Numbers of a row lie `PARTS` apart.
    """
    # The buffer holds whole chunks, so rows past the end may be written: nothing reads them.
    if FORM == 2:
        total += (p0 + p1) + (p2 + p3)
    elif BN == 16:
        # Eight lanes hold a part of each sum. Taken apart they lie in one, which is a third of the work of a butterfly.
        parts = tl.reshape(tl.join(tl.join(p0, p2), tl.join(p1, p3)), [BN, 8, 4])
        low, high = tl.split(tl.reshape(tl.permute(parts, (2, 0, 1)), [4 * BN, 2, 2, 2]))
        a, b = tl.split(low)
        c, d = tl.split(high)
        a0, a1 = tl.split(a)
        b0, b1 = tl.split(b)
        c0, c1 = tl.split(c)
        d0, d1 = tl.split(d)
        i = tl.arange(0, 4 * BN)
        place = PARTS * (i // BN * N + i % BN)
        tl.store(pointer + place, ((a0 + a1) + (b0 + b1)) + ((c0 + c1) + (d0 + d1)), mask=i % BN < N)
    else:
        n = tl.arange(0, BN)
        tl.store(pointer + PARTS * n, p0, mask=n < N)
        tl.store(pointer + PARTS * (N + n), p1, mask=n < N)
        tl.store(pointer + PARTS * (2 * N + n), p2, mask=n < N)
        tl.store(pointer + PARTS * (3 * N + n), p3, mask=n < N)
    return total


@triton.jit
def finish_pairs(
    pointer, total_r, total_i, p0, i0, p1, i1, p2, i2, p3, i3,
    BN: tl.constexpr, N: tl.constexpr, FORM: tl.constexpr, COMPLEX: tl.constexpr,
):  # fmt: skip
    """Do `finish_sums` for four steps' `pair_part`, whose rows have real and imaginary parts in turn."""
    if COMPLEX:
        total_r = finish_sums(pointer, total_r, p0, p1, p2, p3, BN, N, FORM, 2)
        total_i = finish_sums(pointer + 1, total_i, i0, i1, i2, i3, BN, N, FORM, 2)
    else:
        total_r = finish_sums(pointer, total_r, p0, p1, p2, p3, BN, N, FORM)
    return total_r, total_i


@triton.jit
def store_constant(pointer, flat, size, state, mask, xr, xi, COMPLEX: tl.constexpr):
    """Write a chunk's gradient of a constant B or C."""
    if COMPLEX:
        pointer += flat * (2 * size)
        tl.store(pointer + 2 * state, xr, mask=mask)
        tl.store(pointer + (2 * state + 1), xi, mask=mask)
    else:
        tl.store(pointer + (flat * size + state), xr, mask=mask)
