"""What the scan's Triton kernels share: tile shapes, places, rows of B and C, the step size.

A tile of states is [channels, N] and never leaves the registers: a lane has one channel, with all states where N is
16. Tiles of complex states are [N, channels], with four lanes on a channel. Chunks are counted in the order in which
they are processed: those of a reversed scan from the end.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.triton_parts import EXP2_SHORT

# Integer arguments that change from call to call. Triton would compile again for 1 and for multiples of 16, and would
# let the alignment of a row decide how channels are spread over the lanes.
SIZES: Final = [
    "length", "channels", "chunk", "chunks", "channel_blocks", "first", "segment", "groups", "known", "blocks",
]  # fmt: skip


class TileShape(NamedTuple):
    """Channels per program, N rounded up to a power of two, and how to compile: warps, and registers where limited."""

    channels: int
    states: int
    options: dict[str, int]

    @property
    def constants(self) -> dict[str, int]:
        """What the kernel is told of it."""
        return {"BN": self.states, "BD": self.channels, "WARPS": self.options["num_warps"]}


class Tile(NamedTuple):
    """Channels per program for N up to 64, states that a lane of 32 holds, and registers that NVIDIA's may have."""

    channels: int
    per_lane: int
    registers: int | None = None


# An H100 multiprocessor holds 28 programs of the first two, 8 and 12 of the others.
TILES: Final[dict[str, Tile]] = {
    "chunk_ends": Tile(32, 16),
    "outputs": Tile(32, 16),
    "sweep_forward": Tile(32, 16),
    "sweep_backward": Tile(32, 16, 168),
}


