"""The scan's backward in Gluon for NVIDIA GPUs: two sweeps over each chunk, laid out by hand.

See README.md for the method. `sweep_forward` leaves h at every `STRIDE` steps and the products that the reverse sweep
needs of it, `sweep_backward` returns to each of these states with its running sum and starts it afresh.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201, RUF005, RUF059
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,misc,assignment,var-annotated"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from seqdomains.kernels.selective_scan.gluon_sums import lane_bits, selectors, store_four_sums, sum_step
from seqdomains.kernels.selective_scan.gluon_tile import (
    SIZES,
    allocate,
    channel_values,
    channels_of,
    copy_layout,
    decay,
    entering_state,
    fetch,
    place,
    plain_shared,
    read_rows,
    sigmoid,
    single_rows,
    state_layout,
    state_tile,
    step_size,
    store_state_tile,
)


@gluon.jit
def scratch_tile(pointer, CH: gl.constexpr, N: gl.constexpr, STATE: gl.constexpr):
    """Return the places of a [channels, N] tile that lies in scratch with channels innermost."""
    lane = gl.arange(0, CH, gl.SliceLayout(1, STATE))
    n = gl.arange(0, N, gl.SliceLayout(0, STATE))
    return pointer + (lane[:, None] + (n * CH)[None, :])


@gluon.jit
def fetch_kept(tile, pointer, stride, left, CH: gl.constexpr, N: gl.constexpr, W: gl.constexpr):
    """Begin to copy a [N, channels] tile of scratch, which lies in blocks of 32 channels, into shared memory."""
    layout: gl.constexpr = copy_layout(CH, 32, W)
    n = gl.arange(0, N, gl.SliceLayout(1, layout))
    lane = gl.arange(0, CH, gl.SliceLayout(0, layout))
    offsets = (n * 32)[:, None] + ((lane // 32) * stride + lane % 32)[None, :]
    async_copy.async_copy_global_to_shared(tile, pointer + offsets, ((n >= 0)[:, None]) & (lane < left)[None, :])


@gluon.jit
def store_halves(high_ptr, low_ptr, value, mask, SPLIT: gl.constexpr):
    """Store a float32, as two halves into two arrays of 16 bits where `SPLIT`, else into the first array."""
    if SPLIT:
        bits = value.to(gl.uint32, bitcast=True)
        gl.store(high_ptr, (bits >> 16).to(gl.int16), mask=mask)
        gl.store(low_ptr, bits.to(gl.int16), mask=mask)
    else:
        gl.store(high_ptr, value, mask=mask)


@gluon.jit(do_not_specialize=SIZES)
def sweep_forward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, dy_ptr, states_ptr,
    dz_ptr, y_ptr, high_ptr, low_ptr, kept_ptr, dC_ptr, added_ptr, reached_ptr, dA_ptr, sums_ptr, dD_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment,
    N: gl.constexpr, W: gl.constexpr, T: gl.constexpr, SUB: gl.constexpr, STRIDE: gl.constexpr,
    SOFTPLUS: gl.constexpr, HAS_D: gl.constexpr, HAS_Z: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_START: gl.constexpr,
    SPLIT: gl.constexpr, EXACT: gl.constexpr, REVERSE: gl.constexpr, OUTPUT: gl.constexpr,
):  # fmt: skip
    """Sweep 1 over one chunk, in time order; with `OUTPUT` it writes y again, for which there has to be a gate."""
    gl.static_assert(STRIDE % T == 0)
    gl.static_assert(HAS_Z or not OUTPUT)
    CH: gl.constexpr = channels_of(N, W)
    STATE: gl.constexpr = state_layout(N, W)
    ROW: gl.constexpr = gl.SliceLayout(1, STATE)
    COL: gl.constexpr = gl.SliceLayout(0, STATE)
    STEP: gl.constexpr = -1 if REVERSE else 1
    in_segment, batch, c, row, steps, block = place(length, chunk, channel_blocks, first, segment, REVERSE)
    channel = block * CH
    left = channels - channel
    u_ptr += row * channels + channel
    dt_ptr += row * channels + channel
    z_ptr += row * channels + channel
    dy_ptr += row * channels + channel
    dz_ptr += row * channels + channel
    y_ptr += row * channels + channel
    high_ptr += row * channels + channel
    low_ptr += row * channels + channel
    B_ptr += row * N
    C_ptr += row * N
    lane = gl.arange(0, CH, ROW)
    exists = lane < left
    n = gl.arange(0, N, COL)
    segments = (gl.num_programs(0) // channel_blocks).to(gl.int64)
    dC_ptr += ((segments * (block * (W if N == 16 else 1)) + in_segment) * chunk) * N
    kept_ptr += (in_segment * channel_blocks + block) * ((chunk + STRIDE - 1) // STRIDE) * (CH * N)
    A2 = state_tile(A_ptr + channel * N, lane, exists, n, N) * 1.4426950408889634
    shift = channel_values(bias_ptr + channel, lane, exists, HAS_BIAS)
    skip = channel_values(D_ptr + channel, lane, exists, HAS_D)
    chosen = lane_bits(W) if EXACT else selectors(W)
    parts = gl.allocate_shared_memory(gl.float32, [W, N, 4], plain_shared(3)) if N > 16 else 0
    u_s = allocate(u_ptr, T, CH)
    dt_s = allocate(dt_ptr, T, CH)
    dy_s = allocate(dy_ptr, T, CH)
    u_rows = single_rows(u_s, T, CH)
    dt_rows = single_rows(dt_s, T, CH)
    dy_rows = single_rows(dy_s, T, CH)
    B_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    C_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    B_rows = single_rows(B_s, T, N)
    C_rows = single_rows(C_s, T, N)
    fetch(u_s, 0, u_ptr, 0, steps, channels, left, T, CH, STEP, W)
    fetch(dt_s, 0, dt_ptr, 0, steps, channels, left, T, CH, STEP, W)
    fetch(dy_s, 0, dy_ptr, 0, steps, channels, left, T, CH, STEP, W)
    if HAS_Z:
        z_s = allocate(z_ptr, T, CH)
        z_rows = single_rows(z_s, T, CH)
        fetch(z_s, 0, z_ptr, 0, steps, channels, left, T, CH, STEP, W)
    async_copy.commit_group()
    B_s.index(0).store(read_rows(B_ptr, 0, steps, N, N, T, STEP, W))
    C_s.index(0).store(read_rows(C_ptr, 0, steps, N, N, T, STEP, W))
    h = entering_state(states_ptr, start_ptr, batch, c, chunks, channels, channel, lane, exists, n, N, HAS_START)
    E = gl.full([CH, N], 1.0, gl.float32, STATE)
    J = gl.zeros([CH, N], gl.float32, STATE)
    added = gl.zeros([CH, N], gl.float32, STATE)
    dA = gl.zeros([CH, N], gl.float32, STATE)
    total = gl.zeros([CH], gl.float32, ROW)
    dD = gl.zeros([CH], gl.float32, ROW)
    buffer = 0
    for t in range(0, steps, T):
        fetch(u_s, 1 - buffer, u_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        fetch(dt_s, 1 - buffer, dt_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        fetch(dy_s, 1 - buffer, dy_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        if HAS_Z:
            fetch(z_s, 1 - buffer, z_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        async_copy.commit_group()
        B_next = read_rows(B_ptr, t + T, steps, N, N, T, STEP, W)
        C_next = read_rows(C_ptr, t + T, steps, N, N, T, STEP, W)
        async_copy.wait_group(1)
        for s in range(0, T, SUB):
            r = buffer * T + s
            ds = ()
            dus = ()
            gs = ()
            slopes = ()
            gates = ()
            skipped = ()
            for k in gl.static_range(SUB):
                x = dt_rows.index(r + k).load(ROW).to(gl.float32) + shift
                d, slope = step_size(x, t + s + k < steps, SOFTPLUS)
                u = u_rows.index(r + k).load(ROW).to(gl.float32)
                g = dy_rows.index(r + k).load(ROW).to(gl.float32)
                if HAS_Z:
                    z = z_rows.index(r + k).load(ROW).to(gl.float32)
                    gate = sigmoid(z)
                    slopes = slopes + (g * gate * (1.0 + z * (1.0 - gate)),)
                    gates = gates + (z * gate,)
                    skipped = skipped + (skip * u,)
                    g = g * (z * gate)
                ds = ds + (d,)
                dus = dus + (d * u,)
                gs = gs + (g,)
                total += d
                dD += g * u
            sums = ()
            ys = ()
            Ps = ()
            for k in gl.static_range(SUB):
                B_t = B_rows.index(r + k).load(COL)[None, :]
                C_t = C_rows.index(r + k).load(COL)[None, :]
                a = decay(ds[k], A2)
                J = a * (J + ds[k][:, None] * h)
                p = a * h
                h = p + dus[k][:, None] * B_t
                E = a * E
                g_C = gs[k][:, None] * C_t
                added += E * g_C
                dA += J * g_C
                if HAS_Z:
                    ys = ys + (gl.sum(C_t * h, 1),)
                Ps = Ps + (gl.sum(A2 * (C_t * p), 1),)
                sums = sums + (sum_step(gs[k][:, None] * h, chosen, N, 1, W, EXACT),)
            store_four_sums(dC_ptr + (t + s) * N, segments * chunk * N, sums, chosen, parts, W, N, EXACT)
            for k in gl.static_range(SUB):
                offset = ((t + s + k) * STEP) * channels + lane
                mask = exists & (t + s + k < steps)
                if HAS_Z:
                    y = ys[k] + skipped[k]
                    dz = slopes[k] * y
                    gl.store(dz_ptr + offset, dz.to(dz_ptr.dtype.element_ty), mask=mask)
                if OUTPUT:
                    gl.store(y_ptr + offset, (y * gates[k]).to(y_ptr.dtype.element_ty), mask=mask)
                store_halves(high_ptr + offset, low_ptr + offset, gs[k] * Ps[k], mask, SPLIT)
        B_s.index(1 - buffer).store(B_next)
        C_s.index(1 - buffer).store(C_next)
        if ((t + T) % STRIDE == 0) | (t + T >= steps):
            gl.store(scratch_tile(kept_ptr, CH, N, STATE), h)
            kept_ptr += CH * N
        buffer = 1 - buffer
    at = (in_segment * channels + channel) * N
    store_state_tile(added_ptr + at, added, lane, exists, n, N)
    store_state_tile(reached_ptr + at, J, lane, exists, n, N)
    store_state_tile(dA_ptr + at, dA, lane, exists, n, N)
    gl.store(sums_ptr + in_segment * channels + channel + lane, total, mask=exists)
    if HAS_D:
        gl.store(dD_ptr + (batch * chunks + c) * channels + channel + lane, dD, mask=exists)


@gluon.jit(do_not_specialize=SIZES)
def sweep_backward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, dy_ptr, states_ptr,
    high_ptr, low_ptr, kept_ptr, q_ptr, du_ptr, ddt_ptr, dB_ptr, dbias_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment,
    N: gl.constexpr, PER: gl.constexpr, W: gl.constexpr, T: gl.constexpr, SUB: gl.constexpr, STRIDE: gl.constexpr,
    SOFTPLUS: gl.constexpr, HAS_D: gl.constexpr, HAS_Z: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_START: gl.constexpr,
    SPLIT: gl.constexpr, EXACT: gl.constexpr, REVERSE: gl.constexpr,
):  # fmt: skip
    """Sweep 2 over one chunk, last step first."""
    gl.static_assert(STRIDE % T == 0)
    CH: gl.constexpr = channels_of(N, W, PER)
    STATE: gl.constexpr = state_layout(N, W, PER)
    ROW: gl.constexpr = gl.SliceLayout(1, STATE)
    COL: gl.constexpr = gl.SliceLayout(0, STATE)
    STEP: gl.constexpr = -1 if REVERSE else 1
    TILES: gl.constexpr = STRIDE // T
    in_segment, batch, c, row, steps, block = place(length, chunk, channel_blocks, first, segment, REVERSE)
    channel = block * CH
    left = channels - channel
    u_ptr += row * channels + channel
    dt_ptr += row * channels + channel
    z_ptr += row * channels + channel
    dy_ptr += row * channels + channel
    du_ptr += row * channels + channel
    ddt_ptr += row * channels + channel
    high_ptr += row * channels + channel
    low_ptr += row * channels + channel
    B_ptr += row * N
    C_ptr += row * N
    lane = gl.arange(0, CH, ROW)
    exists = lane < left
    n = gl.arange(0, N, COL)
    segments = (gl.num_programs(0) // channel_blocks).to(gl.int64)
    dB_ptr += ((segments * (block * (W if N == 16 else 1)) + in_segment) * chunk) * N
    kept_ptr += (
        (in_segment * ((channels + 31) // 32) + block * (CH // 32)) * ((chunk + STRIDE - 1) // STRIDE) * (32 * N)
    )
    kept_stride = ((chunk + STRIDE - 1) // STRIDE) * (32 * N)
    A2 = state_tile(A_ptr + channel * N, lane, exists, n, N) * 1.4426950408889634
    slowest = gl.max(A2, 1)
    shift = channel_values(bias_ptr + channel, lane, exists, HAS_BIAS)
    skip = channel_values(D_ptr + channel, lane, exists, HAS_D)
    chosen = lane_bits(W) if EXACT else selectors(W)
    parts = gl.allocate_shared_memory(gl.float32, [W, N, 4], plain_shared(3)) if N > 16 else 0
    u_s = allocate(u_ptr, T, CH)
    dt_s = allocate(dt_ptr, T, CH)
    dy_s = allocate(dy_ptr, T, CH)
    high_s = allocate(high_ptr, T, CH)
    u_rows = single_rows(u_s, T, CH)
    dt_rows = single_rows(dt_s, T, CH)
    dy_rows = single_rows(dy_s, T, CH)
    high_rows = single_rows(high_s, T, CH)
    B_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    C_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    B_rows = single_rows(B_s, T, N)
    C_rows = single_rows(C_s, T, N)
    kept_s = gl.allocate_shared_memory(gl.float32, [N, CH], plain_shared(2))
    tiles = (steps + T - 1) // T
    t = (tiles - 1) * T
    fetch(u_s, 0, u_ptr, t, steps, channels, left, T, CH, STEP, W)
    fetch(dt_s, 0, dt_ptr, t, steps, channels, left, T, CH, STEP, W)
    fetch(dy_s, 0, dy_ptr, t, steps, channels, left, T, CH, STEP, W)
    fetch(high_s, 0, high_ptr, t, steps, channels, left, T, CH, STEP, W)
    if SPLIT:
        low_s = allocate(low_ptr, T, CH)
        low_rows = single_rows(low_s, T, CH)
        fetch(low_s, 0, low_ptr, t, steps, channels, left, T, CH, STEP, W)
    if HAS_Z:
        z_s = allocate(z_ptr, T, CH)
        z_rows = single_rows(z_s, T, CH)
        fetch(z_s, 0, z_ptr, t, steps, channels, left, T, CH, STEP, W)
    fetch_kept(kept_s, kept_ptr + (tiles - 1) // TILES * (32 * N), kept_stride, left, CH, N, W)
    async_copy.commit_group()
    B_s.index(0).store(read_rows(B_ptr, t, steps, N, N, T, STEP, W))
    C_s.index(0).store(read_rows(C_ptr, t, steps, N, N, T, STEP, W))
    q = state_tile(q_ptr + (in_segment * channels + channel) * N, lane, exists, n, N)
    running = gl.zeros([CH], gl.float32, ROW)
    dbias = gl.zeros([CH], gl.float32, ROW)
    plain = gl.zeros([CH], gl.float32, ROW)
    summed = gl.zeros([CH], gl.float32, ROW)
    buffer = 0
    for i in range(0, tiles):
        tile = tiles - 1 - i
        t = tile * T
        fetch(u_s, 1 - buffer, u_ptr, t - T, steps, channels, left, T, CH, STEP, W)
        fetch(dt_s, 1 - buffer, dt_ptr, t - T, steps, channels, left, T, CH, STEP, W)
        fetch(dy_s, 1 - buffer, dy_ptr, t - T, steps, channels, left, T, CH, STEP, W)
        fetch(high_s, 1 - buffer, high_ptr, t - T, steps, channels, left, T, CH, STEP, W)
        if SPLIT:
            fetch(low_s, 1 - buffer, low_ptr, t - T, steps, channels, left, T, CH, STEP, W)
        if HAS_Z:
            fetch(z_s, 1 - buffer, z_ptr, t - T, steps, channels, left, T, CH, STEP, W)
        async_copy.commit_group()
        B_next = read_rows(B_ptr, t - T, steps, N, N, T, STEP, W)
        C_next = read_rows(C_ptr, t - T, steps, N, N, T, STEP, W)
        async_copy.wait_group(1)
        if (i == 0) | ((tile + 1) % TILES == 0):
            exact = gl.sum(A2 * (q * kept_s.permute([1, 0]).load(STATE)), 1)
            if i > 0:
                # The walk's error grows with its steps: of the sum over them, each step's share is in proportion.
                dbias -= (running - exact) * ((STRIDE + 1) * plain - summed) * (0.6931471805599453 / STRIDE)
            running = exact
            if tile >= TILES:
                fetch_kept(kept_s, kept_ptr + (tile // TILES - 1) * (32 * N), kept_stride, left, CH, N, W)
                async_copy.commit_group()
            plain = gl.zeros([CH], gl.float32, ROW)
            summed = gl.zeros([CH], gl.float32, ROW)
        for j in range(0, T, SUB):
            s = T - SUB - j
            r = buffer * T + s
            sums = ()
            for k in gl.static_range(SUB - 1, -1, -1):
                exists_now = t + s + k < steps
                x = dt_rows.index(r + k).load(ROW).to(gl.float32) + shift
                d, slope = step_size(x, exists_now, SOFTPLUS)
                u = u_rows.index(r + k).load(ROW).to(gl.float32)
                g = dy_rows.index(r + k).load(ROW).to(gl.float32)
                if HAS_Z:
                    z = z_rows.index(r + k).load(ROW).to(gl.float32)
                    g = g * (z * sigmoid(z))
                if SPLIT:
                    bits = high_rows.index(r + k).load(ROW).to(gl.uint16, bitcast=True).to(gl.uint32) << 16
                    bits = bits | low_rows.index(r + k).load(ROW).to(gl.uint16, bitcast=True).to(gl.uint32)
                    ea = bits.to(gl.float32, bitcast=True)
                else:
                    ea = high_rows.index(r + k).load(ROW)
                B_t = B_rows.index(r + k).load(COL)[None, :]
                C_t = C_rows.index(r + k).load(COL)[None, :]
                a = decay(d, A2)
                du_ = d * u
                # Where nothing is left of the state, neither is of the gradient through its decay.
                running += ea - du_ * gl.sum(A2 * (B_t * q), 1)
                running = gl.where(d * slowest < -40.0, 0.0, running)
                gh = q + g[:, None] * C_t
                rate = gl.sum(B_t * gh, 1)
                sums = (sum_step(du_[:, None] * gh, chosen, N, PER, W, EXACT),) + sums
                q = a * gh
                ddt = (running * 0.6931471805599453 + u * rate) * slope
                dbias += ddt
                plain += slope
                summed += plain
                offset = ((t + s + k) * STEP) * channels + lane
                mask = exists & exists_now
                gl.store(du_ptr + offset, (d * rate + skip * g).to(du_ptr.dtype.element_ty), mask=mask)
                gl.store(ddt_ptr + offset, ddt.to(ddt_ptr.dtype.element_ty), mask=mask)
            store_four_sums(dB_ptr + (t + s) * N, segments * chunk * N, sums, chosen, parts, W, N, EXACT)
        B_s.index(1 - buffer).store(B_next)
        C_s.index(1 - buffer).store(C_next)
        buffer = 1 - buffer
    if HAS_BIAS:
        h = entering_state(states_ptr, start_ptr, batch, c, chunks, channels, channel, lane, exists, n, N, HAS_START)
        dbias -= (running - gl.sum(A2 * (q * h), 1)) * ((STRIDE + 1) * plain - summed) * (0.6931471805599453 / STRIDE)
        gl.store(dbias_ptr + (batch * chunks + c) * channels + channel + lane, dbias, mask=exists)
