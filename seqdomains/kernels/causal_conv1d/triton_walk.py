"""Walking along time: which steps a program takes, and the four-step rows that both directions of the convolution read.

The steps of a sequence are cut into chunks. A program takes the same block of channels of several chunks as one
[chunks, channels] tile and walks along time with the last three inputs in registers, so that each element is read once
and each lane moves four neighbouring channels per access. Nothing passes between lanes.

Steps are numbered in the order of processing: with REVERSE, step 0 is the last row of the sequence.

Packed sequences need no table and no word from the host: sequence s owns the slots from cu_seqlens[s] // T + s on,
which are at least as many as its chunks, so that the grid has length // T + sequences slots, and a program finds the
sequence of a slot by bisection.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Tile(NamedTuple):
    """What a program holds: warps, neighbouring channels per lane, and the most channels side by side."""

    warps: int
    per_lane: int
    channels: int


class Walk(NamedTuple):
    """A launch: steps per chunk, chunks, channels and warps per program, programs along time and across channels."""

    steps: int
    chunks: int
    channels: int
    warps: int
    parts: int
    blocks: int


# Enough chunks for every multiprocessor of today's cards to have some to switch between; a chunk is shortened for that,
# down to the fewest steps, and reads six steps that its neighbours read too.
CHUNKS = 1536
FEWEST_STEPS = 32
MOST_PACKED = 8


def walk(x: Tensor, cu_seqlens: Tensor | None, tile: Tile, most_steps: int) -> Walk:
    """Cut x, shape (B, L, D), into chunks of a power of two steps."""
    batch, length, channels = x.shape
    wide = min(tile.channels, 1 << (channels - 1).bit_length())
    # A last block that is less than half full costs more than narrower ones.
    if wide > 64 and 0 < channels % wide <= wide // 2:
        wide //= 2
    blocks = -(-channels // wide)
    share = max(1, batch * length * blocks // CHUNKS)
    steps = max(FEWEST_STEPS, min(most_steps, 1 << (share.bit_length() - 1)))
    chunks, warps = max(1, 32 * tile.warps * tile.per_lane // wide), tile.warps
    if cu_seqlens is None:
        slots = batch * -(-length // steps)
    else:
        slots = length // steps + cu_seqlens.shape[0] - 1
        # Their search is written out chunk by chunk.
        chunks = min(chunks, MOST_PACKED)
        warps = max(1, min(warps, chunks * wide // (32 * tile.per_lane)))
    return Walk(steps, chunks, wide, warps, -(-slots // chunks), blocks)


def bisections(sequences: int) -> int:
    """Return how many halvings find one of so many sequences."""
    return max(0, (sequences - 1).bit_length())


@triton.jit
def chunks_of_rows(slot, group, sequences, length, T):
    """Return the sequences, first steps, rows (int64) and steps left of the slots from `slot` on, and the most steps.

    A slot that no sequence owns has no steps left.
    """
    chunks = tl.cdiv(length, T)
    sequence = (slot + group) // chunks
    # A slot beyond the last row begins nothing.
    first = tl.where(sequence < sequences, ((slot + group) % chunks) * T, T)
    left = tl.where(sequence < sequences, length - first, 0)
    return sequence.to(tl.int64), first, sequence.to(tl.int64) * length + first, left, tl.minimum(length, T)


@triton.jit
def packed_chunks(slot, group, cu_ptr, sequences, bisections, T, G: tl.constexpr):
    """Return what `chunks_of_rows` does where sequences lie end to end.

    The search is for one slot and in scalars: the slot after belongs to the same sequence or to the next, and a vector
    of loaded numbers would be moved between lanes, as masks, in every round of the walk.
    """
    sequence = 0
    stride = 1
    for _ in range(bisections):
        stride *= 2
    for _ in range(bisections):
        stride = stride // 2
        start = tl.load(cu_ptr + sequence + stride, mask=sequence + stride < sequences, other=0)
        if (sequence + stride < sequences) & (start // T + sequence + stride <= slot):
            sequence += stride
    sequence_of = group * 0
    first_of = group * 0
    left_of = group * 0
    row_of = group.to(tl.int64)
    # One round at least: an empty sequence has a gradient of its state, which is zero.
    longest = 1
    for g in tl.static_range(G):
        start = tl.load(cu_ptr + sequence + 1)
        if (sequence + 1 < sequences) & (start // T + sequence + 1 <= slot + g):
            sequence += 1
        start = tl.load(cu_ptr + sequence)
        first = ((slot + g - sequence - start // T) * T).to(tl.int32)
        left = (tl.load(cu_ptr + sequence + 1) - start).to(tl.int32) - first
        longest = tl.maximum(longest, tl.minimum(left, T))
        sequence_of = tl.where(group == g, sequence, sequence_of)
        first_of = tl.where(group == g, first, first_of)
        left_of = tl.where(group == g, left, left_of)
        row_of = tl.where(group == g, start.to(tl.int64) + first, row_of)
    return sequence_of.to(tl.int64), first_of, row_of, left_of, longest


@triton.jit
def place(cu_ptr, sequences, length, channels, bisections, T,
          G: tl.constexpr, BD: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr):  # fmt: skip
    """Return where a program's G chunks and BD channels lie.

    These are the chunks' sequences, first steps and steps left, the most steps that one of them has, the offsets of
    their first elements [G, BD] (int64), the offset from a step to the next, the channels and which of them exist.
    """
    blocks = tl.cdiv(channels, BD)
    channel = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    slot = (tl.program_id(0) // blocks) * G
    group = tl.arange(0, G)
    if PACKED:
        sequence, first, row, left, longest = packed_chunks(slot, group, cu_ptr, sequences, bisections, T, G)
    else:
        sequence, first, row, left, longest = chunks_of_rows(slot, group, sequences, length, T)
    if REVERSE:
        # The sequence's last row, less the steps before the chunk.
        row += left - first - 1
        onward = -channels
    else:
        onward = channels
    at = (row * channels)[:, None] + channel[None, :]
    return sequence, first, left, longest, at, onward, channel, channel < channels


@triton.jit
def row_before(x_ptr, at, onward, state_ptr, state_at, first, left, channels, exists,
               BACK: tl.constexpr, WIDTH: tl.constexpr, HAS_STATE: tl.constexpr):  # fmt: skip
    """Read the inputs BACK steps before the chunks in float32: rows of x, or of the state where a sequence begins."""
    if BACK >= WIDTH:
        return tl.zeros(at.shape, tl.float32)
    else:
        x = tl.load(x_ptr + at - BACK * onward, mask=((first > 0) & (left > 0))[:, None] & exists, other=0.0)
        x = x.to(tl.float32)
        if HAS_STATE:
            given = tl.load(
                state_ptr + state_at + (WIDTH - 1 - BACK) * channels, mask=(first == 0)[:, None] & exists, other=0.0
            )
            x += given.to(tl.float32)
        return x


@triton.jit
def tap(weight_ptr, channel, exists, K: tl.constexpr, WIDTH: tl.constexpr):
    """Read tap K of four in float32; the first 4 - WIDTH are zero."""
    if K >= 4 - WIDTH:
        return tl.load(weight_ptr + channel * WIDTH + (K - (4 - WIDTH)), mask=exists, other=0.0).to(tl.float32)[None, :]
    else:
        return tl.zeros(channel.shape, tl.float32)[None, :]


@triton.jit
def weighted(shift, w0, w1, w2, w3, x0, x1, x2, x3, WIDTH: tl.constexpr):
    """Return shift + w3 x3 + ... with WIDTH terms, the last ones."""
    s = shift + w3 * x3 + w2 * x2
    if WIDTH > 2:
        s += w1 * x1
    if WIDTH > 3:
        s += w0 * x0
    return s


@triton.jit
def silu_gate(s):
    """Return sigmoid(s); e^-s may overflow, to a gate of zero.

    As the square of one over a root, it takes three instructions less than a quotient, which Triton scales.
    """
    root = tl.math.rsqrt(1.0 + tl.exp2(s * -1.4426950408889634))
    return root * root