def tile_shape(kernel: str, d_state: int) -> TileShape:
    """Return the tile of a kernel.

    Examples
    --------
    >>> tuple(tile_shape("outputs", 16)), tuple(tile_shape("outputs", 200))
    ((32, 16, {'num_warps': 1}), (16, 256, {'num_warps': 8}))
    """
    states = 1 << (d_state - 1).bit_length()
    channels, per_lane, registers = TILES[kernel]
    if states > 64:
        channels = min(channels, 16)
    options = {"num_warps": max(1, states * channels // (32 * per_lane))}
    # Other backends do not know the option.
    if registers is not None and torch.version.hip is None and torch.version.xpu is None:
        options["maxnreg"] = registers
    return TileShape(channels, states, options)


def blocks_of(tile: TileShape, channels: int, groups: int) -> int:
    """Return into how many blocks of a tile's channels the groups of channels fall; no block has two groups."""
    return groups * -(-(channels // groups) // tile.channels)


def form_of(projection: Tensor) -> int:
    """Return what B or C is: 0 rows for all channels, 1 rows for each group of channels, 2 constant in time."""
    return {3: 0, 4: 1, 2: 2}[projection.dim()]


def groups_of(B: Tensor, C: Tensor) -> int:
    """Return in how many groups the channels fall; B and C agree where both have groups."""
    return int(B.shape[2] if B.dim() == 4 else C.shape[2] if C.dim() == 4 else 1)


def rows_taken(rows: slice, batch: int) -> Callable[[Tensor], Tensor]:
    """Return how to take these rows out of a tensor of `batch` rows."""
    return (lambda tensor: tensor) if rows.stop - rows.start == batch else (lambda tensor: tensor[rows])


def halves(du: Tensor, ddt: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Return where `ea` may lie until du and ddt are written, and whether it is cut into two halves."""
    if ddt.element_size() == 4:
        return ddt, ddt, False
    if du.element_size() == 4:
        return du, du, False
    return du.view(torch.int16), ddt.view(torch.int16), True


@triton.jit
def program_place(
    table_ptr, length, channels, chunk, chunks, channel_blocks, first, segment, groups,
    BD: tl.constexpr, STEP: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Return where a program works, for a segment of `segment` chunks that begins with chunk `first`.

    All axes lie on the grid's x axis, which alone may exceed 65,535. Channel blocks are innermost: programs that run
    together read the same rows of B and C. No block has channels of two groups.

    Returns
    -------
    flat : int
        Chunk in the segment, over all batch rows.
    owner : int
        Batch row or sequence.
    part : int
        Chunk over all batch rows.
    entering : int
        Where the state that enters the chunk is stored; negative if that is h0 or zero.
    row, steps : int
        First row of memory that is processed and how many there are.
    last : bool
        Whether it is the last chunk of its owner.
    block, group : int
    channel, exists : tile
        Channels, and whether there are such.
    """
    pid = tl.program_id(0)
    flat = (pid // channel_blocks).to(tl.int64)
    block = pid % channel_blocks
    per_group = channel_blocks // groups
    group = block // per_group
    width = channels // groups
    channel = (block % per_group) * BD + tl.arange(0, BD)
    exists = channel < width
    channel += group * width
    if PACKED:
        part = first + flat
        entering = part
        row = tl.load(table_ptr + part * 4)
        steps = tl.load(table_ptr + part * 4 + 1).to(tl.int32)
        owner = tl.load(table_ptr + part * 4 + 2)
        last = tl.load(table_ptr + part * 4 + 3) != 0
    else:
        owner = flat // segment
        c = (first + flat % segment).to(tl.int32)
        part = owner * chunks + c
        entering = tl.where(c > 0, owner * (chunks - 1) + c - 1, -1)
        steps = tl.minimum(chunk, length - c * chunk)
        row = owner * length + (length - 1 - c * chunk if STEP < 0 else c * chunk)
        last = c == chunks - 1
    return flat, owner, part, entering, row, steps, last, block, group, channel, exists


@triton.jit
def rows_of(pointer, row, group, groups, N: tl.constexpr, FORM: tl.constexpr):
    """Return the pointer to B or C at a row, and how far apart rows are."""
    if FORM == 1:
        return pointer + (row * groups + group) * N, groups * N
    elif FORM == 0:
        return pointer + row * N, N
    else:
        return pointer, 0


@triton.jit
def tile_of(pointer, channel, exists, n, N: tl.constexpr, FORM: tl.constexpr, WARPS: tl.constexpr):
    """Read a constant B or C as a [BD, N] tile; 0, to be ignored, if it varies."""
    if FORM == 2:
        return load_tile(pointer, tile_offsets(channel, n, N), exists[:, None] & (n[None, :] < N), WARPS)
    else:
        return 0.0


@triton.jit
def widened(x):
    """Return a tile in float32.

    bfloat16 is the upper half of a float32. Said in bits, the upper one of two that share a register is masked in
    place, which the compiler's own conversion takes out first.
    """
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def projection(pointer, tile, n, present, N: tl.constexpr, FORM: tl.constexpr):
    """Return B or C at one step in float32 as a [BD, N] or [1, N] tile, zero where there is no step or state."""
    if FORM == 2:
        return tile
    else:
        return widened(tl.load(pointer + n, mask=(n < N) & present, other=0.0))[None, :]


@triton.jit
def row_offsets(channel, CHANNELS: tl.constexpr, STEP: tl.constexpr):
    """Return the offsets of a [BD, 4] tile, four steps of a block of channels.

    In 64 bits and with constants, the four rows are one address and what an instruction adds to it: with the number of
    channels an argument, addresses took a quarter of the registers.
    """
    return (tl.arange(0, 4) * (STEP * CHANNELS))[None, :] + channel[:, None].to(tl.int64)


@triton.jit
def flat(tile, WARPS: tl.constexpr):
    """Return a [BD, N] tile as a vector, channels innermost.

    The compiler spreads a vector whose addresses it cannot foresee evenly: over lanes, warps, and then what each lane
    has. A lane so has all states of a channel, or a run of them, and what is summed over states stays in it. A tile
    that is loaded as such is spread along its contiguous states instead.
    """
    BD: tl.constexpr = tile.shape[0]
    BN: tl.constexpr = tile.shape[1]
    SHARES: tl.constexpr = WARPS * 32 // BD if WARPS * 32 > BD else 1
    return tl.reshape(tl.permute(tl.reshape(tile, [BD, SHARES, BN // SHARES]), (2, 1, 0)), [BD * BN])


@triton.jit
def load_tile(pointer, offsets, mask, WARPS: tl.constexpr):
    """Read a [BD, N] tile in float32, zero where masked."""
    BD: tl.constexpr = offsets.shape[0]
    BN: tl.constexpr = offsets.shape[1]
    SHARES: tl.constexpr = WARPS * 32 // BD if WARPS * 32 > BD else 1
    vector = tl.load(pointer + flat(offsets, WARPS), mask=flat(mask, WARPS), other=0.0).to(tl.float32)
    return tl.reshape(tl.permute(tl.reshape(vector, [BN // SHARES, SHARES, BD]), (2, 1, 0)), [BD, BN])


@triton.jit
def store_tile(pointer, offsets, tile, mask, WARPS: tl.constexpr):
    """Write a [BD, N] tile."""
    tl.store(pointer + flat(offsets, WARPS), flat(tile, WARPS), mask=flat(mask, WARPS))


@triton.jit
def tile_offsets(channel, n, N: tl.constexpr):
    """Return the offsets of a [BD, N] tile in a (D, N) array."""
    return channel[:, None] * N + n[None, :]


@triton.jit
def kept_offsets(channel, n, CHANNELS: tl.constexpr):
    """Return the offsets of a [BD, N] tile in a (N, D) array: what the sweeps keep for each other."""
    return channel[:, None].to(tl.int64) + n[None, :] * CHANNELS


@triton.jit
def entering_state(
    states_ptr, start_ptr, entering, owner, CHANNELS: tl.constexpr, state, mask, N: tl.constexpr,
    WARPS: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """Read the state that enters a chunk: what is stored for it, or h0, or zero."""
    size = CHANNELS * N
    stored = entering >= 0
    h = load_tile(states_ptr + tl.where(stored, entering, 0) * size, state, mask & stored, WARPS)
    if HAS_START:
        h += load_tile(start_ptr + owner * size, state, mask & (entering < 0), WARPS)
    return h


@triton.jit
def decay_rates(A_ptr, channel, n, exists, N: tl.constexpr, WARPS: tl.constexpr):
    """Read A as a [BD, N] tile times log2(e), so that a decay is one exp2."""
    mask = exists[:, None] & (n[None, :] < N)
    return load_tile(A_ptr, tile_offsets(channel, n, N), mask, WARPS) * 1.4426950408889634


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x), which is 0 where e^-x overflows."""
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def softplus(x):
    """Return log(1 + e^x) with a relative error of 6e-8 (root mean square), 3e-7 at most, and its derivative.

    max(x, 0) + log1p(e) with e = exp(-|x|), and log1p(e) = 2 artanh(s), s = e / (2 + e) <= 1/3, as a polynomial in s^2
    fitted on that range, 8e-9 off. log(1 + e) would lose half the digits where steps are small (e^x = 1e-3). exp2 takes
    |x| log2(e), whose rounding alone costs |x| 2^-24 of e: what product and constant lost is put back. Above 20 the
    result is x in float32, as in the official code; below -87 it stays at e^-87. NaN stays NaN.
    """
    negative = tl.maximum(-tl.abs(x), -87.0)
    product = negative * 1.4426950216293335
    lost = tl.fma(negative, 1.4426950216293335, -product) + negative * 1.9259629911e-8
    e = tl.exp2(product)
    e += e * (lost * 0.6931471805599453 + 0.6931471805599453 * EXP2_SHORT)
    s = e * (1.0 / (2.0 + e))
    s2 = s * s
    series = 0.27960602954319147 + s2 * 0.2817833729753231
    series = 0.4002491024050605 + s2 * series
    series = 0.6666631468404248 + s2 * series
    slope = tl.where(x < 0.0, e, 1.0) * (1.0 / (1.0 + e))
    return (tl.where(x < 0.0, 0.0, x) + 2.0 * s) + (s * s2) * series, slope


@triton.jit
def step_size(x, valid, SOFTPLUS: tl.constexpr):
    """Return d and its derivative by x; both zero, the identity step, where a step does not exist."""
    if SOFTPLUS:
        # softplus(bias) would not be zero there; e^-87 is, beside anything.
        return softplus(tl.where(valid, x, -87.0))
    else:
        return tl.where(valid, x, 0.0), tl.where(valid, 1.0, 0.0)


@triton.jit
def store_halves(high_ptr, low_ptr, offsets, value, mask, SPLIT: tl.constexpr):
    """Store a float32, as two halves into two arrays of 16 bits where `SPLIT`, else into the first array."""
    if SPLIT:
        bits = value.to(tl.uint32, bitcast=True)
        tl.store(high_ptr + offsets, (bits >> 16).to(tl.uint16).to(tl.int16, bitcast=True), mask=mask)
        tl.store(low_ptr + offsets, (bits & 0xFFFF).to(tl.uint16).to(tl.int16, bitcast=True), mask=mask)
    else:
        tl.store(high_ptr + offsets, value, mask=mask)


@triton.jit
def load_halves(high_ptr, low_ptr, offsets, mask, SPLIT: tl.constexpr):
    """Read what `store_halves` wrote."""
    if SPLIT:
        high = tl.load(high_ptr + offsets, mask=mask, other=0).to(tl.uint16, bitcast=True).to(tl.uint32)
        low = tl.load(low_ptr + offsets, mask=mask, other=0).to(tl.uint16, bitcast=True).to(tl.uint32)
        return ((high << 16) | low).to(tl.float32, bitcast=True)
    else:
        return tl.load(high_ptr + offsets, mask=mask, other=0.0)


@triton.jit
def correction(running, exact, plain, summed, STRIDE: tl.constexpr):
    """Return how much W's error, `running` less `exact`, has put into dbias.

    With slope_k of the k-th step that W walked, `plain` is their sum and `summed` that of `plain` after each step.
    """
    return (running - exact) * ((STRIDE + 1) * plain - summed) * (1.0 / STRIDE)
