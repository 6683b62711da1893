"""The adjoint of the root-mean-square normalisation in Triton.

With s = total rstd and dn = dy weight: dx = (dn - s mean(dn s)) rstd + the gradient of the residual output, and
dweight = sum over rows of dy s, written once per program; `add_parts` adds those of all programs in a fixed order.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.rms_norm.triton_forward import LANES, Tile, channels_of, row_sums, share_rows
from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import given, launch_add_parts, on_device_of

# As many warps as are on a multiprocessor at a time, since each program writes its part of dweight.
TILE = Tile(per_lane=16, warps=16)


@triton.jit(do_not_specialize=["rows", "tiles"])
def normalise_back(
    dy_ptr, dtotal_ptr, total_ptr, weight_ptr, rstd_ptr, dx_ptr, dresidual_ptr, parts_ptr, rows, tiles, channels,
    K: tl.constexpr, R: tl.constexpr, LANES: tl.constexpr, HAS_DTOTAL: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Write dx of `tiles` tiles of R rows, in float32 too if APART, and their sum of dy s."""
    pid = tl.program_id(0).to(tl.int64)
    channel = channels_of(K, LANES)
    exists = channel < channels
    weight = tl.load(weight_ptr + channel, mask=exists, other=0.0).to(tl.float32)[:, None, :]
    dweight = tl.zeros([K, R, LANES], tl.float32)
    for tile in range(0, tiles):
        row = (pid * tiles + tile) * R + tl.arange(0, R)
        mask = (row < rows)[None, :, None] & exists[:, None, :]
        offsets = (row * channels)[None, :, None] + channel[:, None, :]
        dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        total = tl.load(total_ptr + offsets, mask=mask, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)[None, :, None]
        if HAS_DTOTAL:
            # Read with the others, not when its turn comes: a load that waits for a sum over the row waits twice.
            through = tl.load(dtotal_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        scaled = total * rstd
        dweight += dy * scaled
        dnormal = dy * weight
        mean = row_sums(dnormal * scaled) / channels
        dx = (dnormal - scaled * mean[None, :, None]) * rstd
        if HAS_DTOTAL:
            dx += through
        tl.store(dx_ptr + offsets, dx, mask=mask)
        if APART:
            tl.store(dresidual_ptr + offsets, dx, mask=mask)
    tl.store(parts_ptr + pid * channels + channel, tl.sum(dweight, 1), mask=exists)


def backward(
    dy: Tensor,
    dresidual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    rstd: Tensor,
    x_dtype: torch.dtype,
    has_residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients of x and of the weight in their dtypes; between them the residual's where it differs."""
    channels = residual_out.shape[-1]
    rows = residual_out.numel() // channels
    share = share_rows(residual_out, TILE)
    dx = torch.empty_like(residual_out, dtype=x_dtype)
    apart = has_residual and x_dtype != torch.float32
    dresidual = torch.empty_like(residual_out) if apart else None
    dweight = torch.empty_like(weight)
    parts = torch.empty(share.programs, 1, channels, device=dx.device, dtype=torch.float32)
    key = launch_key((dy, dresidual_out, residual_out, weight, rstd, dx), channels)
    with on_device_of(dx):
        launch(
            normalise_back, share.programs,
            (dy, given(dresidual_out, dy), residual_out, weight, rstd, dx, given(dresidual, dx), parts,
             rows, share.tiles, channels),
            {"K": share.blocks, "R": share.rows, "LANES": LANES, "HAS_DTOTAL": dresidual_out is not None,
             "APART": apart},
            key, num_warps=share.warps,
        )  # fmt: skip
        launch_add_parts(parts, dweight, key=key)
    return dx, dresidual, dweight
