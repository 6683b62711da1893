"""The scan's backward in Triton: two sweeps over each chunk, with a state kept every 8 steps between them.

Symbols are those of README.md, "The adjoint": gated_t = dy_t silu(z_t) is the gradient of the ungated output,
gh_t = gated_t C_t + q_{t+1} that of h_t, and q_t = a_t gh_t what step t hands to step t - 1, the carry of this pass.

1. `sweep_forward`, in time order from the state entering the chunk: dz, dC, dD, a state every `STRIDE` steps, and what
   the chunk adds to the carry. Unrolled, the q that leaves a chunk is E_end q_in + sum of E_t gated_t C_t, with E_t the
   decay from the chunk's start to step t: the sum needs no q, so a forward sweep can take it, and E_end = exp(A S).
2. `pass_states`, over chunks backwards: the q entering each chunk from its end.
3. `sweep_backward`, in reverse order: recomputes 8 steps from their state, then du, ddt, dA, dB, dbias.
4. `add_blocks`: dB and dC over the blocks of channels in a fixed order, so that two runs are bit-equal.

Time is cut into segments, last to first, that hand q on: the states between the sweeps never take more than a fixed
amount of memory. The gradient through a_t is summed from q_t h_{t-1} directly. Forms that never hold both (running sums
over time of h_t gated_t C_t - gh_t b_t with b_t = d_t u_t B_t) are no faster here and were wrong by up to 3e-5 in ddt
and 4e-6 in dbias in float32, the direct sum by 2e-7.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.selective_scan.plan import TRITON_CHUNK
from seqdomains.kernels.selective_scan.triton_tile import (
    SIZES,
    advance,
    decay_rates,
    one_row,
    pass_states,
    program_place,
    state_offsets,
    step_size,
    tile_shape,
)
from seqdomains.kernels.triton_parts import (
    channel_values,
    columns,
    four_rows,
    from_columns,
    given,
    on_device_of,
    sigmoid,
)

STRIDE = 8
SEGMENT_BYTES = 1 << 28


@triton.jit
def forward_step(h, E, added, d, u, gated, A2, B_t, C_t):
    """Advance sweep 1 by one step; also return C . h and the channel block's part of dC."""
    a = tl.exp2(d[None, :] * A2)
    h = a * h + B_t[:, None] * (d * u)[None, :]
    E = a * E
    added += E * (C_t[:, None] * gated[None, :])
    return h, E, added, tl.sum(C_t[:, None] * h, 0), tl.sum(gated[None, :] * h, 1)


