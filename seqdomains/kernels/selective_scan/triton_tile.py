"""What the scan's Triton kernels share: tile shapes, the step size, and four time steps as one tile.

A tile of states is [N, channels] and never leaves the registers. The rows of u, dt, z and dy are read four steps at a
time as [channels, 4], because a store may alias the next load: all loads of four steps come first, all stores last
(one load and one store per step ran 2 to 4 times slower on an H100). The four columns are taken apart by split, since
Triton 3.2 has no tuples that grow in a loop.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

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


def given(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """Return a pointer to pass for an absent tensor; the kernel's flag keeps it from being read."""
    return stand_in if tensor is None else tensor


def on_device_of(tensor: Tensor) -> torch.cuda.device_of:
    """Make the tensor's GPU the current one for a launch; nothing happens for other devices."""
    return torch.cuda.device_of(tensor)


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
def columns(tile, BD: tl.constexpr):
    """Take a [BD, 4] tile apart into its four columns."""
    even, odd = tl.split(tl.reshape(tile, [BD, 2, 2]))
    c0, c2 = tl.split(even)
    c1, c3 = tl.split(odd)
    return c0, c1, c2, c3


@triton.jit
def from_columns(c0, c1, c2, c3, BD: tl.constexpr):
    """Put four columns together to a [BD, 4] tile."""
    return tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), [BD, 4])


@triton.jit
def four_rows(pointer, offsets, mask):
    """Read a [BD, 4] tile of steps in float32, zero where masked."""
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


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
def channel_values(pointer, channel, exists, GIVEN: tl.constexpr):
    """Read D or bias in float32; zero if it is absent."""
    if GIVEN:
        return tl.load(pointer + channel, mask=exists, other=0.0).to(tl.float32)
    else:
        return tl.zeros(channel.shape, tl.float32)


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
def sigmoid(x):
    """Return 1 / (1 + e^-x) without overflow on either side."""
    e = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def step_size(x, valid, SOFTPLUS: tl.constexpr):
    """Return d; zero, the identity step, where a step does not exist (softplus(bias) would not be zero there)."""
    d = x
    if SOFTPLUS:
        d = softplus(x)
    return tl.where(valid, d, 0.0)
