"""The scan's forward in Gluon for NVIDIA GPUs: the kernels of `triton_forward`, laid out by hand."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201, RUF005, RUF059
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,misc,assignment,var-annotated"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from seqdomains.kernels.selective_scan.gluon_tile import (
    SIZES,
    allocate,
    channel_values,
    channels_of,
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


@gluon.jit(do_not_specialize=SIZES)
def chunk_ends(
    u_ptr, dt_ptr, A_ptr, B_ptr, bias_ptr, states_ptr, sums_ptr,
    length, channels, chunk, chunks, channel_blocks,
    N: gl.constexpr, W: gl.constexpr, T: gl.constexpr, SUB: gl.constexpr,
    SOFTPLUS: gl.constexpr, HAS_BIAS: gl.constexpr, REVERSE: gl.constexpr,
):  # fmt: skip
    """Write the end state of a chunk, from zero, and the sum of d over it; not for the last chunk."""
    CH: gl.constexpr = channels_of(N, W)
    STATE: gl.constexpr = state_layout(N, W)
    ROW: gl.constexpr = gl.SliceLayout(1, STATE)
    COL: gl.constexpr = gl.SliceLayout(0, STATE)
    STEP: gl.constexpr = -1 if REVERSE else 1
    flat, batch, c, row, steps, block = place(length, chunk, channel_blocks, 0, chunks - 1, REVERSE)
    first = block * CH
    left = channels - first
    u_ptr += row * channels + first
    dt_ptr += row * channels + first
    B_ptr += row * N
    lane = gl.arange(0, CH, ROW)
    exists = lane < left
    n = gl.arange(0, N, COL)
    A2 = state_tile(A_ptr + first * N, lane, exists, n, N) * 1.4426950408889634
    shift = channel_values(bias_ptr + first, lane, exists, HAS_BIAS)
    u_s = allocate(u_ptr, T, CH)
    dt_s = allocate(dt_ptr, T, CH)
    B_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    u_rows = single_rows(u_s, T, CH)
    dt_rows = single_rows(dt_s, T, CH)
    B_rows = single_rows(B_s, T, N)
    fetch(u_s, 0, u_ptr, 0, steps, channels, left, T, CH, STEP, W)
    fetch(dt_s, 0, dt_ptr, 0, steps, channels, left, T, CH, STEP, W)
    async_copy.commit_group()
    B_s.index(0).store(read_rows(B_ptr, 0, steps, N, N, T, STEP, W))
    h = gl.zeros([CH, N], gl.float32, STATE)
    total = gl.zeros([CH], gl.float32, ROW)
    buffer = 0
    for t in range(0, steps, T):
        fetch(u_s, 1 - buffer, u_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        fetch(dt_s, 1 - buffer, dt_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        async_copy.commit_group()
        B_next = read_rows(B_ptr, t + T, steps, N, N, T, STEP, W)
        async_copy.wait_group(1)
        for s in range(0, T, SUB):
            r = buffer * T + s
            ds = ()
            dus = ()
            for k in gl.static_range(SUB):
                x = dt_rows.index(r + k).load(ROW).to(gl.float32) + shift
                d, slope = step_size(x, t + s + k < steps, SOFTPLUS)
                ds = ds + (d,)
                dus = dus + (d * u_rows.index(r + k).load(ROW).to(gl.float32),)
                total += d
            for k in gl.static_range(SUB):
                B_t = B_rows.index(r + k).load(COL)
                h = decay(ds[k], A2) * h + dus[k][:, None] * B_t[None, :]
        B_s.index(1 - buffer).store(B_next)
        buffer = 1 - buffer
    gl.store(sums_ptr + flat * channels + first + lane, total, mask=exists)
    store_state_tile(states_ptr + (flat * channels + first) * N, h, lane, exists, n, N)


@gluon.jit(do_not_specialize=SIZES)
def outputs(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, start_ptr, states_ptr, y_ptr, h_last_ptr,
    length, channels, chunk, chunks, channel_blocks,
    N: gl.constexpr, W: gl.constexpr, T: gl.constexpr, SUB: gl.constexpr,
    SOFTPLUS: gl.constexpr, HAS_D: gl.constexpr, HAS_Z: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_START: gl.constexpr,
    REVERSE: gl.constexpr,
):  # fmt: skip
    """Write y of one chunk from the state that enters it, and h_last from the last chunk."""
    CH: gl.constexpr = channels_of(N, W)
    STATE: gl.constexpr = state_layout(N, W)
    ROW: gl.constexpr = gl.SliceLayout(1, STATE)
    COL: gl.constexpr = gl.SliceLayout(0, STATE)
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
    shift = channel_values(bias_ptr + first, lane, exists, HAS_BIAS)
    skip = channel_values(D_ptr + first, lane, exists, HAS_D)
    u_s = allocate(u_ptr, T, CH)
    dt_s = allocate(dt_ptr, T, CH)
    u_rows = single_rows(u_s, T, CH)
    dt_rows = single_rows(dt_s, T, CH)
    B_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    C_s = gl.allocate_shared_memory(gl.float32, [2, T, N], plain_shared(2))
    B_rows = single_rows(B_s, T, N)
    C_rows = single_rows(C_s, T, N)
    fetch(u_s, 0, u_ptr, 0, steps, channels, left, T, CH, STEP, W)
    fetch(dt_s, 0, dt_ptr, 0, steps, channels, left, T, CH, STEP, W)
    if HAS_Z:
        z_s = allocate(z_ptr, T, CH)
        z_rows = single_rows(z_s, T, CH)
        fetch(z_s, 0, z_ptr, 0, steps, channels, left, T, CH, STEP, W)
    async_copy.commit_group()
    B_s.index(0).store(read_rows(B_ptr, 0, steps, N, N, T, STEP, W))
    C_s.index(0).store(read_rows(C_ptr, 0, steps, N, N, T, STEP, W))
    h = entering_state(states_ptr, start_ptr, batch, c, chunks, channels, first, lane, exists, n, N, HAS_START)
    buffer = 0
    for t in range(0, steps, T):
        fetch(u_s, 1 - buffer, u_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        fetch(dt_s, 1 - buffer, dt_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        if HAS_Z:
            fetch(z_s, 1 - buffer, z_ptr, t + T, steps, channels, left, T, CH, STEP, W)
        async_copy.commit_group()
        B_next = read_rows(B_ptr, t + T, steps, N, N, T, STEP, W)
        C_next = read_rows(C_ptr, t + T, steps, N, N, T, STEP, W)
        async_copy.wait_group(1)
        for s in range(0, T, SUB):
            r = buffer * T + s
            ds = ()
            us = ()
            ys = ()
            for k in gl.static_range(SUB):
                x = dt_rows.index(r + k).load(ROW).to(gl.float32) + shift
                d, slope = step_size(x, t + s + k < steps, SOFTPLUS)
                ds = ds + (d,)
                us = us + (u_rows.index(r + k).load(ROW).to(gl.float32),)
            for k in gl.static_range(SUB):
                B_t = B_rows.index(r + k).load(COL)
                h = decay(ds[k], A2) * h + (ds[k] * us[k])[:, None] * B_t[None, :]
                C_t = C_rows.index(r + k).load(COL)
                ys = ys + (gl.sum(h * C_t[None, :], 1) + skip * us[k],)
            for k in gl.static_range(SUB):
                y = ys[k]
                if HAS_Z:
                    z = z_rows.index(r + k).load(ROW).to(gl.float32)
                    y = y * (z * sigmoid(z))
                offset = ((t + s + k) * STEP) * channels + lane
                gl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=exists & (t + s + k < steps))
        B_s.index(1 - buffer).store(B_next)
        C_s.index(1 - buffer).store(C_next)
        buffer = 1 - buffer
    if c == chunks - 1:
        store_state_tile(h_last_ptr + (batch * channels + first) * N, h, lane, exists, n, N)