@triton.jit(do_not_specialize=SIZES)
def sweep_forward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, dy_ptr, states_ptr,
    dz_ptr, kept_ptr, dC_ptr, added_ptr, sums_ptr, dD_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, STRIDE: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Sweep 1 over one chunk of a segment of `segment` chunks that begins with chunk `first` of each batch row."""
    flat, batch, c, block, channel, exists = program_place(channels, segment, channel_blocks, BD)
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    start = batch * length + (first + c) * chunk
    steps = tl.minimum(chunk, length - (first + c) * chunk)
    u_ptr += start * channels
    dt_ptr += start * channels
    z_ptr += start * channels
    dy_ptr += start * channels
    dz_ptr += start * channels
    B_ptr += start * N
    C_ptr += start * N
    dC_ptr += ((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk * N
    A2 = decay_rates(A_ptr, channel, n, N, exists)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    state_mask = (n[:, None] < N) & exists[None, :]
    state = state_offsets(channel, n, N)
    kept_ptr += flat * (chunk // STRIDE) * channels * N
    h = tl.load(states_ptr + (batch * chunks + first + c) * channels * N + state, mask=state_mask, other=0.0)
    E = tl.full([BN, BD], 1.0, tl.float32)
    added = tl.zeros([BN, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    dD = tl.zeros([BD], tl.float32)
    for t in range(0, steps, 4):
        step = t + k
        mask = exists[:, None] & (step[None, :] < steps)
        offsets = step[None, :] * channels + channel[:, None]
        u = four_rows(u_ptr, offsets, mask)
        d = step_size(four_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        dy = four_rows(dy_ptr, offsets, mask)
        gated = dy
        if HAS_Z:
            z = four_rows(z_ptr, offsets, mask)
            gate = sigmoid(z)
            gated = dy * z * gate
        d0, d1, d2, d3 = columns(d, BD)
        u0, u1, u2, u3 = columns(u, BD)
        g0, g1, g2, g3 = columns(gated, BD)
        B0 = one_row(B_ptr + t * N, n, N, t < steps)
        C0 = one_row(C_ptr + t * N, n, N, t < steps)
        B1 = one_row(B_ptr + (t + 1) * N, n, N, t + 1 < steps)
        C1 = one_row(C_ptr + (t + 1) * N, n, N, t + 1 < steps)
        B2 = one_row(B_ptr + (t + 2) * N, n, N, t + 2 < steps)
        C2 = one_row(C_ptr + (t + 2) * N, n, N, t + 2 < steps)
        B3 = one_row(B_ptr + (t + 3) * N, n, N, t + 3 < steps)
        C3 = one_row(C_ptr + (t + 3) * N, n, N, t + 3 < steps)
        if t % STRIDE == 0:
            tl.store(kept_ptr + state, h, mask=state_mask)
            kept_ptr += channels * N
        h, E, added, y0, dC0 = forward_step(h, E, added, d0, u0, g0, A2, B0, C0)
        h, E, added, y1, dC1 = forward_step(h, E, added, d1, u1, g1, A2, B1, C1)
        h, E, added, y2, dC2 = forward_step(h, E, added, d2, u2, g2, A2, B2, C2)
        h, E, added, y3, dC3 = forward_step(h, E, added, d3, u3, g3, A2, B3, C3)
        total += (d0 + d1) + (d2 + d3)
        dD += (g0 * u0 + g1 * u1) + (g2 * u2 + g3 * u3)
        if HAS_Z:
            y = from_columns(y0, y1, y2, y3, BD) + skip[:, None] * u
            tl.store(dz_ptr + offsets, dy * y * gate * (1.0 + z * (1.0 - gate)), mask=mask)
        # The buffer holds whole chunks, so rows past the end may be written: add_blocks does not read them.
        tl.store(dC_ptr + t * N + n, dC0, mask=n < N)
        tl.store(dC_ptr + (t + 1) * N + n, dC1, mask=n < N)
        tl.store(dC_ptr + (t + 2) * N + n, dC2, mask=n < N)
        tl.store(dC_ptr + (t + 3) * N + n, dC3, mask=n < N)
    tl.store(added_ptr + flat * channels * N + state, added, mask=state_mask)
    tl.store(sums_ptr + flat * channels + channel, total, mask=exists)
    if HAS_D:
        tl.store(dD_ptr + (batch * chunks + first + c) * channels + channel, dD, mask=exists)


@triton.jit
def backward_step(q, dA, a, p, d, u, gated, A2, B_t, C_t):
    """Step sweep 2 back from q_{t+1} to q_t; also return du without its skip, dd, and the block's part of dB.

    With p = a_t h_{t-1} the README's q_t h_{t-1} is p gh_t. A2 is A log2(e), so its sum is scaled back by log(2).
    """
    gh = q + C_t[:, None] * gated[None, :]
    through_decay = p * gh
    dA += d[None, :] * through_decay
    rate = tl.sum(B_t[:, None] * gh, 0)
    dd = tl.sum(A2 * through_decay, 0) * 0.6931471805599453 + u * rate
    return a * gh, dA, d * rate, dd, tl.sum(gh * (d * u)[None, :], 1)


@triton.jit
def four_steps_back(
    h, q, dA, t, steps, d, u, gated, A2, B_ptr, C_ptr, dB_ptr,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Recompute steps t to t + 3 from h = h_{t-1}, then walk back over them; return q, dA, du without skip, and dd."""
    n = tl.arange(0, BN)
    d0, d1, d2, d3 = columns(d, BD)
    u0, u1, u2, u3 = columns(u, BD)
    g0, g1, g2, g3 = columns(gated, BD)
    B0 = one_row(B_ptr + t * N, n, N, t < steps)
    C0 = one_row(C_ptr + t * N, n, N, t < steps)
    B1 = one_row(B_ptr + (t + 1) * N, n, N, t + 1 < steps)
    C1 = one_row(C_ptr + (t + 1) * N, n, N, t + 1 < steps)
    B2 = one_row(B_ptr + (t + 2) * N, n, N, t + 2 < steps)
    C2 = one_row(C_ptr + (t + 2) * N, n, N, t + 2 < steps)
    B3 = one_row(B_ptr + (t + 3) * N, n, N, t + 3 < steps)
    C3 = one_row(C_ptr + (t + 3) * N, n, N, t + 3 < steps)
    a0 = tl.exp2(d0[None, :] * A2)
    a1 = tl.exp2(d1[None, :] * A2)
    a2 = tl.exp2(d2[None, :] * A2)
    a3 = tl.exp2(d3[None, :] * A2)
    p0 = a0 * h
    p1 = a1 * (p0 + B0[:, None] * (d0 * u0)[None, :])
    p2 = a2 * (p1 + B1[:, None] * (d1 * u1)[None, :])
    p3 = a3 * (p2 + B2[:, None] * (d2 * u2)[None, :])
    q, dA, du3, dd3, dB3 = backward_step(q, dA, a3, p3, d3, u3, g3, A2, B3, C3)
    q, dA, du2, dd2, dB2 = backward_step(q, dA, a2, p2, d2, u2, g2, A2, B2, C2)
    q, dA, du1, dd1, dB1 = backward_step(q, dA, a1, p1, d1, u1, g1, A2, B1, C1)
    q, dA, du0, dd0, dB0 = backward_step(q, dA, a0, p0, d0, u0, g0, A2, B0, C0)
    tl.store(dB_ptr + t * N + n, dB0, mask=n < N)
    tl.store(dB_ptr + (t + 1) * N + n, dB1, mask=n < N)
    tl.store(dB_ptr + (t + 2) * N + n, dB2, mask=n < N)
    tl.store(dB_ptr + (t + 3) * N + n, dB3, mask=n < N)
    return q, dA, from_columns(du0, du1, du2, du3, BD), from_columns(dd0, dd1, dd2, dd3, BD)


