"""The two sweeps of the scan's backward; see `triton_backward` for the method."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from seqdomains.kernels.selective_scan.triton_sums import store_sums
from seqdomains.kernels.selective_scan.triton_tile import (
    SIZES,
    correction,
    decay_rates,
    entering_state,
    kept_offsets,
    load_halves,
    load_tile,
    program_place,
    projection,
    row_offsets,
    rows_of,
    sigmoid,
    step_size,
    store_halves,
    store_tile,
    tile_of,
    tile_offsets,
)
from seqdomains.kernels.triton_parts import channel_values, columns, exp2_of, four_rows, from_columns


@triton.jit
def step_forward(h, E, J, added, dA, d, du, gated, A2, B_t, C_t):
    """Advance sweep 1 by one step; also return A2 . (C p) and C . h."""
    a = exp2_of(d[:, None], A2)
    E = a * E
    g = C_t * gated[:, None]
    added += E * g
    p = a * h
    ea = tl.sum(A2 * (C_t * p), 1)
    J = a * J + d[:, None] * p
    dA += J * g
    h = p + B_t * du[:, None]
    return h, E, J, added, dA, ea, tl.sum(C_t * h, 1)


@triton.jit(do_not_specialize=SIZES)
def sweep_forward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, dy_ptr, states_ptr,
    dz_ptr, high_ptr, low_ptr, kept_ptr, dC_ptr, added_ptr, reached_ptr, dA_ptr, sums_ptr, dD_ptr,
    length, chunk, chunks, channel_blocks, first, segment, groups,
    CHANNELS: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr,
    STRIDE: tl.constexpr, STEP: tl.constexpr, PACKED: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr,
    SPLIT: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_START: tl.constexpr,
):  # fmt: skip
    """Sweep 1 over one chunk."""
    flat, owner, part, entering, row, steps, _last, block, group, channel, exists = program_place(
        table_ptr, length, CHANNELS, chunk, chunks, channel_blocks, first, segment, groups, BD, STEP, PACKED
    )
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    u_ptr += row * CHANNELS
    dt_ptr += row * CHANNELS
    z_ptr += row * CHANNELS
    dy_ptr += row * CHANNELS
    dz_ptr += row * CHANNELS
    high_ptr += row * CHANNELS
    low_ptr += row * CHANNELS
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    state = tile_offsets(channel, n, N)
    state_mask = exists[:, None] & (n[None, :] < N)
    size = CHANNELS * N
    kept = kept_offsets(channel, n, CHANNELS)
    kept_ptr += flat * tl.cdiv(chunk, STRIDE) * size
    if C_FORM < 2:
        dC_ptr += ((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk * N
    A2 = decay_rates(A_ptr, channel, n, exists, N, WARPS)
    B_all = tile_of(B_ptr, channel, exists, n, N, B_FORM, WARPS)
    C_all = tile_of(C_ptr, channel, exists, n, N, C_FORM, WARPS)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    h = entering_state(states_ptr, start_ptr, entering, owner, CHANNELS, state, state_mask, N, WARPS, HAS_START)
    E = tl.full([BD, BN], 1.0, tl.float32)
    J = tl.zeros([BD, BN], tl.float32)
    added = tl.zeros([BD, BN], tl.float32)
    dA = tl.zeros([BD, BN], tl.float32)
    dC = tl.zeros([BD, BN], tl.float32)
    total = tl.zeros([BD], tl.float32)
    dD = tl.zeros([BD], tl.float32)
    offsets = row_offsets(channel, CHANNELS, STEP)
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
        h0, E, J, added, dA, ea0, y0 = step_forward(h, E, J, added, dA, d0, e0, g0, A2, B_t, C_t)
        B_t = projection(B_ptr + STEP * B_stride, B_all, n, t + 1 < steps, N, B_FORM)
        C_t = projection(C_ptr + STEP * C_stride, C_all, n, t + 1 < steps, N, C_FORM)
        h1, E, J, added, dA, ea1, y1 = step_forward(h0, E, J, added, dA, d1, e1, g1, A2, B_t, C_t)
        B_t = projection(B_ptr + 2 * STEP * B_stride, B_all, n, t + 2 < steps, N, B_FORM)
        C_t = projection(C_ptr + 2 * STEP * C_stride, C_all, n, t + 2 < steps, N, C_FORM)
        h2, E, J, added, dA, ea2, y2 = step_forward(h1, E, J, added, dA, d2, e2, g2, A2, B_t, C_t)
        B_t = projection(B_ptr + 3 * STEP * B_stride, B_all, n, t + 3 < steps, N, B_FORM)
        C_t = projection(C_ptr + 3 * STEP * C_stride, C_all, n, t + 3 < steps, N, C_FORM)
        h3, E, J, added, dA, ea3, y3 = step_forward(h2, E, J, added, dA, d3, e3, g3, A2, B_t, C_t)
        h = h3
        dC = store_sums(dC_ptr, dC, h0, h1, h2, h3, gated, n, N, C_FORM)
        total += (d0 + d1) + (d2 + d3)
        if HAS_D:
            dD += tl.sum(gated * u, 1)
        store_halves(high_ptr, low_ptr, offsets, gated * from_columns(ea0, ea1, ea2, ea3, BD), mask, SPLIT)
        if HAS_Z:
            y = from_columns(y0, y1, y2, y3, BD) + skip[:, None] * u
            tl.store(dz_ptr + offsets, slope * y, mask=mask)
        if ((t + 4) % STRIDE == 0) | (t + 4 >= steps):
            store_tile(kept_ptr, kept, h, state_mask, WARPS)
            kept_ptr += size
        u_ptr += 4 * STEP * CHANNELS
        dt_ptr += 4 * STEP * CHANNELS
        z_ptr += 4 * STEP * CHANNELS
        dy_ptr += 4 * STEP * CHANNELS
        dz_ptr += 4 * STEP * CHANNELS
        high_ptr += 4 * STEP * CHANNELS
        low_ptr += 4 * STEP * CHANNELS
        B_ptr += 4 * STEP * B_stride
        C_ptr += 4 * STEP * C_stride
        if C_FORM < 2:
            dC_ptr += 4 * N
    store_tile(added_ptr + flat * size, state, added, state_mask, WARPS)
    store_tile(reached_ptr + flat * size, state, J, state_mask, WARPS)
    store_tile(dA_ptr + flat * size, state, dA, state_mask, WARPS)
    if C_FORM == 2:
        store_tile(dC_ptr + flat * size, state, dC, state_mask, WARPS)
    tl.store(sums_ptr + flat * CHANNELS + channel, total, mask=exists)
    if HAS_D:
        tl.store(dD_ptr + part * CHANNELS + channel, dD, mask=exists)


@triton.jit
def step_backward(q, d, gated, A2, B_t, C_t):
    """Step sweep 2 back from q_{t+1} to q_t; also return A2 . (B q_{t+1}), B . gh, and gh."""
    through_input = tl.sum(A2 * (B_t * q), 1)
    gh = q + C_t * gated[:, None]
    return exp2_of(d[:, None], A2) * gh, through_input, tl.sum(B_t * gh, 1), gh


@triton.jit(do_not_specialize=SIZES)
def sweep_backward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, table_ptr, dy_ptr, states_ptr,
    high_ptr, low_ptr, kept_ptr, q_ptr, du_ptr, ddt_ptr, dB_ptr, dbias_ptr,
    length, chunk, chunks, channel_blocks, first, segment, groups,
    CHANNELS: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WARPS: tl.constexpr,
    STRIDE: tl.constexpr, STEP: tl.constexpr, PACKED: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr,
    SPLIT: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_START: tl.constexpr,
):  # fmt: skip
    """Sweep 2 over one chunk, last step first, from kept state to kept state."""
    flat, owner, part, entering, row, steps, _last, block, group, channel, exists = program_place(
        table_ptr, length, CHANNELS, chunk, chunks, channel_blocks, first, segment, groups, BD, STEP, PACKED
    )
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    rounds = tl.cdiv(steps, STRIDE)
    t = rounds * STRIDE
    row += t * STEP
    B_ptr, B_stride = rows_of(B_ptr, row, group, groups, N, B_FORM)
    C_ptr, C_stride = rows_of(C_ptr, row, group, groups, N, C_FORM)
    A2 = decay_rates(A_ptr, channel, n, exists, N, WARPS)
    slowest = tl.max(tl.where(n[None, :] < N, A2, -float("inf")), 1)
    B_all = tile_of(B_ptr, channel, exists, n, N, B_FORM, WARPS)
    C_all = tile_of(C_ptr, channel, exists, n, N, C_FORM, WARPS)
    u_ptr += row * CHANNELS
    dt_ptr += row * CHANNELS
    z_ptr += row * CHANNELS
    dy_ptr += row * CHANNELS
    du_ptr += row * CHANNELS
    ddt_ptr += row * CHANNELS
    high_ptr += row * CHANNELS
    low_ptr += row * CHANNELS
    state = tile_offsets(channel, n, N)
    state_mask = exists[:, None] & (n[None, :] < N)
    size = CHANNELS * N
    kept = kept_offsets(channel, n, CHANNELS)
    kept_ptr += (flat * tl.cdiv(chunk, STRIDE) + rounds) * size
    if B_FORM < 2:
        dB_ptr += (((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk + t) * N
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    q = load_tile(q_ptr + flat * size, state, state_mask, WARPS)
    dB = tl.zeros([BD, BN], tl.float32)
    running = tl.zeros([BD], tl.float32)
    dbias = tl.zeros([BD], tl.float32)
    plain = tl.zeros([BD], tl.float32)
    summed = tl.zeros([BD], tl.float32)
    offsets = row_offsets(channel, CHANNELS, STEP)
    # One flat loop: with one in another, the compiler carries an address for every element of every tensor.
    for i in range(0, rounds * STRIDE, 4):
        if i % STRIDE == 0:
            kept_ptr -= size
            exact = tl.sum(A2 * (q * load_tile(kept_ptr, kept, state_mask, WARPS)), 1)
            # Before the first round both sums are zero.
            dbias -= correction(running, exact, plain, summed, STRIDE) * 0.6931471805599453
            running = exact
            plain = tl.zeros([BD], tl.float32)
            summed = tl.zeros([BD], tl.float32)
        t -= 4
        u_ptr -= 4 * STEP * CHANNELS
        dt_ptr -= 4 * STEP * CHANNELS
        z_ptr -= 4 * STEP * CHANNELS
        dy_ptr -= 4 * STEP * CHANNELS
        du_ptr -= 4 * STEP * CHANNELS
        ddt_ptr -= 4 * STEP * CHANNELS
        high_ptr -= 4 * STEP * CHANNELS
        low_ptr -= 4 * STEP * CHANNELS
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
        g0, g1, g2, g3 = columns(gated, BD)
        B_t = projection(B_ptr + 3 * STEP * B_stride, B_all, n, t + 3 < steps, N, B_FORM)
        C_t = projection(C_ptr + 3 * STEP * C_stride, C_all, n, t + 3 < steps, N, C_FORM)
        q, Q3, r3, gh3 = step_backward(q, d3, g3, A2, B_t, C_t)
        B_t = projection(B_ptr + 2 * STEP * B_stride, B_all, n, t + 2 < steps, N, B_FORM)
        C_t = projection(C_ptr + 2 * STEP * C_stride, C_all, n, t + 2 < steps, N, C_FORM)
        q, Q2, r2, gh2 = step_backward(q, d2, g2, A2, B_t, C_t)
        B_t = projection(B_ptr + STEP * B_stride, B_all, n, t + 1 < steps, N, B_FORM)
        C_t = projection(C_ptr + STEP * C_stride, C_all, n, t + 1 < steps, N, C_FORM)
        q, Q1, r1, gh1 = step_backward(q, d1, g1, A2, B_t, C_t)
        B_t = projection(B_ptr, B_all, n, t < steps, N, B_FORM)
        C_t = projection(C_ptr, C_all, n, t < steps, N, C_FORM)
        q, Q0, r0, gh0 = step_backward(q, d0, g0, A2, B_t, C_t)
        dB = store_sums(dB_ptr, dB, gh0, gh1, gh2, gh3, du, n, N, B_FORM)
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
        h = entering_state(states_ptr, start_ptr, entering, owner, CHANNELS, state, present, N, WARPS, HAS_START)
        exact = tl.sum(A2 * (q * h), 1)
        dbias -= correction(running, exact, plain, summed, STRIDE) * 0.6931471805599453
        tl.store(dbias_ptr + part * CHANNELS + channel, dbias, mask=exists)
    if B_FORM == 2:
        store_tile(dB_ptr + flat * size, state, dB, state_mask, WARPS)
