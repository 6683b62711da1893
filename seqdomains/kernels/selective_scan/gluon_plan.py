"""Which Gluon kernels a scan launches, how many programs of each, and where in their buffers they work.

All of it depends on shapes, dtypes and options alone. It is laid out once for each such `Call` and kept, since Python
would need longer for it than an H100 for a short scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple

import torch

from seqdomains.kernels.selective_scan.gluon_backward import sweep_backward, sweep_forward
from seqdomains.kernels.selective_scan.gluon_forward import chunk_ends, outputs
from seqdomains.kernels.selective_scan.gluon_spread import spread_outputs
from seqdomains.kernels.selective_scan.plan import GLUON_SCRATCH as SCRATCH
from seqdomains.kernels.selective_scan.plan import STRIDE, gpu_chunk, slabs
from seqdomains.kernels.selective_scan.triton_chunks import (
    add_all,
    add_blocks,
    pass_and_add,
    pass_forward,
    pass_through,
)
from seqdomains.kernels.triton_launch import Launches
from seqdomains.kernels.triton_parts import multiprocessors, shared_memory

INPUTS: Final = ("u", "dt", "A", "B", "C", "D", "z", "bias", "h0")
# Calls whose plans are kept.
PLANS: Final = 512
# Channels a program of the forward sweeps owns, in one warp or with N = 64 in four.
WIDTH: Final = 32
# Registers a lane may have in the sweep back, by N: 200 leave room for 10 warps, which beat 11 at 178 and 12 at 168.
REGISTERS: Final = {16: 200, 64: 128}
# From so many channels of all batch rows on, one pass over all of time fills the GPU, and from so many with two
# channels a lane.
SINGLE_PASS: Final = 8192
SINGLE_PASS_PAIRS: Final = 16384


class Call(NamedTuple):
    """What decides on a plan: dtypes are those of `INPUTS`, None for an absent one."""

    device: torch.device
    batch: int
    length: int
    channels: int
    N: int
    dtypes: tuple[torch.dtype | None, ...]
    softplus: bool
    reverse: bool

    def has(self, name: str) -> bool:
        """Whether an optional input is there."""
        return self.dtypes[INPUTS.index(name)] is not None

    def dtype(self, name: str) -> torch.dtype:
        """Return an input's dtype; A stands in for one that is absent."""
        return self.dtypes[INPUTS.index(name)] or self.dtypes[2] or torch.float32


class ForwardPlan(NamedTuple):
    """Launches of the forward, shapes of the states between chunks and of the last, and how many sums need memory.

    `ends` of a part of a scan run before it is known what enters it: they write the end of each chunk and of them all.
    """

    launches: Launches
    states: tuple[int, int, int, int]
    h_last: tuple[int, int, int]
    sums: int
    ends: Launches | None = None


class BackwardPlan(NamedTuple):
    """Launches of the backward, float32 numbers of scratch, and whether `ea` lies half in du and half in ddt.

    `starts` of a part of a scan run before it is known what enters it from its end: they write what of its own output's
    gradient reaches its start.
    """

    launches: Launches
    scratch: int
    split: bool
    starts: Launches | None = None


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _roomy(call: Call) -> bool:
    """Whether tiles of 64 steps fit into shared memory: 144 KiB with rows in float32, half of that in 16 bits.

    Cards of compute capability 8.6, 8.9 and 12.0 have 99 KiB.
    """
    narrow = all(call.dtype(name).itemsize == 2 for name in ("u", "dt", "z") if call.has(name))
    return narrow or shared_memory(call.device) >= 160 << 10


