"""The scan's forward in Triton, parallel over chunks of time.

d_t = softplus(dt_t + bias), a_t = exp(d_t A), h_t = a_t h_{t-1} + d_t u_t B_t, y_t = (C_t . h_t + D u_t) silu(z_t).

1. `chunk_ends`: each chunk's end state from a zero start, and the sum S of d over it.
2. `pass_forward`: the state entering each chunk, h_in[c+1] = exp(A S_c) h_in[c] + h_end[c]; A is constant in time, so
   one sum per channel stands for the product of all the chunk's decays.
3. `outputs`: each chunk again from h_in, writing y; the last one writes h_last.

The decays are computed twice, which costs less than keeping them (N values per element).
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.selective_scan import triton_complex_forward
from seqdomains.kernels.selective_scan.plan import Enter, chunk_table, portable_chunk
from seqdomains.kernels.selective_scan.triton_chunks import pass_forward, pass_through
from seqdomains.kernels.selective_scan.triton_packed import pass_forward_packed
from seqdomains.kernels.selective_scan.triton_tile import (
    SIZES,
    decay_rates,
    entering_state,
    form_of,
    groups_of,
    program_place,
    projection,
    row_offsets,
    rows_of,
    sigmoid,
    step_size,
    store_tile,
    tile_of,
    tile_offsets,
    tile_shape,
)
from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import (
    channel_values,
    columns,
    exp2_of,
    four_rows,
    from_columns,
    given,
    on_device_of,
)


@triton.jit
def advance(h, d, du, A2, B_t):
    """Return h_t from h_{t-1}; A2 = A log2(e), du = d u."""
    return exp2_of(d[:, None], A2) * h + B_t * du[:, None]


@triton.jit(do_not_specialize=SIZES)
def chunk_ends(
    u_ptr, dt_ptr, A_ptr, B_ptr, bias_ptr, table_ptr, states_ptr, sums_ptr,
    length, chunk, chunks, channel_blocks, segment, groups,
    CHANNELS: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr,
    STEP: tl.constexpr, PACKED: tl.constexpr, B_FORM: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Write the end state of a chunk, from zero, where the state entering the next one belongs, and the sum of d.

    Not for the last chunk.
    """
    flat, _owner, _part, _entering, row, steps, last, _block, group, channel, exists = program_place(
        table_ptr, length, CHANNELS, chunk, chunks, channel_blocks, 0, segment, groups, BD, STEP, PACKED
    )
    if PACKED:
        steps = tl.where(last, 0, steps)
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    u_ptr += row * CHANNELS
    dt_ptr += row * CHANNELS
    B_ptr, stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    A2 = decay_rates(A_ptr, channel, n, exists, N, WARPS)
    B_all = tile_of(B_ptr, channel, exists, n, N, B_FORM, WARPS)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    h = tl.zeros([BD, BN], tl.float32)
    total = tl.zeros([BD], tl.float32)
    offsets = row_offsets(channel, CHANNELS, STEP)
    for t in range(0, steps, 4):
        mask = exists[:, None] & (t + k < steps)[None, :]
        u = four_rows(u_ptr, offsets, mask)
        d, _slope = step_size(four_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        d0, d1, d2, d3 = columns(d, BD)
        e0, e1, e2, e3 = columns(d * u, BD)
        h = advance(h, d0, e0, A2, projection(B_ptr, B_all, n, t < steps, N, B_FORM))
        h = advance(h, d1, e1, A2, projection(B_ptr + STEP * stride, B_all, n, t + 1 < steps, N, B_FORM))
        h = advance(h, d2, e2, A2, projection(B_ptr + 2 * STEP * stride, B_all, n, t + 2 < steps, N, B_FORM))
        h = advance(h, d3, e3, A2, projection(B_ptr + 3 * STEP * stride, B_all, n, t + 3 < steps, N, B_FORM))
        total += (d0 + d1) + (d2 + d3)
        u_ptr += 4 * STEP * CHANNELS
        dt_ptr += 4 * STEP * CHANNELS
        B_ptr += 4 * STEP * stride
    if PACKED:
        states_ptr += CHANNELS * N
        exists = exists & ((steps > 0) & (last == 0))
    tl.store(sums_ptr + flat * CHANNELS + channel, total, mask=exists)
    mask = exists[:, None] & (n[None, :] < N)
    store_tile(states_ptr + flat * CHANNELS * N, tile_offsets(channel, n, N), h, mask, WARPS)


@triton.jit(do_not_specialize=SIZES)
def outputs(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, states_ptr, y_ptr, h_last_ptr,
    length, chunk, chunks, channel_blocks, segment, groups,
    CHANNELS: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr,
    STEP: tl.constexpr, PACKED: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """Write y of one chunk from the state that enters it, and h_last from the last chunk."""
    _flat, owner, _part, entering, row, steps, last, _block, group, channel, exists = program_place(
        table_ptr, length, CHANNELS, chunk, chunks, channel_blocks, 0, segment, groups, BD, STEP, PACKED
    )
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    u_ptr += row * CHANNELS
    dt_ptr += row * CHANNELS
    z_ptr += row * CHANNELS
    y_ptr += row * CHANNELS
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    state = tile_offsets(channel, n, N)
    state_mask = exists[:, None] & (n[None, :] < N)
    A2 = decay_rates(A_ptr, channel, n, exists, N, WARPS)
    B_all = tile_of(B_ptr, channel, exists, n, N, B_FORM, WARPS)
    C_all = tile_of(C_ptr, channel, exists, n, N, C_FORM, WARPS)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    h = entering_state(states_ptr, start_ptr, entering, owner, CHANNELS, state, state_mask, N, WARPS, HAS_START)
    offsets = row_offsets(channel, CHANNELS, STEP)
    for t in range(0, steps, 4):
        mask = exists[:, None] & (t + k < steps)[None, :]
        u = four_rows(u_ptr, offsets, mask)
        d, _slope = step_size(four_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        if HAS_Z:
            z = four_rows(z_ptr, offsets, mask)
        d0, d1, d2, d3 = columns(d, BD)
        e0, e1, e2, e3 = columns(d * u, BD)
        h = advance(h, d0, e0, A2, projection(B_ptr, B_all, n, t < steps, N, B_FORM))
        y0 = tl.sum(projection(C_ptr, C_all, n, t < steps, N, C_FORM) * h, 1)
        h = advance(h, d1, e1, A2, projection(B_ptr + STEP * B_stride, B_all, n, t + 1 < steps, N, B_FORM))
        y1 = tl.sum(projection(C_ptr + STEP * C_stride, C_all, n, t + 1 < steps, N, C_FORM) * h, 1)
        h = advance(h, d2, e2, A2, projection(B_ptr + 2 * STEP * B_stride, B_all, n, t + 2 < steps, N, B_FORM))
        y2 = tl.sum(projection(C_ptr + 2 * STEP * C_stride, C_all, n, t + 2 < steps, N, C_FORM) * h, 1)
        h = advance(h, d3, e3, A2, projection(B_ptr + 3 * STEP * B_stride, B_all, n, t + 3 < steps, N, B_FORM))
        y3 = tl.sum(projection(C_ptr + 3 * STEP * C_stride, C_all, n, t + 3 < steps, N, C_FORM) * h, 1)
        y = from_columns(y0, y1, y2, y3, BD) + skip[:, None] * u
        if HAS_Z:
            y = y * z * sigmoid(z)
        tl.store(y_ptr + offsets, y, mask=mask)
        u_ptr += 4 * STEP * CHANNELS
        dt_ptr += 4 * STEP * CHANNELS
        z_ptr += 4 * STEP * CHANNELS
        y_ptr += 4 * STEP * CHANNELS
        B_ptr += 4 * STEP * B_stride
        C_ptr += 4 * STEP * C_stride
    if last:
        store_tile(h_last_ptr + owner * CHANNELS * N, state, h, state_mask, WARPS)


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
    cu_seqlens: Tensor | None,
    softplus: bool,
    reverse: bool,
    *,
    enter: Enter = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the scan on contiguous tensors.

    `enter` takes, between the first two passes, where the scan leads from zero and its sum of d, and returns h0 in
    float32.

    Returns
    -------
    tuple of Tensor
        y, shape (B, L, D) in u's dtype; h_last, shape (B, D, N) or (S, D, N), float32; the states entering
        the chunks, of the shape that `plan.states_shape` returns.
    """
    if A.is_complex():
        return triton_complex_forward.forward(u, dt, A, B, C, D, z, bias, h0, cu_seqlens, softplus, reverse)
    batch, length, channels = u.shape
    N, groups = A.shape[1], groups_of(B, C)
    chunk = portable_chunk(batch, length, channels, N)
    sequences, packed = batch, cu_seqlens is not None and cu_seqlens.shape[0] > 2
    chunks = triton.cdiv(length, chunk)
    table = borders = A
    if cu_seqlens is not None and packed:
        table, borders = chunk_table(cu_seqlens, length, chunk, reverse)
        sequences, chunks = cu_seqlens.shape[0] - 1, table.shape[0]
    stored = chunks if packed else chunks - 1
    known = stored if enter is None else chunks
    y = torch.empty_like(u)
    states = torch.empty(batch, known, channels, N, device=u.device, dtype=torch.float32)
    h_last = torch.empty(sequences, channels, N, device=u.device, dtype=torch.float32)
    key = launch_key((u, dt, A, B, C, D, z, bias, h0))
    shape = {
        "CHANNELS": channels, "N": N, "STEP": -1 if reverse else 1, "PACKED": packed, "B_FORM": form_of(B),
        "SOFTPLUS": softplus, "HAS_BIAS": bias is not None,
    }  # fmt: skip
    with on_device_of(u):
        pieces = triton.cdiv(channels * N, 32)
        if known:
            ends = tile_shape("chunk_ends", N)
            blocks = groups * triton.cdiv(channels // groups, ends.channels)
            sums = torch.empty(batch, known, channels, device=u.device, dtype=torch.float32)
            launch(
                chunk_ends, batch * known * blocks,
                (u, dt, A, B, given(bias, A), table, states, sums, length, chunk, chunks, blocks, known, groups),
                shape | ends.constants, key, **ends.options,
            )  # fmt: skip
        if enter is not None:
            end = torch.empty_like(h_last)
            launch(
                pass_through, batch * pieces, (A, sums, states, end, channels, known, pieces),
                {"N": N, "BLOCK": 32, "BACK": False}, key, num_warps=1,
            )  # fmt: skip
            h0 = enter(end, sums.sum(1))
            states, sums = states[:, :stored].contiguous(), sums[:, :stored].contiguous()
            key = launch_key((u, dt, A, B, C, D, z, bias, h0))
        if stored:
            passing = {"N": N, "BLOCK": 32, "HAS_START": h0 is not None}
            if packed:
                launch(
                    pass_forward_packed, sequences * pieces,
                    (A, given(h0, A), borders, sums, states, h_last, channels, pieces), passing, key, num_warps=1,
                )  # fmt: skip
            else:
                launch(
                    pass_forward, batch * pieces, (A, given(h0, A), sums, states, channels, stored, pieces),
                    passing, key, num_warps=1,
                )  # fmt: skip
        tile = tile_shape("outputs", N)
        blocks = groups * triton.cdiv(channels // groups, tile.channels)
        launch(
            outputs, batch * chunks * blocks,
            (u, dt, A, B, C, given(D, A), given(z, u), given(bias, A), given(h0, A), table, states, y, h_last,
             length, chunk, chunks, blocks, chunks, groups),
            {**shape, **tile.constants, "C_FORM": form_of(C), "HAS_D": D is not None, "HAS_Z": z is not None,
             "HAS_START": h0 is not None}, key, **tile.options,
        )  # fmt: skip
    return y, h_last, states