@triton.jit
def read_four(
    u_ptr, dt_ptr, z_ptr, dy_ptr, offsets, mask, shift, SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr
):  # fmt: skip
    """Read four steps; return u, d, x = dt + bias, and gated."""
    u = four_rows(u_ptr, offsets, mask)
    x = four_rows(dt_ptr, offsets, mask) + shift[:, None]
    gated = four_rows(dy_ptr, offsets, mask)
    if HAS_Z:
        z = four_rows(z_ptr, offsets, mask)
        gated = gated * z * sigmoid(z)
    return u, step_size(x, mask, SOFTPLUS), x, gated


@triton.jit
def write_four(du_ptr, ddt_ptr, offsets, mask, du, dd, gated, x, skip, SOFTPLUS: tl.constexpr):
    """Write du and ddt of four steps; return ddt summed over them."""
    tl.store(du_ptr + offsets, du + skip[:, None] * gated, mask=mask)
    if SOFTPLUS:
        dd = dd * sigmoid(x)
    tl.store(ddt_ptr + offsets, dd, mask=mask)
    return tl.sum(tl.where(mask, dd, 0.0), 1)


@triton.jit(do_not_specialize=SIZES)
def sweep_backward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, dy_ptr, kept_ptr, q_ptr,
    du_ptr, ddt_ptr, dB_ptr, dbias_ptr,
    length, channels, chunk, chunks, channel_blocks, first, segment,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, STRIDE: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Sweep 2 over one chunk, last step first, 8 steps at a time: each 8 begin at a kept state.

    The states of the first 4 lead to the one in the middle; the last 4 are then walked back before the first 4. The
    chunk's dA takes the place of its q.
    """
    tl.static_assert(STRIDE == 8)
    flat, batch, c, block, channel, exists = program_place(channels, segment, channel_blocks, BD)
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    start = batch * length + (first + c) * chunk
    steps = tl.minimum(chunk, length - (first + c) * chunk)
    u_ptr += start * channels
    dt_ptr += start * channels
    z_ptr += start * channels
    dy_ptr += start * channels
    du_ptr += start * channels
    ddt_ptr += start * channels
    B_ptr += start * N
    C_ptr += start * N
    dB_ptr += ((tl.num_programs(0) // channel_blocks).to(tl.int64) * block + flat) * chunk * N
    A2 = decay_rates(A_ptr, channel, n, N, exists)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    state_mask = (n[:, None] < N) & exists[None, :]
    state = state_offsets(channel, n, N)
    rounds = tl.cdiv(steps, STRIDE)
    kept_ptr += (flat * (chunk // STRIDE) + rounds) * channels * N
    q_ptr += flat * channels * N + state
    q = tl.load(q_ptr, mask=state_mask, other=0.0)
    dA = tl.zeros([BN, BD], tl.float32)
    dbias = tl.zeros([BD], tl.float32)
    for i in range(0, rounds):
        t = (rounds - 1 - i) * STRIDE
        kept_ptr -= channels * N
        early = (t + k)[None, :]
        late = early + 4
        early_mask = exists[:, None] & (early < steps)
        late_mask = exists[:, None] & (late < steps)
        early = early * channels + channel[:, None]
        late = late * channels + channel[:, None]
        h = tl.load(kept_ptr + state, mask=state_mask, other=0.0)
        u, d, x, gated = read_four(u_ptr, dt_ptr, z_ptr, dy_ptr, early, early_mask, shift, SOFTPLUS, HAS_Z)
        d0, d1, d2, d3 = columns(d, BD)
        u0, u1, u2, u3 = columns(u, BD)
        middle = advance(h, d0, u0, one_row(B_ptr + t * N, n, N, t < steps), A2)
        middle = advance(middle, d1, u1, one_row(B_ptr + (t + 1) * N, n, N, t + 1 < steps), A2)
        middle = advance(middle, d2, u2, one_row(B_ptr + (t + 2) * N, n, N, t + 2 < steps), A2)
        middle = advance(middle, d3, u3, one_row(B_ptr + (t + 3) * N, n, N, t + 3 < steps), A2)
        u_late, d_late, x_late, gated_late = read_four(
            u_ptr, dt_ptr, z_ptr, dy_ptr, late, late_mask, shift, SOFTPLUS, HAS_Z
        )
        q, dA, du, dd = four_steps_back(
            middle, q, dA, t + 4, steps, d_late, u_late, gated_late, A2, B_ptr, C_ptr, dB_ptr, N, BN, BD
        )
        dbias += write_four(du_ptr, ddt_ptr, late, late_mask, du, dd, gated_late, x_late, skip, SOFTPLUS)
        q, dA, du, dd = four_steps_back(h, q, dA, t, steps, d, u, gated, A2, B_ptr, C_ptr, dB_ptr, N, BN, BD)
        dbias += write_four(du_ptr, ddt_ptr, early, early_mask, du, dd, gated, x, skip, SOFTPLUS)
    tl.debug_barrier()  # all warps have read q
    tl.store(q_ptr, dA, mask=state_mask)
    if HAS_BIAS:
        tl.store(dbias_ptr + (batch * chunks + first + c) * channels + channel, dbias, mask=exists)


@triton.jit(do_not_specialize=SIZES)
def add_blocks(
    partial_ptr, out_ptr, length, chunk, channel_blocks, first, segment, blocks, N: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Add the parts of dB or dC, (channel blocks, `blocks` = batch x segment, chunk, N), in the order of the blocks."""
    pid = tl.program_id(0)
    per_chunk = tl.cdiv(chunk * N, BLOCK)
    flat = (pid // per_chunk).to(tl.int64)
    i = (pid % per_chunk) * BLOCK + tl.arange(0, BLOCK)
    start = (first + flat % segment) * chunk
    mask = i < tl.minimum(chunk, length - start) * N
    partial_ptr += flat * chunk * N
    stride = blocks.to(tl.int64) * chunk * N
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, channel_blocks):
        total += tl.load(partial_ptr + i, mask=mask, other=0.0)
        partial_ptr += stride
    tl.store(out_ptr + (flat // segment * length + start) * N + i, total, mask=mask)


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
    chunk_states: Tensor,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (du, ddt, dA, dB, dC, dD, dz, dbias, dh0), each in its input's dtype.

    Scratch memory beside these is 3 N / 4 bytes per element of u, but not more than `SEGMENT_BYTES` as long as one
    chunk of all batch rows fits into it.
    """
    batch, length, channels = u.shape
    N = A.shape[1]
    chunk = TRITON_CHUNK
    chunks = chunk_states.shape[1]
    narrow, wide = tile_shape(N, per_lane=8), tile_shape(N)
    narrow_blocks, wide_blocks = triton.cdiv(channels, narrow.channels), triton.cdiv(channels, wide.channels)

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, device=u.device, dtype=torch.float32)

    du, ddt, dB, dC = (torch.empty_like(tensor) for tensor in (u, dt, B, C))
    dz = None if z is None else torch.empty_like(z)
    dD = None if D is None else scratch(batch * chunks, channels)
    dbias = None if bias is None else scratch(batch * chunks, channels)
    dA = torch.zeros_like(A, dtype=torch.float32)
    carry = scratch(batch, channels, N)
    carry.zero_() if dh_last is None else carry.copy_(dh_last)

    chunk_floats = batch * N * (chunk // STRIDE * channels + narrow_blocks * chunk)
    longest = min(chunks, max(1, SEGMENT_BYTES // 4 // chunk_floats))
    pieces = triton.cdiv(chunks, longest)
    bounds = [chunks * piece // pieces for piece in range(pieces + 1)]
    shape = {
        "N": N, "STRIDE": STRIDE, "SOFTPLUS": softplus,
        "HAS_D": D is not None, "HAS_Z": z is not None, "HAS_BIAS": bias is not None,
    }  # fmt: skip
    inputs = (u, dt, A, B, C, given(D, A), given(z, u), given(bias, A), dy)

    for piece in reversed(range(pieces)):
        first, segment = bounds[piece], bounds[piece + 1] - bounds[piece]
        blocks = batch * segment
        kept = scratch(blocks, chunk // STRIDE, channels, N)
        partial = scratch(narrow_blocks, blocks, chunk, N)
        q, sums = scratch(blocks, channels, N), scratch(blocks, channels)
        sizes = (length, channels, chunk, chunks)
        add_grid = (blocks * triton.cdiv(chunk * N, 128),)
        with on_device_of(u):
            sweep_forward[(blocks * wide_blocks,)](
                *inputs, chunk_states, given(dz, u), kept, partial, q, sums, given(dD, A), *sizes,
                wide_blocks, first, segment, BN=wide.states, BD=wide.channels, num_warps=wide.warps, **shape,
            )  # fmt: skip
            add_blocks[add_grid](
                partial, dC, length, chunk, wide_blocks, first, segment, blocks, N=N, BLOCK=128, num_warps=1
            )
            state_blocks = triton.cdiv(channels * N, 32)
            pass_states[(batch * state_blocks,)](
                A, carry, carry, sums, q, channels, segment, segment, state_blocks,
                N=N, BLOCK=32, REVERSE=True, HAS_START=True, WRITE_END=True, num_warps=1,
            )  # fmt: skip
            sweep_backward[(blocks * narrow_blocks,)](
                *inputs, kept, q, du, ddt, partial, given(dbias, A), *sizes,
                narrow_blocks, first, segment, BN=narrow.states, BD=narrow.channels, num_warps=narrow.warps, **shape,
            )  # fmt: skip
            add_blocks[add_grid](
                partial, dB, length, chunk, narrow_blocks, first, segment, blocks, N=N, BLOCK=128, num_warps=1
            )
        dA += q.sum(0)
    return (
        du,
        ddt,
        dA.to(A.dtype),
        dB,
        dC,
        None if D is None or dD is None else dD.sum(0).to(D.dtype),
        dz,
        None if bias is None or dbias is None else dbias.sum(0).to(bias.dtype),
        None if h0 is None else carry.to(h0.dtype),
    )