@lru_cache(PLANS)
def plan_forward(call: Call, part: bool = False) -> ForwardPlan:
    """Lay out the forward: a single pass over time where channels fill the GPU, else chunks, as for a `part` of one."""
    batch, length, channels, N = call.batch, call.length, call.channels, call.N
    chunk = gpu_chunk(batch, length, channels, N)
    chunks = _cdiv(length, chunk)
    states, h_last = (batch, chunks - 1, channels, N), (batch, channels, N)
    own = dict.fromkeys(("states", "h_last", "sums", "ends", "end"), torch.float32)
    dtypes = {name: call.dtype(name) for name in INPUTS} | own | {"y": call.dtype("u")}
    launches = Launches(call.device, dtypes)
    shape = {"N": N, "SOFTPLUS": call.softplus, "HAS_BIAS": call.has("bias"), "REVERSE": call.reverse}
    optional = {"HAS_D": call.has("D"), "HAS_Z": call.has("z"), "HAS_START": call.has("h0")}
    per_lane = 2 if batch * channels >= SINGLE_PASS_PAIRS or N > 16 else 1
    spread = {
        **shape,
        **optional,
        "PER": per_lane,
        "W": 4,
        "T": 64 if chunk % 64 == 0 and N == 16 and _roomy(call) else 32,
    }
    pairs = _cdiv(channels, 32 * per_lane)
    # Within a chunk, and so in the single pass within a row, the kernels count elements in 32 bits.
    if batch * channels >= SINGLE_PASS and length * channels < 1 << 31 and not part:
        launches.add(
            spread_outputs, batch * pairs, (*INPUTS, "states", "y", "h_last", "states"),
            (length, channels, length, 1, pairs, chunk), {**spread, "KEEP": chunks > 1}, num_warps=4,
        )  # fmt: skip
        return ForwardPlan(launches, states, h_last, 0)
    blocks, warps = _cdiv(channels, WIDTH), N // 16
    tile = {**shape, "W": warps, "T": 16, "SUB": 4}
    pieces = _cdiv(channels * N, 32)
    found = ("u", "dt", "A", "B", "bias", "ends" if part else "states", "sums")
    ends = Launches(call.device, dtypes) if part else None
    if ends is not None:
        # The kernel leaves out the last of its chunks: it is told of one more.
        ends.add(
            chunk_ends, batch * chunks * blocks, found, (length, channels, chunk, chunks + 1, blocks), tile,
            num_warps=warps,
        )  # fmt: skip
        ends.add(
            pass_through, batch * pieces, ("A", "sums", "ends", "end"), (channels, chunks, pieces),
            {"N": N, "BLOCK": 32, "BACK": False}, num_warps=1,
        )  # fmt: skip
    elif chunks > 1:
        launches.add(
            chunk_ends, batch * (chunks - 1) * blocks, found, (length, channels, chunk, chunks, blocks), tile,
            num_warps=warps,
        )  # fmt: skip
    if chunks > 1:
        launches.add(
            pass_forward, batch * pieces, ("A", "h0", "sums", "states"), (channels, chunks - 1, pieces),
            {"N": N, "BLOCK": 32, "HAS_START": call.has("h0")}, num_warps=1,
        )  # fmt: skip
    if N > 16:
        launches.add(
            spread_outputs, batch * chunks * pairs, (*INPUTS, "states", "y", "h_last", "states"),
            (length, channels, chunk, chunks, pairs, chunk), {**spread, "KEEP": False}, num_warps=4,
        )  # fmt: skip
    else:
        launches.add(
            outputs, batch * chunks * blocks, (*INPUTS, "states", "y", "h_last"),
            (length, channels, chunk, chunks, blocks), {**tile, **optional}, num_warps=1,
        )  # fmt: skip
    return ForwardPlan(launches, states, h_last, batch * (chunks - 1) * channels, ends)


def _slab_bytes(call: Call, chunk: int) -> int:
    """Return how much scratch a slab may take so that forward and backward take no more memory than the CUDA peer's.

    Beside the gradients, the peer has the ungated output, a state every 2,048 steps and float32 copies of dB and dC;
    ours has a state for every chunk.
    """
    N, elements = call.N, call.batch * call.length * call.channels
    return int((call.dtype("u").itemsize + N / 256 + 8 * N / call.channels - 4 * N / chunk - 0.1) * elements)


