"""The two sweeps of the scan's backward for complex states: those of `triton_sweeps` on pairs of tiles.

Gradients are carried as their conjugates, see `triton_complex`. The gradient through a_t is as there a running sum, of
Re A (2 gated_t C_t p_t) from the first sweep less Re A (Q_{t+1} b_t), since s_t = Q_t h_{t-1} has the same recursion.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from seqdomains.kernels.selective_scan.triton_complex import (
    add_times_row,
    add_turns,
    advance_pair,
    chunk_decay,
    constant_tile,
    decay,
    entering_pair,
    finish_states,
    load_planes,
    most_turn,
    row_pair,
    state_offsets,
    state_part,
    step_rows,
    store_planes,
    times,
    turns_of,
)
from seqdomains.kernels.selective_scan.triton_complex_sums import finish_pairs, pair_part, store_constant, sum_states
from seqdomains.kernels.selective_scan.triton_tile import (
    SIZES,
    correction,
    load_halves,
    program_place,
    rows_of,
    sigmoid,
    step_size,
    store_halves,
)
from seqdomains.kernels.triton_parts import channel_values, columns, from_columns


@triton.jit
def step_pair_forward(
    hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, d, turn, du, gated, Ar, Ai, br, bi, cr, ci,
    BN: tl.constexpr, BD: tl.constexpr, B_COMPLEX: tl.constexpr, C_COMPLEX: tl.constexpr,
):  # fmt: skip
    """Advance sweep 1 by one step; also return what a lane has of Re A . (C p) and Re C . h."""
    ar, ai = decay((d * 1.4426950408889634)[None, :], turn[None, :], Ar, Ai)
    Er, Ei = times(ar, ai, Er, Ei)
    gr = cr * gated[None, :]
    gi = ci * gated[None, :]
    added_r, added_i = add_times_row(added_r, added_i, Er, Ei, gr, gi, C_COMPLEX)
    xr, xi = times(ar, ai, Jr, Ji)
    pr, pi, hr, hi = advance_pair(hr, hi, ar, ai, du, br, bi, B_COMPLEX)
    Jr = xr + d[None, :] * pr
    Ji = xi + d[None, :] * pi
    dAr, dAi = add_times_row(dAr, dAi, Jr, Ji, gr, gi, C_COMPLEX)
    xr, xi = times(Ar, Ai, pr, pi)
    ea = state_part(xr, xi, cr, ci, BN, BD, C_COMPLEX)
    y = state_part(hr, hi, cr, ci, BN, BD, C_COMPLEX)
    return hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, ea, y


@triton.jit(do_not_specialize=SIZES)
def complex_sweep_forward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, dy_ptr, states_ptr,
    dz_ptr, high_ptr, low_ptr, kept_ptr, dC_ptr, added_ptr, reached_ptr, dA_ptr, decays_ptr, dD_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment, groups,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr,
    PACKED: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr, B_COMPLEX: tl.constexpr, C_COMPLEX: tl.constexpr,
    SPLIT: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_START: tl.constexpr,
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
    C_WIDTH: tl.constexpr = 2 * N if C_COMPLEX else N
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    size = channels.to(tl.int64) * N
    state = state_offsets(channel, n, N)
    state_mask = (n[:, None] < N) & exists[None, :]
    kept_ptr += flat * tl.cdiv(chunk, STRIDE) * (2 * size)
    if C_FORM < 2:
        dC_ptr += ((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk * C_WIDTH
    Ar, Ai = load_planes(A_ptr, 0, size, state, state_mask)
    most = most_turn(Ai)
    Br, Bi = constant_tile(B_ptr, state, state_mask, B_FORM, B_COMPLEX)
    Cr, Ci = constant_tile(C_ptr, state, state_mask, C_FORM, C_COMPLEX)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    hr, hi = entering_pair(states_ptr, start_ptr, entering, owner, channels, state, state_mask, N, HAS_START)
    Er = tl.full([BN, BD], 1.0, tl.float32)
    Ei = tl.zeros([BN, BD], tl.float32)
    Jr = tl.zeros([BN, BD], tl.float32)
    Ji = tl.zeros([BN, BD], tl.float32)
    added_r = tl.zeros([BN, BD], tl.float32)
    added_i = tl.zeros([BN, BD], tl.float32)
    dAr = tl.zeros([BN, BD], tl.float32)
    dAi = tl.zeros([BN, BD], tl.float32)
    dCr = tl.zeros([BN, BD], tl.float32)
    dCi = tl.zeros([BN, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    lost = tl.zeros([BD], tl.float32)
    dD = tl.zeros([BD], tl.float32)
    offsets = (k * STEP)[None, :] * channels + channel[:, None]
    for t in range(0, steps, 4):
        mask = exists[:, None] & (t + k < steps)[None, :]
        u = step_rows(u_ptr, offsets, mask)
        d, _d_slope = step_size(step_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        gated = step_rows(dy_ptr, offsets, mask)
        if HAS_Z:
            z = step_rows(z_ptr, offsets, mask)
            gate = sigmoid(z)
            slope = gated * gate * (1.0 + z * (1.0 - gate))
            gated = gated * (z * gate)
        turn = turns_of(d, most)
        total, lost = add_turns(total, lost, turn)
        d0, d1, d2, d3 = columns(d, BD)
        t0, t1, t2, t3 = columns(turn, BD)
        e0, e1, e2, e3 = columns(d * u, BD)
        # The 2 of a state and its conjugate.
        g0, g1, g2, g3 = columns(2.0 * gated, BD)
        br, bi = row_pair(B_ptr, Br, Bi, n, t < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr, Cr, Ci, n, t < steps, N, C_FORM, C_COMPLEX)
        hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, ea0, y0 = step_pair_forward(
            hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, d0, t0, e0, g0, Ar, Ai, br, bi, cr, ci,
            BN, BD, B_COMPLEX, C_COMPLEX,
        )  # fmt: skip
        p0, i0 = pair_part(hr, hi, g0, BN, BD, C_FORM, C_COMPLEX)
        br, bi = row_pair(B_ptr + STEP * B_stride, Br, Bi, n, t + 1 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + STEP * C_stride, Cr, Ci, n, t + 1 < steps, N, C_FORM, C_COMPLEX)
        hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, ea1, y1 = step_pair_forward(
            hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, d1, t1, e1, g1, Ar, Ai, br, bi, cr, ci,
            BN, BD, B_COMPLEX, C_COMPLEX,
        )  # fmt: skip
        p1, i1 = pair_part(hr, hi, g1, BN, BD, C_FORM, C_COMPLEX)
        br, bi = row_pair(B_ptr + 2 * STEP * B_stride, Br, Bi, n, t + 2 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + 2 * STEP * C_stride, Cr, Ci, n, t + 2 < steps, N, C_FORM, C_COMPLEX)
        hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, ea2, y2 = step_pair_forward(
            hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, d2, t2, e2, g2, Ar, Ai, br, bi, cr, ci,
            BN, BD, B_COMPLEX, C_COMPLEX,
        )  # fmt: skip
        p2, i2 = pair_part(hr, hi, g2, BN, BD, C_FORM, C_COMPLEX)
        br, bi = row_pair(B_ptr + 3 * STEP * B_stride, Br, Bi, n, t + 3 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + 3 * STEP * C_stride, Cr, Ci, n, t + 3 < steps, N, C_FORM, C_COMPLEX)
        hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, ea3, y3 = step_pair_forward(
            hr, hi, Er, Ei, Jr, Ji, added_r, added_i, dAr, dAi, d3, t3, e3, g3, Ar, Ai, br, bi, cr, ci,
            BN, BD, B_COMPLEX, C_COMPLEX,
        )  # fmt: skip
        p3, i3 = pair_part(hr, hi, g3, BN, BD, C_FORM, C_COMPLEX)
        dCr, dCi = finish_pairs(dC_ptr, dCr, dCi, p0, i0, p1, i1, p2, i2, p3, i3, BN, N, C_FORM, C_COMPLEX)
        if HAS_D:
            dD += tl.sum(gated * u, 1)
        store_halves(high_ptr, low_ptr, offsets, 2.0 * gated * finish_states(ea0, ea1, ea2, ea3, BN, BD), mask, SPLIT)
        if HAS_Z:
            y = 2.0 * finish_states(y0, y1, y2, y3, BN, BD) + skip[:, None] * u
            tl.store(dz_ptr + offsets, slope * y, mask=mask)
        if ((t + 4) % STRIDE == 0) | (t + 4 >= steps):
            tl.store(kept_ptr + state, hr, mask=state_mask)
            tl.store(kept_ptr + (size + state), hi, mask=state_mask)
            kept_ptr += 2 * size
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
            dC_ptr += 4 * C_WIDTH
    store_planes(added_ptr, flat, size, state, state_mask, added_r, added_i)
    store_planes(reached_ptr, flat, size, state, state_mask, Jr, Ji)
    store_planes(dA_ptr, flat, size, state, state_mask, dAr, dAi)
    Er, Ei = chunk_decay(Ar, Ai, total[None, :], lost[None, :])
    store_planes(decays_ptr, flat, size, state, state_mask, Er, Ei)
    if C_FORM == 2:
        store_constant(dC_ptr, flat, size, state, state_mask, dCr, dCi, C_COMPLEX)
    if HAS_D:
        tl.store(dD_ptr + part * channels + channel, dD, mask=exists)


@triton.jit
def step_pair_backward(
    qr, qi, growth, turn, gated, Ar, Ai, br, bi, cr, ci,
    BN: tl.constexpr, BD: tl.constexpr, B_COMPLEX: tl.constexpr, C_COMPLEX: tl.constexpr,
):  # fmt: skip
    """Step sweep 2 back to Q_t; also return what a lane has of Re A . (B Q_{t+1}) and of Re B . GH, and GH."""
    xr, xi = times(Ar, Ai, qr, qi)
    through_input = state_part(xr, xi, br, bi, BN, BD, B_COMPLEX)
    ghr = qr + cr * gated[None, :]
    ghi = qi
    if C_COMPLEX:
        ghi += ci * gated[None, :]
    rate = state_part(ghr, ghi, br, bi, BN, BD, B_COMPLEX)
    ar, ai = decay(growth[None, :], turn[None, :], Ar, Ai)
    qr, qi = times(ar, ai, ghr, ghi)
    return qr, qi, through_input, rate, ghr, ghi


@triton.jit
def exact_sum(Ar, Ai, qr, qi, hr, hi, BN: tl.constexpr, BD: tl.constexpr):
    """Return Re A . (Q h)."""
    xr, xi = times(Ar, Ai, qr, qi)
    return sum_states(xr * hr - xi * hi, BN, BD)


@triton.jit(do_not_specialize=SIZES)
def complex_sweep_backward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, dy_ptr, states_ptr,
    high_ptr, low_ptr, kept_ptr, q_ptr, du_ptr, ddt_ptr, dB_ptr, dbias_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment, groups,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr,
    PACKED: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr, B_COMPLEX: tl.constexpr, C_COMPLEX: tl.constexpr,
    SPLIT: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_START: tl.constexpr,
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
    u_ptr += row * channels
    dt_ptr += row * channels
    z_ptr += row * channels
    dy_ptr += row * channels
    du_ptr += row * channels
    ddt_ptr += row * channels
    high_ptr += row * channels
    low_ptr += row * channels
    B_WIDTH: tl.constexpr = 2 * N if B_COMPLEX else N
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    size = channels.to(tl.int64) * N
    state = state_offsets(channel, n, N)
    state_mask = (n[:, None] < N) & exists[None, :]
    kept_ptr += (flat * tl.cdiv(chunk, STRIDE) + rounds) * (2 * size)
    if B_FORM < 2:
        dB_ptr += (((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk + t) * B_WIDTH
    Ar, Ai = load_planes(A_ptr, 0, size, state, state_mask)
    most = most_turn(Ai)
    slowest = tl.max(tl.where(n[:, None] < N, Ar, -float("inf")), 0)
    Br, Bi = constant_tile(B_ptr, state, state_mask, B_FORM, B_COMPLEX)
    Cr, Ci = constant_tile(C_ptr, state, state_mask, C_FORM, C_COMPLEX)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    q_ptr += flat * (2 * size)
    qr = tl.load(q_ptr + state, mask=state_mask, other=0.0)
    qi = tl.load(q_ptr + (size + state), mask=state_mask, other=0.0)
    dBr = tl.zeros([BN, BD], tl.float32)
    dBi = tl.zeros([BN, BD], tl.float32)
    running = tl.zeros([BD], tl.float32)
    dbias = tl.zeros([BD], tl.float32)
    plain = tl.zeros([BD], tl.float32)
    summed = tl.zeros([BD], tl.float32)
    offsets = (k * STEP)[None, :] * channels + channel[:, None]
    for i in range(0, rounds * STRIDE, 4):
        if i % STRIDE == 0:
            kept_ptr -= 2 * size
            hr = tl.load(kept_ptr + state, mask=state_mask, other=0.0)
            hi = tl.load(kept_ptr + (size + state), mask=state_mask, other=0.0)
            exact = exact_sum(Ar, Ai, qr, qi, hr, hi, BN, BD)
            # Before the first round both sums are zero.
            dbias -= correction(running, exact, plain, summed, STRIDE)
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
            dB_ptr -= 4 * B_WIDTH
        mask = exists[:, None] & (t + k < steps)[None, :]
        u = step_rows(u_ptr, offsets, mask)
        d, slope = step_size(step_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        gated = step_rows(dy_ptr, offsets, mask)
        ea = load_halves(high_ptr, low_ptr, offsets, mask, SPLIT)
        if HAS_Z:
            z = step_rows(z_ptr, offsets, mask)
            gated = gated * (z * sigmoid(z))
        if WARPS > 1:
            # Several warps may read the same ea, and one of them will write over it.
            tl.debug_barrier()
        growth = d * 1.4426950408889634
        growth0, growth1, growth2, growth3 = columns(growth, BD)
        t0, t1, t2, t3 = columns(turns_of(d, most), BD)
        du = d * u
        e0, e1, e2, e3 = columns(du, BD)
        g0, g1, g2, g3 = columns(2.0 * gated, BD)
        br, bi = row_pair(B_ptr + 3 * STEP * B_stride, Br, Bi, n, t + 3 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + 3 * STEP * C_stride, Cr, Ci, n, t + 3 < steps, N, C_FORM, C_COMPLEX)
        qr, qi, Q3, r3, ghr, ghi = step_pair_backward(
            qr, qi, growth3, t3, g3, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX
        )
        p3, i3 = pair_part(ghr, ghi, e3, BN, BD, B_FORM, B_COMPLEX)
        br, bi = row_pair(B_ptr + 2 * STEP * B_stride, Br, Bi, n, t + 2 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + 2 * STEP * C_stride, Cr, Ci, n, t + 2 < steps, N, C_FORM, C_COMPLEX)
        qr, qi, Q2, r2, ghr, ghi = step_pair_backward(
            qr, qi, growth2, t2, g2, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX
        )
        p2, i2 = pair_part(ghr, ghi, e2, BN, BD, B_FORM, B_COMPLEX)
        br, bi = row_pair(B_ptr + STEP * B_stride, Br, Bi, n, t + 1 < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr + STEP * C_stride, Cr, Ci, n, t + 1 < steps, N, C_FORM, C_COMPLEX)
        qr, qi, Q1, r1, ghr, ghi = step_pair_backward(
            qr, qi, growth1, t1, g1, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX
        )
        p1, i1 = pair_part(ghr, ghi, e1, BN, BD, B_FORM, B_COMPLEX)
        br, bi = row_pair(B_ptr, Br, Bi, n, t < steps, N, B_FORM, B_COMPLEX)
        cr, ci = row_pair(C_ptr, Cr, Ci, n, t < steps, N, C_FORM, C_COMPLEX)
        qr, qi, Q0, r0, ghr, ghi = step_pair_backward(
            qr, qi, growth0, t0, g0, Ar, Ai, br, bi, cr, ci, BN, BD, B_COMPLEX, C_COMPLEX
        )
        p0, i0 = pair_part(ghr, ghi, e0, BN, BD, B_FORM, B_COMPLEX)
        dBr, dBi = finish_pairs(dB_ptr, dBr, dBi, p0, i0, p1, i1, p2, i2, p3, i3, BN, N, B_FORM, B_COMPLEX)
        rate = finish_states(r0, r1, r2, r3, BN, BD)
        w0, w1, w2, w3 = columns(ea - du * finish_states(Q0, Q1, Q2, Q3, BN, BD), BD)
        # Where nothing is left of the state, neither is of the gradient through its decay.
        l0, l1, l2, l3 = columns(tl.where(growth * slowest[:, None] < -40.0, 0.0, 1.0), BD)
        w3 = tl.where(l3 > 0.0, w3 + running, 0.0)
        w2 = tl.where(l2 > 0.0, w2 + w3, 0.0)
        w1 = tl.where(l1 > 0.0, w1 + w2, 0.0)
        running = tl.where(l0 > 0.0, w1 + w0, 0.0)
        ddt = (from_columns(running, w1, w2, w3, BD) + u * rate) * slope
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
        hr, hi = entering_pair(states_ptr, start_ptr, entering, owner, channels, state, present, N, HAS_START)
        exact = exact_sum(Ar, Ai, qr, qi, hr, hi, BN, BD)
        dbias -= correction(running, exact, plain, summed, STRIDE)
        tl.store(dbias_ptr + part * channels + channel, dbias, mask=exists)
    if B_FORM == 2:
        store_constant(dB_ptr, flat, size, state, state_mask, dBr, dBi, B_COMPLEX)
