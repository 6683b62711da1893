"""The scan's backward in Triton for complex states; see `triton_backward` for the method."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from torch import Tensor

from seqdomains.kernels.selective_scan.plan import (
    BYTES_PER_ELEMENT,
    RESIDENT,
    SCRATCH,
    STRIDE,
    chunk_table,
    gpu_chunk,
    slabs,
)
from seqdomains.kernels.selective_scan.triton_chunks import add_rows
from seqdomains.kernels.selective_scan.triton_complex import complex_tile, packed_view, planes_of
from seqdomains.kernels.selective_scan.triton_complex_chunks import pass_complex_backward
from seqdomains.kernels.selective_scan.triton_complex_sweeps import complex_sweep_backward, complex_sweep_forward
from seqdomains.kernels.selective_scan.triton_packed import add_group_blocks
from seqdomains.kernels.selective_scan.triton_tile import (
    blocks_of,
    form_of,
    groups_of,
    halves,
    rows_taken,
)
from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import given, on_device_of


def real_view(tensor: Tensor) -> Tensor:
    """View a complex tensor as pairs of float32; leave a real one."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


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
    """Return the gradients; see `triton_backward.backward`."""
    batch, length, channels = u.shape
    N, groups = A.shape[1], groups_of(B, C)
    chunk = gpu_chunk(batch, length, channels, N)
    chunks, sequences, packed = triton.cdiv(length, chunk), batch, cu_seqlens is not None and cu_seqlens.shape[0] > 2
    rates = planes_of(A)
    table = borders = rates
    if cu_seqlens is not None and packed:
        table, borders = chunk_table(cu_seqlens, length, chunk, reverse)
        sequences, chunks = cu_seqlens.shape[0] - 1, table.shape[0]

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, device=u.device, dtype=torch.float32)

    du, ddt = torch.empty_like(u), torch.empty_like(dt)
    high, low, split = halves(du, ddt)
    # Constant ones are sums over all chunks in float32.
    dB, dC = (
        torch.zeros_like(x, dtype=torch.complex64 if x.is_complex() else torch.float32)
        if x.dim() == 2
        else torch.empty_like(x)
        for x in (B, C)
    )
    dz = None if z is None else torch.empty_like(z)
    dD = None if D is None else scratch(batch * chunks, channels)
    dbias = None if bias is None else scratch(batch * chunks, channels)
    dA = torch.zeros(sequences, channels, N, device=u.device, dtype=torch.complex64)
    carry = torch.zeros_like(dA) if dh_last is None else torch.conj_physical(dh_last)
    there, back = complex_tile("complex_sweep_forward", N), complex_tile("complex_sweep_backward", N)
    there_blocks, back_blocks = blocks_of(there, channels, groups), blocks_of(back, channels, groups)
    pieces, strides = triton.cdiv(channels * N, 32), triton.cdiv(chunk, STRIDE)
    widths = [N * (2 if x.is_complex() else 1) for x in (B, C)]
    part_floats = max(
        width * (channels if x.dim() == 2 else blocks * chunk)
        for x, width, blocks in zip((B, C), widths, (back_blocks, there_blocks), strict=True)
    )
    chunk_floats = 2 * channels * N * (strides + 4) + part_floats
    allowed = max(SCRATCH, BYTES_PER_ELEMENT * u.numel()) // (4 * chunk_floats)
    whole = allowed >= batch * chunks
    cuts = [(slice(0, batch), 0, chunks)] if whole else slabs(batch, chunks, allowed, max(1, RESIDENT // there_blocks))
    most = max((rows.stop - rows.start) * segment for rows, _, segment in cuts)
    kept, part = scratch(most * strides, 2, channels, N), scratch(most * part_floats)
    q, reached, added, decays = (scratch(most, 2, channels, N) for _ in range(4))
    key = launch_key((u, dt, rates, packed_view(B), packed_view(C), D, z, bias, h0, dy))
    step = -1 if reverse else 1
    shape = {
        "N": N, "STRIDE": STRIDE,
        "STEP": step, "PACKED": packed, "B_FORM": form_of(B), "C_FORM": form_of(C), "B_COMPLEX": B.is_complex(),
        "C_COMPLEX": C.is_complex(), "SPLIT": split, "SOFTPLUS": softplus, "HAS_BIAS": bias is not None,
        "HAS_D": D is not None, "HAS_Z": z is not None, "HAS_START": h0 is not None,
    }  # fmt: skip
    for rows, first, segment in cuts:
        own = rows_taken(rows, batch)
        spread = rows_taken(slice(rows.start * chunks, rows.stop * chunks), batch * chunks)
        count = rows.stop - rows.start
        flat = count * segment

        def add(total: Tensor, width: int, blocks: int, own: Callable[[Tensor], Tensor] = own, flat: int = flat,
                first: int = first, segment: int = segment) -> None:  # fmt: skip
            """Add what a sweep left in `part` to dB or dC."""
            if total.dim() == 2:
                view = real_view(total).view(channels, width)
                view += part[: flat * channels * width].view(flat, channels, width).sum(0)
            else:
                parts = total.shape[2] if total.dim() == 4 else 1
                launch(
                    add_group_blocks, flat * parts * triton.cdiv(chunk * width, 128),
                    (part, real_view(own(total)), table, length, chunk, blocks, first, segment, flat, parts),
                    {"N": width, "BLOCK": 128, "STEP": step, "PACKED": packed}, key and (key, total.dtype), num_warps=1,
                )  # fmt: skip

        inputs = (
            own(u), own(dt), rates, packed_view(B if B.dim() == 2 else own(B)),
            packed_view(C if C.dim() == 2 else own(C)), given(D, rates), own(given(z, u)), given(bias, rates),
            rates if h0 is None else packed_view(h0 if packed else own(h0)), table, own(dy),
            packed_view(own(chunk_states)),
        )  # fmt: skip
        ea = own(high), own(low)
        sizes = (length, channels, chunk, chunks)
        with on_device_of(u):
            launch(
                complex_sweep_forward, flat * there_blocks,
                (*inputs, own(given(dz, u)), *ea, kept, part, q, reached, added, decays,
                 rates if dD is None else spread(dD), *sizes, there_blocks, first, segment,
                 groups),
                shape | there.constants, key, **there.options,
            )  # fmt: skip
            add(dC, widths[1], there_blocks)
            owners = (carry, dA) if packed else (own(carry), own(dA))
            launch(
                pass_complex_backward, owners[0].shape[0] * pieces,
                (packed_view(owners[0]), borders, decays, q, reached, added, packed_view(owners[1]), channels,
                 first, segment, pieces),
                {"N": N, "BLOCK": 32, "PACKED": packed}, key, num_warps=1,
            )  # fmt: skip
            launch(
                complex_sweep_backward, flat * back_blocks,
                (*inputs, *ea, kept, q, own(du), own(ddt), part, rates if dbias is None else spread(dbias), *sizes,
                 back_blocks, first, segment, groups),
                shape | back.constants, key, **back.options,
            )  # fmt: skip
            add(dB, widths[0], back_blocks)
    sum_D, sum_bias = (None if x is None else torch.empty_like(x) for x in (D, bias))
    if D is not None or bias is not None:
        with on_device_of(u):
            launch(
                add_rows, triton.cdiv(channels, 32),
                (rates, rates, given(dD, rates), given(sum_D, rates), given(dbias, rates), given(sum_bias, rates),
                 0, 0, batch * chunks, channels),
                {"BLOCK": 256, "HAS_D": D is not None, "HAS_BIAS": bias is not None}, key, num_warps=1,
            )  # fmt: skip
    dB, dC = (x.conj_physical_() if x.is_complex() else x for x in (dB, dC))
    return (
        du,
        ddt,
        dA.sum(0).conj_physical_().to(A.dtype),
        dB.to(B.dtype),
        dC.to(C.dtype),
        sum_D,
        dz,
        sum_bias,
        None if h0 is None else carry.conj_physical_().to(h0.dtype),
    )
