"""The scan's forward in Triton for complex states; see `triton_forward` for the method."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.selective_scan.plan import chunk_table, gpu_chunk
from seqdomains.kernels.selective_scan.triton_complex import (
    add_turns,
    advance_pair,
    chunk_decay,
    complex_tile,
    constant_tile,
    decay,
    entering_pair,
    finish_states,
    load_planes,
    most_turn,
    pack,
    packed_view,
    planes_of,
    row_pair,
    state_offsets,
    state_part,
    step_rows,
    store_planes,
    turns_of,
)
from seqdomains.kernels.selective_scan.triton_complex_chunks import pass_complex_forward
from seqdomains.kernels.selective_scan.triton_tile import (
    SIZES,
    form_of,
    groups_of,
    program_place,
    rows_of,
    sigmoid,
    step_size,
)
from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import (
    channel_values,
    columns,
    given,
    on_device_of,
)


@triton.jit
def end_step(hr, hi, d, turn, du, Ar, Ai, br, bi, COMPLEX: tl.constexpr):
    """Advance the state by one step."""
    ar, ai = decay((d * 1.4426950408889634)[None, :], turn[None, :], Ar, Ai)
    _pr, _pi, hr, hi = advance_pair(hr, hi, ar, ai, du, br, bi, COMPLEX)
    return hr, hi


@triton.jit(do_not_specialize=SIZES)
def complex_chunk_ends(
    u_ptr, dt_ptr, A_ptr, B_ptr, bias_ptr, table_ptr, states_ptr, decays_ptr,
    length, channels, chunk, chunks, channel_blocks, segment, groups,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, STEP: tl.constexpr, PACKED: tl.constexpr,
    B_FORM: tl.constexpr, B_COMPLEX: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Do `chunk_ends`, with the decay over the chunk instead of its sum of d."""
    flat, _owner, _part, _entering, row, steps, last, _block, group, channel, exists = program_place(
        table_ptr, length, channels, chunk, chunks, channel_blocks, 0, segment, groups, BD, STEP, PACKED
    )
    if PACKED:
        steps = tl.where(last, 0, steps)
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    u_ptr += row * channels
    dt_ptr += row * channels
    B_ptr, stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    size = channels.to(tl.int64) * N
    state = state_offsets(channel, n, N)
    mask = (n[:, None] < N) & exists[None, :]
    Ar, Ai = load_planes(A_ptr, 0, size, state, mask)
    most = most_turn(Ai)
    Br, Bi = constant_tile(B_ptr, state, mask, B_FORM, B_COMPLEX)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    hr = tl.zeros([BN, BD], tl.float32)
    hi = tl.zeros([BN, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    lost = tl.zeros([BD], tl.float32)
    offsets = (k * STEP)[None, :] * channels + channel[:, None]
    for t in range(0, steps, 4):
        present = exists[:, None] & (t + k < steps)[None, :]
        u = step_rows(u_ptr, offsets, present)
        d, _slope = step_size(step_rows(dt_ptr, offsets, present) + shift[:, None], present, SOFTPLUS)
        turn = turns_of(d, most)
        total, lost = add_turns(total, lost, turn)
        d0, d1, d2, d3 = columns(d, BD)
        t0, t1, t2, t3 = columns(turn, BD)
        e0, e1, e2, e3 = columns(d * u, BD)
        br, bi = row_pair(B_ptr, Br, Bi, n, t < steps, N, B_FORM, B_COMPLEX)
        hr, hi = end_step(hr, hi, d0, t0, e0, Ar, Ai, br, bi, B_COMPLEX)
        br, bi = row_pair(B_ptr + STEP * stride, Br, Bi, n, t + 1 < steps, N, B_FORM, B_COMPLEX)
        hr, hi = end_step(hr, hi, d1, t1, e1, Ar, Ai, br, bi, B_COMPLEX)
        br, bi = row_pair(B_ptr + 2 * STEP * stride, Br, Bi, n, t + 2 < steps, N, B_FORM, B_COMPLEX)
        hr, hi = end_step(hr, hi, d2, t2, e2, Ar, Ai, br, bi, B_COMPLEX)
        br, bi = row_pair(B_ptr + 3 * STEP * stride, Br, Bi, n, t + 3 < steps, N, B_FORM, B_COMPLEX)
        hr, hi = end_step(hr, hi, d3, t3, e3, Ar, Ai, br, bi, B_COMPLEX)
        u_ptr += 4 * STEP * channels
        dt_ptr += 4 * STEP * channels
        B_ptr += 4 * STEP * stride
    if PACKED:
        states_ptr += size
        mask = mask & ((steps > 0) & (last == 0))
    Er, Ei = chunk_decay(Ar, Ai, total[None, :], lost[None, :])
    store_planes(decays_ptr, flat, size, state, mask, Er, Ei)
    tl.store(states_ptr + flat * size + state, pack(hr, hi), mask=mask)


@triton.jit
def output_step(
    hr, hi, d, turn, du, Ar, Ai, br, bi, cr, ci,
    BN: tl.constexpr, BD: tl.constexpr, B_COMPLEX: tl.constexpr, C_COMPLEX: tl.constexpr,
):  # fmt: skip
    """Advance the state by one step; also return what a lane has of Re C . h."""
    hr, hi = end_step(hr, hi, d, turn, du, Ar, Ai, br, bi, B_COMPLEX)
    return hr, hi, state_part(hr, hi, cr, ci, BN, BD, C_COMPLEX)


@triton.jit(do_not_specialize=SIZES)
def complex_outputs(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, states_ptr, y_ptr, h_last_ptr,
    length, channels, chunk, chunks, channel_blocks, segment, groups,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, STEP: tl.constexpr, PACKED: tl.constexpr,
    B_FORM: tl.constexpr, B_COMPLEX: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr,
    C_FORM: tl.constexpr, C_COMPLEX: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """Do `outputs`."""
    _flat, owner, _part, entering, row, steps, last, _block, group, channel, exists = program_place(
        table_ptr, length, channels, chunk, chunks, channel_blocks, 0, segment, groups, BD, STEP, PACKED
    )
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    u_ptr += row * channels
    dt_ptr += row * channels
    z_ptr += row * channels
    y_ptr += row * channels
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    size = channels.to(tl.int64) * N
    state = state_offsets(channel, n, N)
    state_mask = (n[:, None] < N) & exists[None, :]
    Ar, Ai = load_planes(A_ptr, 0, size, state, state_mask)
    most = most_turn(Ai)
    Br, Bi = constant_tile(B_ptr, state, state_mask, B_FORM, B_COMPLEX)
    Cr, Ci = constant_tile(C_ptr, state, state_mask, C_FORM, C_COMPLEX)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    hr, hi = entering_pair(states_ptr, start_ptr, entering, owner, channels, state, state_mask, N, HAS_START)
    offsets = (k * STEP)[None, :] * channels + channel[:, None]
    for t in range(0, steps, 4):
        mask = exists[:, None] & (t + k < steps)[None, :]
        u = step_rows(u_ptr, offsets, mask)
        d, _slope = step_size(step_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        if HAS_Z:
            z = step_rows(z_ptr, offsets, mask)
        d0, d1, d2, d3 = columns(d, BD)
        t0, t1, t2, t3 = columns(turns_of(d, most), BD)
        e0, e1, e2, e3 = columns(d * u, BD)
        br, bi = row_pair(B_ptr, Br, Bi, n, t < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr, Cr, Ci, n, t < steps, N, C_FORM, C_COMPLEX)
        hr, hi, y0 = output_step(hr, hi, d0, t0, e0, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX)
        br, bi = row_pair(B_ptr + STEP * B_stride, Br, Bi, n, t + 1 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + STEP * C_stride, Cr, Ci, n, t + 1 < steps, N, C_FORM, C_COMPLEX)
        hr, hi, y1 = output_step(hr, hi, d1, t1, e1, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX)
        br, bi = row_pair(B_ptr + 2 * STEP * B_stride, Br, Bi, n, t + 2 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + 2 * STEP * C_stride, Cr, Ci, n, t + 2 < steps, N, C_FORM, C_COMPLEX)
        hr, hi, y2 = output_step(hr, hi, d2, t2, e2, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX)
        br, bi = row_pair(B_ptr + 3 * STEP * B_stride, Br, Bi, n, t + 3 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + 3 * STEP * C_stride, Cr, Ci, n, t + 3 < steps, N, C_FORM, C_COMPLEX)
        hr, hi, y3 = output_step(hr, hi, d3, t3, e3, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX)
        y = 2.0 * finish_states(y0, y1, y2, y3, BN, BD) + skip[:, None] * u
        if HAS_Z:
            y = y * z * sigmoid(z)
        tl.store(y_ptr + offsets, y, mask=mask)
        u_ptr += 4 * STEP * channels
        dt_ptr += 4 * STEP * channels
        z_ptr += 4 * STEP * channels
        y_ptr += 4 * STEP * channels
        B_ptr += 4 * STEP * B_stride
        C_ptr += 4 * STEP * C_stride
    if last:
        tl.store(h_last_ptr + owner * size + state, pack(hr, hi), mask=state_mask)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the scan; see `triton_forward.forward`."""
    batch, length, channels = u.shape
    N, groups = A.shape[1], groups_of(B, C)
    chunk = gpu_chunk(batch, length, channels, N)
    sequences, packed = batch, cu_seqlens is not None and cu_seqlens.shape[0] > 2
    chunks = triton.cdiv(length, chunk)
    rates = planes_of(A)
    table = borders = rates
    if cu_seqlens is not None and packed:
        table, borders = chunk_table(cu_seqlens, length, chunk, reverse)
        sequences, chunks = cu_seqlens.shape[0] - 1, table.shape[0]
    stored = chunks if packed else chunks - 1
    y = torch.empty_like(u)
    states = torch.empty(batch, stored, channels, N, device=u.device, dtype=torch.complex64)
    h_last = torch.empty(sequences, channels, N, device=u.device, dtype=torch.complex64)
    start = rates if h0 is None else packed_view(h0)
    tensors = (u, dt, rates, packed_view(B), packed_view(C))
    key = launch_key((*tensors, D, z, bias, h0))
    shape = {
        "N": N, "STEP": -1 if reverse else 1, "PACKED": packed,
        "B_FORM": form_of(B), "B_COMPLEX": B.is_complex(), "SOFTPLUS": softplus, "HAS_BIAS": bias is not None,
    }  # fmt: skip
    with on_device_of(u):
        if stored:
            tile = complex_tile("complex_chunk_ends", N)
            blocks = groups * triton.cdiv(channels // groups, tile.channels)
            decays = torch.empty(batch * stored, 2, channels, N, device=u.device, dtype=torch.float32)
            launch(
                complex_chunk_ends, batch * stored * blocks,
                (*tensors[:4], given(bias, rates), table, packed_view(states), decays, length, channels, chunk, chunks,
                 blocks, stored, groups),
                {**shape, "BN": tile.states, "BD": tile.channels}, key, **tile.options,
            )  # fmt: skip
            pieces = triton.cdiv(channels * N, 32)
            launch(
                pass_complex_forward, sequences * pieces,
                (start, borders, decays, packed_view(states), packed_view(h_last), channels, stored, pieces),
                {"N": N, "BLOCK": 32, "HAS_START": h0 is not None, "PACKED": packed}, key, num_warps=1,
            )  # fmt: skip
        tile = complex_tile("complex_outputs", N)
        blocks = groups * triton.cdiv(channels // groups, tile.channels)
        launch(
            complex_outputs, batch * chunks * blocks,
            (*tensors, given(D, rates), given(z, u), given(bias, rates), start, table, packed_view(states), y,
             packed_view(h_last), length, channels, chunk, chunks, blocks, chunks, groups),
            {**shape, "BN": tile.states, "BD": tile.channels, "C_FORM": form_of(C), "C_COMPLEX": C.is_complex(),
             "HAS_D": D is not None, "HAS_Z": z is not None, "HAS_START": h0 is not None}, key, **tile.options,
        )  # fmt: skip
    return y, h_last, states
