"""The scan's backward in Triton: two sweeps over each chunk that keep nothing but running states and one in 16.

Symbols are those of README.md, "The adjoint": gated_t = dy_t silu(z_t) is the gradient of the ungated output,
gh_t = gated_t C_t + q_{t+1} that of h_t, and q_t = a_t gh_t what step t hands to step t - 1.

1. `sweep_forward`, in time order from the state entering the chunk, carries h, E, the decay since the chunk's start,
   and J = dh/dA. It writes dz, dC, ea_t = gated_t A . (C_t p_t) with p_t = a_t h_{t-1}, a state every `STRIDE` steps,
   and of the chunk: what it adds to the carry, the sum of E_t gated_t C_t (unrolled, the q that leaves a chunk is
   exp(A S) q_in and that sum, which needs no q); J at its end; and its dA if q_in were zero, the sum of
   gated_t C_t J_t.
2. `pass_backward`, over chunks backwards: the q that enters each chunk from its end, and dA, which is what the sweep
   found and q_in J.
3. `sweep_backward`, in reverse order, carries q and W, the sum over n of A times the gradient through a_t, which is
   s_t = q_t h_{t-1}. From gh_t = gated_t C_t + q_{t+1} and h_t = p_t + b_t, with b_t = d_t u_t B_t, follows
   s_t - s_{t+1} = gated_t C_t p_t - q_{t+1} b_t: W grows by ea_t - d_t u_t A . (B_t q_{t+1}), and neither sweep needs
   the other's states. At each kept state W starts afresh from A . (q h).
4. `add_blocks`: dB and dC over the blocks of channels in a fixed order, so that two runs are bit-equal.

W's error grows with the steps since it was exact. In float32 and with one state kept in 16 it leaves 3e-7 of ddt; in
dbias, a sum over time, it would not average out. What W has gone wrong by shows at the next kept state: each step's
share, in proportion to the steps that W has walked, is taken back from dbias.

`ea` lies in the memory of du and ddt, which the second sweep overwrites. Scratch is worked through in slabs, batch rows
or segments of time, that hand q on.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.selective_scan.plan import RESIDENT, chunk_table, gpu_chunk, slabs
from seqdomains.kernels.selective_scan.triton_packed import add_group_blocks, pass_backward_packed
from seqdomains.kernels.selective_scan.triton_sums import add_rows
from seqdomains.kernels.selective_scan.triton_tile import (
    SIZES,
    TileShape,
    add_blocks,
    correction,
    decay_rates,
    entering_state,
    form_of,
    groups_of,
    halves,
    launch_key,
    load_halves,
    pass_backward,
    program_place,
    projection,
    refuse_complex,
    rows_of,
    rows_taken,
    sigmoid,
    state_offsets,
    step_size,
    store_halves,
    sum_states,
    tile_of,
    tile_shape,
)
from seqdomains.kernels.triton_launch import launch
from seqdomains.kernels.triton_parts import (
    channel_values,
    columns,
    four_rows,
    from_columns,
    given,
    on_device_of,
)

# Steps between two states that the sweep back starts from afresh.
STRIDE: Final = 16
# Scratch of the backward: up to this it is taken whole, since smaller slabs would leave processors idle; beyond, so
# many bytes per element of u.
SCRATCH: Final = 192 << 20
BYTES_PER_ELEMENT: Final = 2


@triton.jit
def step_forward(h, E, J, added, dA, d, du, gated, A2, B_t, C_t, BN: tl.constexpr, BD: tl.constexpr):
    """Advance sweep 1 by one step; also return A2 . (C p) and C . h."""
    a = tl.exp2(d[None, :] * A2)
    E = a * E
    g = C_t * gated[None, :]
    added += E * g
    p = a * h
    ea = sum_states(A2 * (C_t * p), BN, BD)
    J = a * J + d[None, :] * p
    dA += J * g
    h = p + B_t * du[None, :]
    return h, E, J, added, dA, ea, sum_states(C_t * h, BN, BD)


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
def finish_sums(pointer, total, p0, p1, p2, p3, BN: tl.constexpr, N: tl.constexpr, FORM: tl.constexpr):
    """Add four steps' `channel_part` over channels and store four rows of dB or dC, or if it is constant add to it."""
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
        tl.store(pointer + (i // BN * N + i % BN), ((a0 + a1) + (b0 + b1)) + ((c0 + c1) + (d0 + d1)), mask=i % BN < N)
    else:
        n = tl.arange(0, BN)
        tl.store(pointer + n, p0, mask=n < N)
        tl.store(pointer + (N + n), p1, mask=n < N)
        tl.store(pointer + (2 * N + n), p2, mask=n < N)
        tl.store(pointer + (3 * N + n), p3, mask=n < N)
    return total


@triton.jit(do_not_specialize=SIZES)
def sweep_forward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, dy_ptr, states_ptr,
    dz_ptr, high_ptr, low_ptr, kept_ptr, dC_ptr, added_ptr, reached_ptr, dA_ptr, sums_ptr, dD_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment, groups,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr,
    PACKED: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr, SPLIT: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """Sweep 1 over one chunk."""
    flat, owner, part, entering, row, steps, _last, block, group, channel, exists = program_place(
        table_ptr, length, channels, chunk, chunks, channel_blocks, first, segment, groups, BD, STEP, PACKED
    )
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    u_ptr += row * channels
    dt_ptr += row * channels
    z_ptr += row * channels
    dy_ptr += row * channels
    dz_ptr += row * channels
    high_ptr += row * channels
    low_ptr += row * channels
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    state = state_offsets(channel, n, N)
    state_mask = (n[:, None] < N) & exists[None, :]
    size = channels.to(tl.int64) * N
    kept_ptr += flat * tl.cdiv(chunk, STRIDE) * size
    if C_FORM < 2:
        dC_ptr += ((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk * N
    A2 = decay_rates(A_ptr, channel, n, N, exists)
    B_all = tile_of(B_ptr, channel, exists, n, N, B_FORM)
    C_all = tile_of(C_ptr, channel, exists, n, N, C_FORM)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    h = entering_state(states_ptr, start_ptr, entering, owner, channels, state, state_mask, N, HAS_START)
    E = tl.full([BN, BD], 1.0, tl.float32)
    J = tl.zeros([BN, BD], tl.float32)
    added = tl.zeros([BN, BD], tl.float32)
    dA = tl.zeros([BN, BD], tl.float32)
    dC = tl.zeros([BN, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    dD = tl.zeros([BD], tl.float32)
    offsets = (k * STEP)[None, :] * channels + channel[:, None]
    for t in range(0, steps, 4):
        mask = exists[:, None] & (t + k < steps)[None, :]
        u = four_rows(u_ptr, offsets, mask)
        d, _d_slope = step_size(four_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        gated = four_rows(dy_ptr, offsets, mask)
        if HAS_Z:
            z = four_rows(z_ptr, offsets, mask)
            gate = sigmoid(z)
            slope = gated * gate * (1.0 + z * (1.0 - gate))
            gated = gated * (z * gate)
        d0, d1, d2, d3 = columns(d, BD)
        e0, e1, e2, e3 = columns(d * u, BD)
        g0, g1, g2, g3 = columns(gated, BD)
        B_t = projection(B_ptr, B_all, n, t < steps, N, B_FORM)
        C_t = projection(C_ptr, C_all, n, t < steps, N, C_FORM)
        h, E, J, added, dA, ea0, y0 = step_forward(h, E, J, added, dA, d0, e0, g0, A2, B_t, C_t, BN, BD)
        p0 = channel_part(h, g0, BN, BD, C_FORM)
        B_t = projection(B_ptr + STEP * B_stride, B_all, n, t + 1 < steps, N, B_FORM)
        C_t = projection(C_ptr + STEP * C_stride, C_all, n, t + 1 < steps, N, C_FORM)
        h, E, J, added, dA, ea1, y1 = step_forward(h, E, J, added, dA, d1, e1, g1, A2, B_t, C_t, BN, BD)
        p1 = channel_part(h, g1, BN, BD, C_FORM)
        B_t = projection(B_ptr + 2 * STEP * B_stride, B_all, n, t + 2 < steps, N, B_FORM)
        C_t = projection(C_ptr + 2 * STEP * C_stride, C_all, n, t + 2 < steps, N, C_FORM)
        h, E, J, added, dA, ea2, y2 = step_forward(h, E, J, added, dA, d2, e2, g2, A2, B_t, C_t, BN, BD)
        p2 = channel_part(h, g2, BN, BD, C_FORM)
        B_t = projection(B_ptr + 3 * STEP * B_stride, B_all, n, t + 3 < steps, N, B_FORM)
        C_t = projection(C_ptr + 3 * STEP * C_stride, C_all, n, t + 3 < steps, N, C_FORM)
        h, E, J, added, dA, ea3, y3 = step_forward(h, E, J, added, dA, d3, e3, g3, A2, B_t, C_t, BN, BD)
        p3 = channel_part(h, g3, BN, BD, C_FORM)
        dC = finish_sums(dC_ptr, dC, p0, p1, p2, p3, BN, N, C_FORM)
        total += (d0 + d1) + (d2 + d3)
        if HAS_D:
            dD += tl.sum(gated * u, 1)
        store_halves(high_ptr, low_ptr, offsets, gated * from_columns(ea0, ea1, ea2, ea3, BD), mask, SPLIT)
        if HAS_Z:
            y = from_columns(y0, y1, y2, y3, BD) + skip[:, None] * u
            tl.store(dz_ptr + offsets, slope * y, mask=mask)
        if ((t + 4) % STRIDE == 0) | (t + 4 >= steps):
            tl.store(kept_ptr + state, h, mask=state_mask)
            kept_ptr += size
        u_ptr += 4 * STEP * channels
        dt_ptr += 4 * STEP * channels
        z_ptr += 4 * STEP * channels
        dy_ptr += 4 * STEP * channels
        dz_ptr += 4 * STEP * channels
        high_ptr += 4 * STEP * channels
        low_ptr += 4 * STEP * channels
        B_ptr += 4 * STEP * B_stride
        C_ptr += 4 * STEP * C_stride
        if C_FORM < 2:
            dC_ptr += 4 * N
    tl.store(added_ptr + flat * size + state, added, mask=state_mask)
    tl.store(reached_ptr + flat * size + state, J, mask=state_mask)
    tl.store(dA_ptr + flat * size + state, dA, mask=state_mask)
    if C_FORM == 2:
        tl.store(dC_ptr + flat * size + state, dC, mask=state_mask)
    tl.store(sums_ptr + flat * channels + channel, total, mask=exists)
    if HAS_D:
        tl.store(dD_ptr + part * channels + channel, dD, mask=exists)


@triton.jit
def step_backward(q, d, du, gated, A2, B_t, C_t, BN: tl.constexpr, BD: tl.constexpr):
    """Step sweep 2 back from q_{t+1} to q_t; also return A2 . (B q_{t+1}), B . gh, and gh."""
    through_input = sum_states(A2 * (B_t * q), BN, BD)
    gh = q + C_t * gated[None, :]
    return tl.exp2(d[None, :] * A2) * gh, through_input, sum_states(B_t * gh, BN, BD), gh


@triton.jit(do_not_specialize=SIZES)
def sweep_backward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, dy_ptr, states_ptr,
    high_ptr, low_ptr, kept_ptr, q_ptr, du_ptr, ddt_ptr, dB_ptr, dbias_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment, groups,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr,
    PACKED: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr, SPLIT: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """Sweep 2 over one chunk, last step first, from kept state to kept state."""
    flat, owner, part, entering, row, steps, _last, block, group, channel, exists = program_place(
        table_ptr, length, channels, chunk, chunks, channel_blocks, first, segment, groups, BD, STEP, PACKED
    )
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    rounds = tl.cdiv(steps, STRIDE)
    t = rounds * STRIDE
    row += t * STEP
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    A2 = decay_rates(A_ptr, channel, n, N, exists)
    slowest = tl.max(tl.where(n[:, None] < N, A2, -float("inf")), 0)
    B_all = tile_of(B_ptr, channel, exists, n, N, B_FORM)
    C_all = tile_of(C_ptr, channel, exists, n, N, C_FORM)
    u_ptr += row * channels
    dt_ptr += row * channels
    z_ptr += row * channels
    dy_ptr += row * channels
    du_ptr += row * channels
    ddt_ptr += row * channels
    high_ptr += row * channels
    low_ptr += row * channels
    state = state_offsets(channel, n, N)
    state_mask = (n[:, None] < N) & exists[None, :]
    size = channels.to(tl.int64) * N
    kept_ptr += (flat * tl.cdiv(chunk, STRIDE) + rounds) * size
    if B_FORM < 2:
        dB_ptr += (((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk + t) * N
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    q = tl.load(q_ptr + flat * size + state, mask=state_mask, other=0.0)
    dB = tl.zeros([BN, BD], tl.float32)
    running = tl.zeros([BD], tl.float32)
    dbias = tl.zeros([BD], tl.float32)
    plain = tl.zeros([BD], tl.float32)
    summed = tl.zeros([BD], tl.float32)
    offsets = (k * STEP)[None, :] * channels + channel[:, None]
    # One flat loop: with one in another, the compiler carries an address for every element of every tensor.
    for i in range(0, rounds * STRIDE, 4):
        if i % STRIDE == 0:
            kept_ptr -= size
            exact = sum_states(A2 * (q * tl.load(kept_ptr + state, mask=state_mask, other=0.0)), BN, BD)
            # Before the first round both sums are zero.
            dbias -= correction(running, exact, plain, summed, STRIDE) * 0.6931471805599453
            running = exact
            plain = tl.zeros([BD], tl.float32)
            summed = tl.zeros([BD], tl.float32)
        t -= 4
        u_ptr -= 4 * STEP * channels
        dt_ptr -= 4 * STEP * channels
        z_ptr -= 4 * STEP * channels
        dy_ptr -= 4 * STEP * channels
        du_ptr -= 4 * STEP * channels
        ddt_ptr -= 4 * STEP * channels
        high_ptr -= 4 * STEP * channels
        low_ptr -= 4 * STEP * channels
        B_ptr -= 4 * STEP * B_stride
        C_ptr -= 4 * STEP * C_stride
        if B_FORM < 2:
            dB_ptr -= 4 * N
        mask = exists[:, None] & (t + k < steps)[None, :]
        u = four_rows(u_ptr, offsets, mask)
        d, slope = step_size(four_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        gated = four_rows(dy_ptr, offsets, mask)
        ea = load_halves(high_ptr, low_ptr, offsets, mask, SPLIT)
        if HAS_Z:
            z = four_rows(z_ptr, offsets, mask)
            gated = gated * (z * sigmoid(z))
        if WARPS > 1:
            # Several warps may read the same ea, and one of them will write over it.
            tl.debug_barrier()
        d0, d1, d2, d3 = columns(d, BD)
        du = d * u
        e0, e1, e2, e3 = columns(du, BD)
        g0, g1, g2, g3 = columns(gated, BD)
        B_t = projection(B_ptr + 3 * STEP * B_stride, B_all, n, t + 3 < steps, N, B_FORM)
        C_t = projection(C_ptr + 3 * STEP * C_stride, C_all, n, t + 3 < steps, N, C_FORM)
        q, Q3, r3, gh = step_backward(q, d3, e3, g3, A2, B_t, C_t, BN, BD)
        p3 = channel_part(gh, e3, BN, BD, B_FORM)
        B_t = projection(B_ptr + 2 * STEP * B_stride, B_all, n, t + 2 < steps, N, B_FORM)
        C_t = projection(C_ptr + 2 * STEP * C_stride, C_all, n, t + 2 < steps, N, C_FORM)
        q, Q2, r2, gh = step_backward(q, d2, e2, g2, A2, B_t, C_t, BN, BD)
        p2 = channel_part(gh, e2, BN, BD, B_FORM)
        B_t = projection(B_ptr + STEP * B_stride, B_all, n, t + 1 < steps, N, B_FORM)
        C_t = projection(C_ptr + STEP * C_stride, C_all, n, t + 1 < steps, N, C_FORM)
        q, Q1, r1, gh = step_backward(q, d1, e1, g1, A2, B_t, C_t, BN, BD)
        p1 = channel_part(gh, e1, BN, BD, B_FORM)
        B_t = projection(B_ptr, B_all, n, t < steps, N, B_FORM)
        C_t = projection(C_ptr, C_all, n, t < steps, N, C_FORM)
        q, Q0, r0, gh = step_backward(q, d0, e0, g0, A2, B_t, C_t, BN, BD)
        p0 = channel_part(gh, e0, BN, BD, B_FORM)
        dB = finish_sums(dB_ptr, dB, p0, p1, p2, p3, BN, N, B_FORM)
        grown = ea - du * from_columns(Q0, Q1, Q2, Q3, BD)
        rate = from_columns(r0, r1, r2, r3, BD)
        w0, w1, w2, w3 = columns(grown, BD)
        # Where nothing is left of the state, neither is of the gradient through its decay.
        l0, l1, l2, l3 = columns(tl.where(d * slowest[:, None] < -40.0, 0.0, 1.0), BD)
        w3 = tl.where(l3 > 0.0, w3 + running, 0.0)
        w2 = tl.where(l2 > 0.0, w2 + w3, 0.0)
        w1 = tl.where(l1 > 0.0, w1 + w2, 0.0)
        running = tl.where(l0 > 0.0, w1 + w0, 0.0)
        ddt = (from_columns(running, w1, w2, w3, BD) * 0.6931471805599453 + u * rate) * slope
        if HAS_BIAS:
            dbias += tl.sum(ddt, 1)
            s0, s1, s2, s3 = columns(slope, BD)
            s2 += s3
            s1 += s2
            s0 += s1
            summed += 4.0 * plain + ((s0 + s1) + (s2 + s3))
            plain += s0
        tl.store(du_ptr + offsets, d * rate + skip[:, None] * gated, mask=mask)
        tl.store(ddt_ptr + offsets, ddt, mask=mask)
    if HAS_BIAS:
        # No state enters a chunk beyond the last of packed sequences.
        present = state_mask & (steps > 0)
        h = entering_state(states_ptr, start_ptr, entering, owner, channels, state, present, N, HAS_START)
        exact = sum_states(A2 * (q * h), BN, BD)
        dbias -= correction(running, exact, plain, summed, STRIDE) * 0.6931471805599453
        tl.store(dbias_ptr + part * channels + channel, dbias, mask=exists)
    if B_FORM == 2:
        tl.store(dB_ptr + flat * size + state, dB, mask=state_mask)


def _blocks(tile: TileShape, channels: int, groups: int) -> int:
    return groups * -(-(channels // groups) // tile.channels)


def backward(
    dy: Tensor,
    dh_last: Tensor | None,
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
    chunk_states: Tensor,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (du, ddt, dA, dB, dC, dD, dz, dbias, dh0), each in its input's dtype.

    Scratch memory beside these is at most `BYTES_PER_ELEMENT` bytes per element of u, or `SCRATCH` where that is more,
    as long as one chunk of one batch row fits into it.
    """
    refuse_complex(A)
    batch, length, channels = u.shape
    N, groups = A.shape[1], groups_of(B, C)
    chunk = gpu_chunk(batch, length, channels, N)
    chunks, sequences, packed = triton.cdiv(length, chunk), batch, cu_seqlens is not None and cu_seqlens.shape[0] > 2
    table = borders = A
    if cu_seqlens is not None and packed:
        table, borders = chunk_table(cu_seqlens, length, chunk, reverse)
        sequences, chunks = cu_seqlens.shape[0] - 1, table.shape[0]

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, device=u.device, dtype=torch.float32)

    du, ddt = torch.empty_like(u), torch.empty_like(dt)
    high, low, split = halves(du, ddt)
    dB, dC = (torch.zeros_like(x, dtype=torch.float32) if x.dim() == 2 else torch.empty_like(x) for x in (B, C))
    dz = None if z is None else torch.empty_like(z)
    dD = None if D is None else scratch(batch * chunks, channels)
    dbias = None if bias is None else scratch(batch * chunks, channels)
    # A sequence without steps has no part in dA.
    dA = (torch.zeros if packed else torch.empty)(sequences, channels, N, device=u.device, dtype=torch.float32)
    carry = scratch(sequences, channels, N)
    carry.zero_() if dh_last is None else carry.copy_(dh_last)

    there, back = tile_shape("sweep_forward", N), tile_shape("sweep_backward", N)
    there_blocks, back_blocks = _blocks(there, channels, groups), _blocks(back, channels, groups)
    pieces, strides = triton.cdiv(channels * N, 32), triton.cdiv(chunk, STRIDE)
    part_floats = max(
        channels * N if x.dim() == 2 else blocks * chunk * N for x, blocks in ((C, there_blocks), (B, back_blocks))
    )
    chunk_floats = strides * channels * N + part_floats + 3 * channels * N + channels
    allowed = max(SCRATCH, BYTES_PER_ELEMENT * u.numel()) // (4 * chunk_floats)
    whole = allowed >= batch * chunks
    cuts = [(slice(0, batch), 0, chunks)] if whole else slabs(batch, chunks, allowed, max(1, RESIDENT // there_blocks))
    most = max((rows.stop - rows.start) * segment for rows, _, segment in cuts)
    kept, part = scratch(most * strides * channels * N), scratch(most * part_floats)
    q, reached, added = (scratch(most, channels, N) for _ in range(3))
    sums = scratch(most, channels)
    key = launch_key((u, dt, A, B, C, D, z, bias, h0, dy))
    step = -1 if reverse else 1
    shape = {
        "N": N, "STRIDE": STRIDE, "STEP": step, "PACKED": packed, "B_FORM": form_of(B), "C_FORM": form_of(C),
        "SPLIT": split, "SOFTPLUS": softplus, "HAS_BIAS": bias is not None, "HAS_D": D is not None,
        "HAS_Z": z is not None, "HAS_START": h0 is not None,
    }  # fmt: skip
    for rows, first, segment in cuts:
        own = rows_taken(rows, batch)
        spread = rows_taken(slice(rows.start * chunks, rows.stop * chunks), batch * chunks)
        count = rows.stop - rows.start
        flat = count * segment

        def add(total: Tensor, blocks: int, own: Callable[[Tensor], Tensor] = own, flat: int = flat,
                first: int = first, segment: int = segment) -> None:  # fmt: skip
            """Add what a sweep left in `part` to dB or dC."""
            if total.dim() == 2:
                total += part[: flat * channels * N].view(flat, channels, N).sum(0)
            elif packed or total.dim() == 4:
                parts = total.shape[2] if total.dim() == 4 else 1
                launch(
                    add_group_blocks, flat * parts * triton.cdiv(chunk * N, 128),
                    (part, own(total), table, length, chunk, blocks, first, segment, flat, parts),
                    {"N": N, "BLOCK": 128, "STEP": step, "PACKED": packed}, key and (key, total.dtype), num_warps=1,
                )  # fmt: skip
            else:
                launch(
                    add_blocks, flat * triton.cdiv(chunk * N, 128),
                    (part, own(total), length, chunk, blocks, first, segment, flat),
                    {"N": N, "BLOCK": 128, "REVERSE": reverse}, key and (key, total.dtype), num_warps=1,
                )  # fmt: skip

        inputs = (
            own(u), own(dt), A, B if B.dim() == 2 else own(B), C if C.dim() == 2 else own(C), given(D, A),
            own(given(z, u)), given(bias, A), A if h0 is None else h0 if packed else own(h0), table, own(dy),
            own(chunk_states),
        )  # fmt: skip
        ea = own(high), own(low)
        sizes = (length, channels, chunk, chunks)
        with on_device_of(u):
            launch(
                sweep_forward, flat * there_blocks,
                (*inputs, own(given(dz, u)), *ea, kept, part, q, reached, added, sums,
                 A if dD is None else spread(dD), *sizes, there_blocks, first, segment, groups),
                {**shape, "BN": there.states, "BD": there.channels, "WARPS": there.options["num_warps"]},
                key, **there.options,
            )  # fmt: skip
            add(dC, there_blocks)
            if packed:
                launch(
                    pass_backward_packed, sequences * pieces,
                    (A, carry, borders, sums, q, reached, added, dA, channels, first, segment, pieces),
                    {"N": N, "BLOCK": 32}, key, num_warps=1,
                )  # fmt: skip
            else:
                launch(
                    pass_backward, count * pieces,
                    (A, own(carry), sums, q, reached, added, own(dA), channels, segment, pieces),
                    {"N": N, "BLOCK": 32, "ADD": first + segment < chunks}, key, num_warps=1,
                )  # fmt: skip
            launch(
                sweep_backward, flat * back_blocks,
                (*inputs, *ea, kept, q, own(du), own(ddt), part, A if dbias is None else spread(dbias), *sizes,
                 back_blocks, first, segment, groups),
                {**shape, "BN": back.states, "BD": back.channels, "WARPS": back.options["num_warps"]},
                key, **back.options,
            )  # fmt: skip
            add(dB, back_blocks)
    sum_A = torch.empty_like(A)
    sum_D, sum_bias = (None if x is None else torch.empty_like(x) for x in (D, bias))
    with on_device_of(u):
        if sequences > 64:
            dA = dA.sum(0, keepdim=True)
        launch(
            add_rows, triton.cdiv(channels * N, 256) + triton.cdiv(channels, 32),
            (dA, sum_A, given(dD, dA), given(sum_D, A), given(dbias, dA), given(sum_bias, A), dA.shape[0],
             channels * N, batch * chunks, channels),
            {"BLOCK": 256, "HAS_D": D is not None, "HAS_BIAS": bias is not None}, key, num_warps=1,
        )  # fmt: skip
    return (
        du, ddt, sum_A, dB.to(B.dtype), dC.to(C.dtype), sum_D, dz, sum_bias,
        None if h0 is None else carry.to(h0.dtype),
    )  # fmt: skip
