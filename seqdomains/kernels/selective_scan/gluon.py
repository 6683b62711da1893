"""The scan on NVIDIA GPUs from Ampere on: launches of the Gluon kernels, and for which calls they are meant.

What they do not cover (`fast_path.uncovered`) runs on the portable kernels of `triton_forward` and `triton_backward`;
chunks, and what is saved between forward and backward, are the same.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from seqdomains.kernels.selective_scan.gluon_backward import sweep_backward, sweep_forward
from seqdomains.kernels.selective_scan.gluon_forward import chunk_ends, outputs
from seqdomains.kernels.selective_scan.gluon_spread import spread_outputs
from seqdomains.kernels.selective_scan.plan import SCRATCH, STRIDE, gpu_chunk, slabs
from seqdomains.kernels.selective_scan.triton_chunks import add_blocks, add_rows, pass_backward, pass_forward
from seqdomains.kernels.selective_scan.triton_tile import halves, launch_key, rows_taken
from seqdomains.kernels.triton_launch import launch
from seqdomains.kernels.triton_parts import given, multiprocessors, on_device_of

# Channels a program of the forward sweeps owns, in one warp or with N = 64 in four.
WIDTH: Final = 32
# Registers a lane may have in the sweep back: 200 leave room for 10 warps, which beat 11 at 178 and 12 at 168.
REGISTERS: Final = 200
# From so many channels of all batch rows on, one pass over all of time fills the GPU, and from so many with two
# channels a lane.
SINGLE_PASS: Final = 8192
SINGLE_PASS_PAIRS: Final = 16384


def _slab_bytes(u: Tensor, N: int, chunk: int) -> int:
    """Return how much scratch a slab may take so that forward and backward take no more memory than the CUDA peer's.

    Beside the gradients, the peer has the ungated output, a state every 2,048 steps and float32 copies of dB and dC;
    ours has a state for every chunk.
    """
    width = u.shape[2]
    return int((u.element_size() + N / 256 + 8 * N / width - 4 * N / chunk - 0.1) * u.numel())


def _aligned(tensor: Tensor) -> Tensor:
    """Copy a tensor that does not begin on a 16-byte boundary, as copies into shared memory need."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)  # triton.cdiv takes 5 us


def forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None,
    h0: Tensor | None, softplus: bool, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run the scan; see `triton_forward.forward`."""
    batch, length, channels = u.shape
    N = A.shape[1]
    chunk = gpu_chunk(batch, length, channels, N)
    chunks = _cdiv(length, chunk)
    u, dt = _aligned(u), _aligned(dt)
    z = None if z is None else _aligned(z)
    y = torch.empty_like(u)
    states = torch.empty((batch, chunks - 1, channels, N), device=u.device, dtype=torch.float32)
    h_last = torch.empty((batch, channels, N), device=u.device, dtype=torch.float32)
    key = launch_key((u, dt, A, B, C, D, z, bias, h0))
    key = key and (key, channels)  # which these kernels are specialised for
    shape = {"N": N, "SOFTPLUS": softplus, "HAS_BIAS": bias is not None, "REVERSE": reverse}
    optional = {"HAS_D": D is not None, "HAS_Z": z is not None, "HAS_START": h0 is not None}
    inputs = (u, dt, A, B, C, given(D, A), given(z, u), given(bias, A), given(h0, A))
    per_lane = 2 if batch * channels >= SINGLE_PASS_PAIRS or N > 16 else 1
    spread = {**shape, **optional, "PER": per_lane, "W": 4, "T": 64 if chunk % 64 == 0 and N == 16 else 32}
    pairs = _cdiv(channels, 32 * per_lane)
    with on_device_of(u):
        # Within a chunk, and so in the single pass within a row, the kernels count elements in 32 bits.
        if batch * channels >= SINGLE_PASS and length * channels < 1 << 31:
            launch(
                spread_outputs, batch * pairs,
                (*inputs, states, y, h_last, states, length, channels, length, 1, pairs, chunk),
                {**spread, "KEEP": chunks > 1}, key, num_warps=4,
            )  # fmt: skip
            return y, h_last, states
        blocks, warps = _cdiv(channels, WIDTH), N // 16
        tile = {**shape, "W": warps, "T": 16, "SUB": 4}
        if chunks > 1:
            sums = torch.empty((batch, chunks - 1, channels), device=u.device, dtype=torch.float32)
            launch(
                chunk_ends, batch * (chunks - 1) * blocks,
                (u, dt, A, B, given(bias, A), states, sums, length, channels, chunk, chunks, blocks),
                tile, key, num_warps=warps,
            )  # fmt: skip
            pieces = _cdiv(channels * N, 32)
            launch(
                pass_forward, batch * pieces,
                (A, given(h0, A), sums, states, channels, chunks - 1, pieces),
                {"N": N, "BLOCK": 32, "HAS_START": h0 is not None}, key, num_warps=1,
            )  # fmt: skip
        if N > 16:
            launch(
                spread_outputs, batch * chunks * pairs,
                (*inputs, states, y, h_last, states, length, channels, chunk, chunks, pairs, chunk),
                {**spread, "KEEP": False}, key, num_warps=4,
            )  # fmt: skip
            return y, h_last, states
        launch(
            outputs, batch * chunks * blocks,
            (*inputs, states, y, h_last, length, channels, chunk, chunks, blocks),
            {**tile, **optional}, key, num_warps=1,
        )  # fmt: skip
    return y, h_last, states


def backward(
    dy: Tensor, dh_last: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, bias: Tensor | None, h0: Tensor | None, states: Tensor, softplus: bool, reverse: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Return the gradients; see `triton_backward.backward`."""
    batch, length, channels = u.shape
    N = A.shape[1]
    chunk = gpu_chunk(batch, length, channels, N)
    chunks = _cdiv(length, chunk)
    dy, u, dt = _aligned(dy), _aligned(u), _aligned(dt)
    z = None if z is None else _aligned(z)

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, device=u.device, dtype=torch.float32)

    du, ddt, dB, dC = (torch.empty_like(tensor) for tensor in (u, dt, B, C))
    dz = None if z is None else torch.empty_like(z)
    dD = None if D is None else scratch(batch * chunks, channels)
    dbias = None if bias is None else scratch(batch * chunks, channels)
    dA = scratch(batch, channels, N)
    carry = torch.zeros((batch, channels, N), device=u.device) if dh_last is None else dh_last.float().clone()
    high, low, split = halves(du, ddt)
    # With N = 16 the sweep back has the registers for two channels a lane.
    warps, per_lane = N // 16, 2 if N == 16 else 1
    narrow, wide = _cdiv(channels, WIDTH), _cdiv(channels, WIDTH * per_lane)
    key = launch_key((u, dt, A, B, C, D, z, bias, h0, dy))
    key = key and (key, channels)
    shape = {
        "N": N, "STRIDE": STRIDE, "SUB": 4, "W": warps, "SOFTPLUS": softplus, "HAS_D": D is not None,
        "HAS_Z": z is not None, "HAS_BIAS": bias is not None, "HAS_START": h0 is not None, "SPLIT": split,
        "REVERSE": reverse,
    }  # fmt: skip
    strides = _cdiv(chunk, STRIDE)
    per_chunk = 4 * N * (strides * narrow * WIDTH + narrow * chunk + 3 * channels)
    pieces = _cdiv(channels * N, 32)
    adding = {"N": N, "BLOCK": 128, "REVERSE": reverse}
    sizes = (length, channels, chunk, chunks)
    with on_device_of(u):
        allowed = _slab_bytes(u, N, chunk)
        if batch * chunks * per_chunk <= max(SCRATCH, allowed):
            cuts = [(slice(0, batch), 0, chunks)]
        else:
            wave = max(1, 8 * multiprocessors(u.device) // (warps * narrow))
            cuts = slabs(batch, chunks, max(1, allowed // per_chunk), wave)
        largest = max((rows.stop - rows.start) * segment for rows, _, segment in cuts)
        kept, part = scratch(largest * strides * narrow * WIDTH * N), scratch(narrow * largest * chunk * N)
        q, reached, added = (scratch(largest, channels, N) for _ in range(3))
        sums = scratch(largest, channels)
        for rows, first, segment in cuts:
            count = rows.stop - rows.start
            flat = count * segment
            own = rows_taken(rows, batch)
            inputs = (
                own(u), own(dt), A, own(B), own(C), given(D, A), own(given(z, u)), given(bias, A),
                A if h0 is None else own(h0), own(dy), own(states),
            )  # fmt: skip
            ea = own(high), own(low)
            spread = rows_taken(slice(rows.start * chunks, rows.stop * chunks), batch * chunks)
            adders = flat * _cdiv(chunk * N, 128)
            launch(
                sweep_forward, flat * narrow,
                (*inputs, own(given(dz, u)), *ea, kept, part, q, reached, added, sums,
                 A if dD is None else spread(dD), *sizes, narrow, first, segment),
                {**shape, "T": 16, "EXACT": C.dtype != torch.bfloat16}, key, num_warps=warps,
            )  # fmt: skip
            launch(
                add_blocks, adders, (part, own(dC), length, chunk, narrow, first, segment, flat), adding,
                key and (key, "C"), num_warps=1,
            )  # fmt: skip
            launch(
                pass_backward, count * pieces,
                (A, own(carry), sums, q, reached, added, own(dA), channels, segment, pieces),
                {"N": N, "BLOCK": 32, "ADD": first + segment < chunks}, key, num_warps=1,
            )  # fmt: skip
            launch(
                sweep_backward, flat * wide,
                (*inputs, *ea, kept, q, own(du), own(ddt), part, A if dbias is None else spread(dbias),
                 *sizes, wide, first, segment),
                {**shape, "PER": per_lane, "T": 8, "EXACT": B.dtype != torch.bfloat16}, key,
                num_warps=warps, maxnreg=REGISTERS if N == 16 else 128,
            )  # fmt: skip
            launch(
                add_blocks, adders, (part, own(dB), length, chunk, wide, first, segment, flat), adding,
                key and (key, "B"), num_warps=1,
            )  # fmt: skip
        sum_A = torch.empty_like(A)
        sum_D, sum_bias = (None if x is None else torch.empty_like(x) for x in (D, bias))
        launch(
            add_rows, _cdiv(channels * N, 256) + _cdiv(channels, 32),
            (dA, sum_A, given(dD, dA), given(sum_D, A), given(dbias, dA), given(sum_bias, A),
             batch, channels * N, batch * chunks, channels),
            {"BLOCK": 256, "HAS_D": D is not None, "HAS_BIAS": bias is not None}, key, num_warps=1,
        )  # fmt: skip
    return du, ddt, sum_A, dB, dC, sum_D, dz, sum_bias, None if h0 is None else carry.to(h0.dtype)
