"""The scan's forward in Triton, parallel over chunks of time.

d_t = softplus(dt_t + bias), a_t = exp(d_t A), h_t = a_t h_{t-1} + d_t u_t B_t, y_t = (C_t . h_t + D u_t) silu(z_t).

1. `chunk_ends`: each chunk's end state from a zero start, and the sum S of d over it.
2. `pass_states`: the state entering each chunk, h_in[c+1] = exp(A S_c) h_in[c] + h_end[c]; A is constant in time, so
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


@triton.jit(do_not_specialize=SIZES)
def chunk_ends(
    u_ptr, dt_ptr, A_ptr, B_ptr, bias_ptr, states_ptr, sums_ptr,
    length, channels, chunk, chunks, channel_blocks,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Write the end state of a chunk, from zero, and the sum of d over it; not for the last chunk."""
    _, batch, c, _, channel, exists = program_place(channels, chunks - 1, channel_blocks, BD)
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    start = batch * length + c * chunk
    u_ptr += start * channels
    dt_ptr += start * channels
    B_ptr += start * N
    A2 = decay_rates(A_ptr, channel, n, N, exists)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    h = tl.zeros([BN, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    for t in range(0, chunk, 4):
        mask = exists[:, None] & (k[None, :] >= 0)
        offsets = (t + k)[None, :] * channels + channel[:, None]
        d = step_size(four_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        d0, d1, d2, d3 = columns(d, BD)
        u0, u1, u2, u3 = columns(four_rows(u_ptr, offsets, mask), BD)
        h = advance(h, d0, u0, one_row(B_ptr + t * N, n, N, True), A2)
        h = advance(h, d1, u1, one_row(B_ptr + (t + 1) * N, n, N, True), A2)
        h = advance(h, d2, u2, one_row(B_ptr + (t + 2) * N, n, N, True), A2)
        h = advance(h, d3, u3, one_row(B_ptr + (t + 3) * N, n, N, True), A2)
        total += (d0 + d1) + (d2 + d3)
    place = batch * chunks + c
    tl.store(sums_ptr + place * channels + channel, total, mask=exists)
    mask = (n[:, None] < N) & exists[None, :]
    tl.store(states_ptr + place * channels * N + state_offsets(channel, n, N), h, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def outputs(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, states_ptr, y_ptr, h_last_ptr,
    length, channels, chunk, chunks, channel_blocks,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Write y of one chunk from the state that enters it, and h_last from the last chunk."""
    flat, batch, c, _, channel, exists = program_place(channels, chunks, channel_blocks, BD)
    n = tl.arange(0, BN)
    k = tl.arange(0, 4)
    start = batch * length + c * chunk
    steps = tl.minimum(chunk, length - c * chunk)
    u_ptr += start * channels
    dt_ptr += start * channels
    z_ptr += start * channels
    y_ptr += start * channels
    B_ptr += start * N
    C_ptr += start * N
    state_mask = (n[:, None] < N) & exists[None, :]
    A2 = decay_rates(A_ptr, channel, n, N, exists)
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    skip = channel_values(D_ptr, channel, exists, HAS_D)
    h = tl.load(states_ptr + flat * channels * N + state_offsets(channel, n, N), mask=state_mask, other=0.0)
    for t in range(0, steps, 4):
        step = t + k
        mask = exists[:, None] & (step[None, :] < steps)
        offsets = step[None, :] * channels + channel[:, None]
        u = four_rows(u_ptr, offsets, mask)
        d = step_size(four_rows(dt_ptr, offsets, mask) + shift[:, None], mask, SOFTPLUS)
        d0, d1, d2, d3 = columns(d, BD)
        u0, u1, u2, u3 = columns(u, BD)
        h = advance(h, d0, u0, one_row(B_ptr + t * N, n, N, t < steps), A2)
        y0 = tl.sum(one_row(C_ptr + t * N, n, N, t < steps)[:, None] * h, 0)
        h = advance(h, d1, u1, one_row(B_ptr + (t + 1) * N, n, N, t + 1 < steps), A2)
        y1 = tl.sum(one_row(C_ptr + (t + 1) * N, n, N, t + 1 < steps)[:, None] * h, 0)
        h = advance(h, d2, u2, one_row(B_ptr + (t + 2) * N, n, N, t + 2 < steps), A2)
        y2 = tl.sum(one_row(C_ptr + (t + 2) * N, n, N, t + 2 < steps)[:, None] * h, 0)
        h = advance(h, d3, u3, one_row(B_ptr + (t + 3) * N, n, N, t + 3 < steps), A2)
        y3 = tl.sum(one_row(C_ptr + (t + 3) * N, n, N, t + 3 < steps)[:, None] * h, 0)
        y = from_columns(y0, y1, y2, y3, BD) + skip[:, None] * u
        if HAS_Z:
            z = four_rows(z_ptr, offsets, mask)
            y = y * z * sigmoid(z)
        tl.store(y_ptr + offsets, y, mask=mask)
    if c == chunks - 1:
        tl.store(h_last_ptr + batch * channels * N + state_offsets(channel, n, N), h, mask=state_mask)


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
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the scan on contiguous tensors.

    Returns
    -------
    tuple of Tensor
        y, shape (B, L, D) in u's dtype; h_last, shape (B, D, N) float32; the state entering each chunk of
        `TRITON_CHUNK` steps, shape (B, chunks, D, N) float32.
    """
    batch, length, channels = u.shape
    N = A.shape[1]
    tile = tile_shape(N)
    chunk = TRITON_CHUNK
    chunks = triton.cdiv(length, chunk)
    channel_blocks = triton.cdiv(channels, tile.channels)
    y = torch.empty_like(u)
    states = torch.empty(batch, chunks, channels, N, device=u.device, dtype=torch.float32)
    h_last = torch.empty(batch, channels, N, device=u.device, dtype=torch.float32)
    sums = torch.empty(batch, chunks, channels, device=u.device, dtype=torch.float32)
    sizes = (length, channels, chunk, chunks, channel_blocks)
    shape = {"N": N, "BN": tile.states, "BD": tile.channels, "SOFTPLUS": softplus, "HAS_BIAS": bias is not None}
    with on_device_of(u):
        if chunks > 1:
            chunk_ends[(batch * (chunks - 1) * channel_blocks,)](
                u, dt, A, B, given(bias, A), states, sums, *sizes, **shape, num_warps=tile.warps
            )
        blocks = triton.cdiv(channels * N, 32)
        pass_states[(batch * blocks,)](
            A, given(h0, A), h_last, sums, states, channels, chunks, chunks - 1, blocks,
            N=N, BLOCK=32, REVERSE=False, HAS_START=h0 is not None, WRITE_END=False, num_warps=1,
        )  # fmt: skip
        outputs[(batch * chunks * channel_blocks,)](
            u, dt, A, B, C, given(D, A), given(z, u), given(bias, A), states, y, h_last, *sizes,
            **shape, HAS_D=D is not None, HAS_Z=z is not None, num_warps=tile.warps,
        )  # fmt: skip
    return y, h_last, states
