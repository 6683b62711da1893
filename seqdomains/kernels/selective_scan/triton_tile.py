"""What the scan's Triton kernels share: tile shapes, places, rows of B and C, the step size.

A tile of states is [N, channels] and never leaves the registers.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Final, NamedTuple

import triton
import triton.language as tl

# Integer arguments that change from call to call. Triton would compile again for 1 and for multiples of 16, and would
# let the alignment of a row decide how channels are spread over the lanes.
SIZES: Final = ["length", "channels", "chunk", "chunks", "channel_blocks", "first", "segment", "blocks"]


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
    """Return log(1 + e^x) to about one unit in the last place.

    max(x, 0) + log1p(e) with e = exp(-|x|), and log1p(e) = 2 artanh(s), s = e / (2 + e) <= 1/3, as a series in s^2
    whose first neglected term is 1.4e-8. log(1 + e) would lose half the digits where steps are small (e^x = 1e-3).
    Above 20 the result is x in float32, as in the official code.
    """
    e = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    s = e / (2.0 + e)
    s2 = s * s
    series = 1.0 / 11.0 + s2 * (1.0 / 13.0)
    series = 1.0 / 9.0 + s2 * series
    series = 1.0 / 7.0 + s2 * series
    series = 1.0 / 5.0 + s2 * series
    series = 1.0 / 3.0 + s2 * series
    return tl.maximum(x, 0.0) + 2.0 * s * (1.0 + s2 * series)


@triton.jit
def step_size(x, valid, SOFTPLUS: tl.constexpr):
    """Return d; zero, the identity step, where a step does not exist (softplus(bias) would not be zero there)."""
    d = x
    if SOFTPLUS:
        d = softplus(x)
    return tl.where(valid, d, 0.0)