def _places(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Lay arrays out in one buffer, each on a boundary of 64 numbers; return where they begin, and its size."""
    ends = list(accumulate(_cdiv(size, 64) * 64 for size in sizes.values()))
    return dict(zip(sizes, [0, *ends], strict=False)), ends[-1]


@lru_cache(PLANS)
def plan_backward(call: Call, dy: torch.dtype, carried: bool, output: bool = False, part: bool = False) -> BackwardPlan:
    """Lay out the backward for a cotangent of this dtype.

    `carried` says whether h_last has one too, `output` whether y is wanted again. A `part` of a scan is one slab: what
    enters from its end is only known when all of its chunks have been swept forward.
    """
    batch, length, channels, N = call.batch, call.length, call.channels, call.N
    chunk = gpu_chunk(batch, length, channels, N)
    chunks, strides = _cdiv(length, chunk), _cdiv(chunk, STRIDE)
    # With N = 16 the sweep back has the registers for two channels a lane.
    warps, per_lane = N // 16, 2 if N == 16 else 1
    narrow, wide = _cdiv(channels, WIDTH), _cdiv(channels, WIDTH * per_lane)
    per_chunk = 4 * N * (strides * narrow * WIDTH + narrow * chunk + 3 * channels)
    allowed = _slab_bytes(call, chunk)
    if part or batch * chunks * per_chunk <= max(SCRATCH, allowed):
        cuts = [(slice(0, batch), 0, chunks)]
    else:
        wave = max(1, 8 * multiprocessors(call.device) // (warps * narrow))
        cuts = slabs(batch, chunks, max(1, allowed // per_chunk), wave)
    largest = max((rows.stop - rows.start) * segment for rows, _, segment in cuts)
    state, parts = channels * N, batch * chunks * channels
    places, scratch = _places({
        "carry": batch * state, "rows of dA": batch * state, "rows of dD": parts, "rows of dbias": parts,
        "kept": largest * strides * narrow * WIDTH * N, "part": narrow * largest * chunk * N, "q": largest * state,
        "reached": largest * state, "added": largest * state, "sums": largest * channels,
    })  # fmt: skip

    wide_ea = call.dtype("dt").itemsize == 4 or call.dtype("u").itemsize == 4
    dtypes = {name: call.dtype(name) for name in INPUTS} | {"dy": dy, "y": call.dtype("u")}
    dtypes |= {f"d{name}": call.dtype(name) for name in INPUTS[:-1]}
    dtypes |= dict.fromkeys(("states", "dh_last", "scratch", "carry", "start"), torch.float32)
    dtypes |= dict.fromkeys(("high", "low"), torch.float32 if wide_ea else torch.int16)
    launches = Launches(call.device, dtypes)
    starts = Launches(call.device, dtypes) if part else None
    per_row = dict.fromkeys(("u", "dt", "z", "dy", "y", "du", "ddt", "dz", "high", "low"), length * channels)
    per_row |= dict.fromkeys(("B", "C", "dB", "dC"), length * N)
    per_row |= dict.fromkeys(("h0", "carry", "dh_last", "rows of dA"), state)
    per_row |= {"states": (chunks - 1) * state}
    per_row |= dict.fromkeys(("rows of dD", "rows of dbias"), chunks * channels)

    def at(names: Sequence[str], row: int) -> list[tuple[str, int]]:
        """Return where buffers, or arrays of the scratch, have a batch row."""
        skipped = [(name, row * per_row.get(name, 0)) for name in names]
        return [("scratch", places[name] + skip) if name in places and name != "carry" else (name, skip)
                for name, skip in skipped]  # fmt: skip

    shape = {
        "N": N, "STRIDE": STRIDE, "SUB": 4, "W": warps, "SOFTPLUS": call.softplus, "HAS_D": call.has("D"),
        "HAS_Z": call.has("z"), "HAS_BIAS": call.has("bias"), "HAS_START": call.has("h0"), "SPLIT": not wide_ea,
        "REVERSE": call.reverse,
    }  # fmt: skip
    adding: dict[str, Any] = {"N": N, "BLOCK": 128, "REVERSE": call.reverse}
    pieces, bfloat16 = _cdiv(state, 32), torch.bfloat16
    for number, (rows, first, segment) in enumerate(cuts):
        row, count = rows.start, rows.stop - rows.start
        flat = count * segment
        adders = flat * _cdiv(chunk * N, 128)
        sizes, block_sizes = (length, channels, chunk, chunks), (first, segment, flat)
        inputs = at((*INPUTS, "dy", "states"), row)
        written = ("dz", "y", "high", "low", "kept", "part", "q", "reached", "added", "sums", "rows of dD")
        (starts or launches).add(
            sweep_forward, flat * narrow, [*inputs, *at(written, row)], (*sizes, narrow, first, segment),
            {**shape, "T": 16, "EXACT": call.dtype("C") != bfloat16, "OUTPUT": output}, num_warps=warps,
        )  # fmt: skip
        if starts is not None:
            starts.add(
                pass_through, count * pieces, at(("A", "sums", "q", "start"), row), (channels, segment, pieces),
                {"N": N, "BLOCK": 32, "BACK": True}, num_warps=1,
            )  # fmt: skip
        last_in_time = first + segment == chunks
        passed = ("A", "dh_last" if last_in_time else "carry", "carry", "sums", "q", "reached", "added", "rows of dA")
        launches.add(
            pass_and_add, count * pieces + adders, at((*passed, "part", "dC"), row),
            (length, channels, chunk, narrow, *block_sizes, count * pieces, pieces),
            {**adding, "PIECE": 32, "ENTERS": carried or not last_in_time, "ADD": not last_in_time}, num_warps=1,
        )  # fmt: skip
        launches.add(
            sweep_backward, flat * wide,
            [*inputs, *at(("high", "low", "kept", "q", "du", "ddt", "part", "rows of dbias"), row)],
            (*sizes, wide, first, segment),
            {**shape, "PER": per_lane, "T": 8, "EXACT": call.dtype("B") != bfloat16},
            num_warps=warps, maxnreg=REGISTERS[N],
        )  # fmt: skip
        if number < len(cuts) - 1:
            launches.add(
                add_blocks, adders, at(("part", "dB"), row), (length, chunk, wide, *block_sizes), adding, num_warps=1
            )
            continue
        launches.add(
            add_all, adders + _cdiv(state, 128) + _cdiv(channels, 32),
            [*at(("part", "dB"), row),
             *at(("rows of dA", "dA", "rows of dD", "dD", "rows of dbias", "dbias"), 0)],
            (length, channels, chunk, wide, *block_sizes, adders, batch, batch * chunks),
            {**adding, "HAS_D": call.has("D"), "HAS_BIAS": call.has("bias")}, num_warps=1,
        )  # fmt: skip
    return BackwardPlan(launches, scratch, not wide_ea, starts)
