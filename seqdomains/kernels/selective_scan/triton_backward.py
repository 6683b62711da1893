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
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from torch import Tensor

from seqdomains.kernels.selective_scan import triton_complex_backward
from seqdomains.kernels.selective_scan.plan import (
    BYTES_PER_ELEMENT,
    RESIDENT,
    SCRATCH,
    STRIDE,
    Enter,
    chunk_table,
    portable_chunk,
    slabs,
)
from seqdomains.kernels.selective_scan.triton_chunks import add_blocks, add_rows, pass_backward, pass_through
from seqdomains.kernels.selective_scan.triton_packed import add_group_blocks, pass_backward_packed
from seqdomains.kernels.selective_scan.triton_sweeps import sweep_backward, sweep_forward
from seqdomains.kernels.selective_scan.triton_tile import (
    blocks_of,
    form_of,
    groups_of,
    halves,
    rows_taken,
    tile_shape,
)
from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import given, on_device_of


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
    *,
    enter: Enter = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (du, ddt, dA, dB, dC, dD, dz, dbias, dh0), each in its input's dtype.

    Scratch memory beside these is at most `BYTES_PER_ELEMENT` bytes per element of u, or `SCRATCH` where that is more,
    as long as one chunk of one batch row fits into it. `enter` takes, between the sweeps, the gradient of the first
    state if that of the last were zero, and returns the latter: scratch is then taken whole.
    """
    if A.is_complex():
        return triton_complex_backward.backward(
            dy, dh_last, u, dt, A, B, C, D, z, bias, h0, cu_seqlens, chunk_states, softplus, reverse
        )
    batch, length, channels = u.shape
    N, groups = A.shape[1], groups_of(B, C)
    chunk = portable_chunk(batch, length, channels, N)
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
    there_blocks, back_blocks = blocks_of(there, channels, groups), blocks_of(back, channels, groups)
    pieces, strides = triton.cdiv(channels * N, 32), triton.cdiv(chunk, STRIDE)
    part_floats = max(
        channels * N if x.dim() == 2 else blocks * chunk * N for x, blocks in ((C, there_blocks), (B, back_blocks))
    )
    chunk_floats = strides * channels * N + part_floats + 3 * channels * N + channels
    allowed = max(SCRATCH, BYTES_PER_ELEMENT * u.numel()) // (4 * chunk_floats)
    whole = enter is not None or allowed >= batch * chunks
    cuts = [(slice(0, batch), 0, chunks)] if whole else slabs(batch, chunks, allowed, max(1, RESIDENT // there_blocks))
    most = max((rows.stop - rows.start) * segment for rows, _, segment in cuts)
    kept, part = scratch(most * strides * channels * N), scratch(most * part_floats)
    q, reached, added = (scratch(most, channels, N) for _ in range(3))
    sums = scratch(most, channels)
    key = launch_key((u, dt, A, B, C, D, z, bias, h0, dy))
    step = -1 if reverse else 1
    shape = {
        "CHANNELS": channels, "N": N, "STRIDE": STRIDE, "STEP": step, "PACKED": packed, "B_FORM": form_of(B),
        "C_FORM": form_of(C), "SPLIT": split, "SOFTPLUS": softplus, "HAS_BIAS": bias is not None,
        "HAS_D": D is not None, "HAS_Z": z is not None, "HAS_START": h0 is not None,
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
        sizes = (length, chunk, chunks)
        with on_device_of(u):
            launch(
                sweep_forward, flat * there_blocks,
                (*inputs, own(given(dz, u)), *ea, kept, part, q, reached, added, sums,
                 A if dD is None else spread(dD), *sizes, there_blocks, first, segment, groups),
                shape | there.constants, key, **there.options,
            )  # fmt: skip
            add(dC, there_blocks)
            if enter is not None:
                start = torch.empty_like(carry)
                launch(
                    pass_through, batch * pieces, (A, sums, q, start, channels, chunks, pieces),
                    {"N": N, "BLOCK": 32, "BACK": True}, key, num_warps=1,
                )  # fmt: skip
                carry.copy_(enter(start))
            if packed:
                launch(
                    pass_backward_packed, sequences * pieces,
                    (A, carry, borders, sums, q, reached, added, dA, channels, first, segment, pieces),
                    {"N": N, "BLOCK": 32}, key, num_warps=1,
                )  # fmt: skip
            else:
                launch(
                    pass_backward, count * pieces,
                    (A, own(carry), own(carry), sums, q, reached, added, own(dA), channels, segment, pieces),
                    {"N": N, "BLOCK": 32, "ENTERS": True, "ADD": first + segment < chunks}, key, num_warps=1,
                )  # fmt: skip
            launch(
                sweep_backward, flat * back_blocks,
                (*inputs, *ea, kept, q, own(du), own(ddt), part, A if dbias is None else spread(dbias), *sizes,
                 back_blocks, first, segment, groups),
                shape | back.constants, key, **back.options,
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
