"""The scan's forward in Gluon with a channel's states spread over four lanes.

For so many channels that one pass over all of time fills the GPU (no chunks, so each decay is computed once), and for
N > 16. What belongs to a step and a channel alone is not computed four times: the steps d of a tile go through shared
memory, and of four steps' outputs each lane finishes one.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201, RUF005, RUF059, SIM102
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,misc,assignment,var-annotated"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from seqdomains.kernels.selective_scan.gluon_tile import (
    SIZES,
    allocate,
    block_barrier,
    channel_values,
    decay,
    entering_state,
    fetch,
    place,
    plain_shared,
    read_rows,
    sigmoid,
    single_rows,
    spread_layout,
    state_tile,
    step_size,
    store_state_tile,
    sum_of_four_lanes,
)


@gluon.jit(do_not_specialize=[*SIZES, "every"])
def spread_outputs(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, states_ptr, y_ptr, h_last_ptr, kept_ptr,
    length, channels, chunk, chunks, channel_blocks, every,
    N: gl.constexpr, PER: gl.constexpr, W: gl.constexpr, T: gl.constexpr,
    SOFTPLUS: gl.constexpr, HAS_D: gl.constexpr, HAS_Z: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_START: gl.constexpr,
    KEEP: gl.constexpr, REVERSE: gl.constexpr,
):  # fmt: skip
    """Write y of one chunk from the state that enters it, the state before every `every` steps, and h_last."""
    # `every` is a multiple of T: the launch sees to it.
    CH: gl.constexpr = 8 * PER * W
    STATE: gl.constexpr = spread_layout(PER, N, W)
    PART: gl.constexpr = spread_layout(PER, 4, W)
    ROW: gl.constexpr = gl.SliceLayout(1, STATE)
    COL: gl.constexpr = gl.SliceLayout(0, STATE)
    DENSE: gl.constexpr = gl.BlockedLayout([1, 1], [32 // min(CH, 32), min(CH, 32)], [W, 1], [1, 0])
    STEP: gl.constexpr = -1 if REVERSE else 1
    flat, batch, c, row, steps, block = place(length, chunk, channel_blocks, 0, chunks, REVERSE)
    first = block * CH
    left = channels - first
    u_ptr += row * channels + first
    dt_ptr += row * channels + first
    z_ptr += row * channels + first
    y_ptr += row * channels + first
    B_ptr += row * N
    C_ptr += row * N
    lane = gl.arange(0, CH, ROW)
    exists = lane < left
    n = gl.arange(0, N, COL)
    A2 = state_tile(A_ptr + first * N, lane, exists, n, N) * 1.4426950408889634
    channel = gl.arange(0, CH, gl.SliceLayout(0, DENSE))
    present = channel < left
    shift = channel_values(bias_ptr + first, channel, present, HAS_BIAS)
    owner = gl.arange(0, CH, gl.SliceLayout(1, PART))
    owned = owner < left
    quarter = gl.arange(0, 4, gl.SliceLayout(0, PART))
    odd = (quarter % 2)[None, :] + (owner * 0)[:, None]
    upper = (quarter // 2)[None, :] + (owner * 0)[:, None]
    skip = channel_values(D_ptr + first, owner, owned, HAS_D)
    u_s = allocate(u_ptr, T, CH)
    dt_s = allocate(dt_ptr, T, CH)
    B_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    C_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    B_rows = single_rows(B_s, T, N)
    C_rows = single_rows(C_s, T, N)
    d_s = gl.allocate_shared_memory(gl.float32, [T, CH], plain_shared(2))
    du_s = gl.allocate_shared_memory(gl.float32, [T, CH], plain_shared(2))
    d_rows = d_s._reinterpret(gl.float32, [T, CH], plain_shared(1))
    du_rows = du_s._reinterpret(gl.float32, [T, CH], plain_shared(1))
    u_fours = u_s._reinterpret(u_s.dtype, [T // 2, 4, CH], plain_shared(2))
    fetch(u_s, 0, u_ptr, 0, steps, channels, left, T, CH, STEP, W)
    fetch(dt_s, 0, dt_ptr, 0, steps, channels, left, T, CH, STEP, W)
    if HAS_Z:
        z_s = allocate(z_ptr, T, CH)
        z_fours = z_s._reinterpret(z_s.dtype, [T // 2, 4, CH], plain_shared(2))
        fetch(z_s, 0, z_ptr, 0, steps, channels, left, T, CH, STEP, W)
    async_copy.commit_group()
    B_s.index(0).store(read_rows(B_ptr, 0, steps, N, N, T, STEP, W))
    C_s.index(0).store(read_rows(C_ptr, 0, steps, N, N, T, STEP, W))
    h = entering_state(states_ptr, start_ptr, batch, c, chunks, channels, first, lane, exists, n, N, HAS_START)
    kept_ptr += (batch * ((length + every - 1) // every - 1) * channels + first) * N
    step = gl.arange(0, T, gl.SliceLayout(1, DENSE))
    buffer = 0
    until = every
    for t in range(0, steps, T):
        fetch(u_s, 1 - buffer, u_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        fetch(dt_s, 1 - buffer, dt_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        if HAS_Z:
            fetch(z_s, 1 - buffer, z_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        async_copy.commit_group()
        B_next = read_rows(B_ptr, t + T, steps, N, N, T, STEP, W)
        C_next = read_rows(C_ptr, t + T, steps, N, N, T, STEP, W)
        if KEEP:
            if t == until:
                store_state_tile(kept_ptr, h, lane, exists, n, N)
                kept_ptr += channels.to(gl.int64) * N
                until += every
        async_copy.wait_group(1)
        u = u_s.index(buffer).load(DENSE).to(gl.float32)
        x = dt_s.index(buffer).load(DENSE).to(gl.float32) + shift[None, :]
        d, slope = step_size(x, (t + step < steps)[:, None] & (channel >= 0)[None, :], SOFTPLUS)
        d_s.store(d)
        du_s.store(d * u)
        block_barrier()
        for s in range(0, T, 4):
            parts = ()
            for k in gl.static_range(4):
                d_t = d_rows.index(s + k).load(ROW)
                du_t = du_rows.index(s + k).load(ROW)
                B_t = B_rows.index(buffer * T + s + k).load(COL)
                C_t = C_rows.index(buffer * T + s + k).load(COL)
                h = decay(d_t, A2) * h + du_t[:, None] * B_t[None, :]
                part = gl.sum((h * C_t[None, :]).reshape([CH, 4, N // 4]), 2)
                parts = parts + (gl.convert_layout(part, PART, assert_trivial=True),)
            y = sum_of_four_lanes(parts[0], parts[1], parts[2], parts[3], odd, upper)
            four = (buffer * T + s) // 4
            y += skip[:, None] * u_fours.index(four).permute([1, 0]).load(PART).to(gl.float32)
            if HAS_Z:
                z = z_fours.index(four).permute([1, 0]).load(PART).to(gl.float32)
                y = y * (z * sigmoid(z))
            mask = owned[:, None] & (t + s + quarter < steps)[None, :]
            offsets = owner[:, None] + ((s + quarter) * STEP)[None, :] * channels
            gl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
        y_ptr += (T * STEP) * channels.to(gl.int64)
        B_s.index(1 - buffer).store(B_next)
        C_s.index(1 - buffer).store(C_next)
        buffer = 1 - buffer
    if c == chunks - 1:
        store_state_tile(h_last_ptr + (batch * channels + first) * N, h, lane, exists, n, N)
