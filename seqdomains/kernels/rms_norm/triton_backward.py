"""The adjoint of the root-mean-square normalisation in Triton.

With s = total rstd and dn = dy weight: dx = (dn - s mean(dn s)) rstd + the gradient of the residual output, and
dweight = sum over rows of dy s, written once per program and added by torch in a fixed order.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.rms_norm.triton_forward import row_shape
from seqdomains.kernels.triton_parts import given, on_device_of

# Enough programs for every multiprocessor of today's cards, few enough to keep the parts of dweight small.
PROGRAMS = 1024


@triton.jit(do_not_specialize=["rows", "tiles"])
def normalise_back(
    dy_ptr, dtotal_ptr, total_ptr, weight_ptr, rstd_ptr, dx_ptr, parts_ptr, rows, tiles, channels,
    R: tl.constexpr, BD: tl.constexpr, HAS_DTOTAL: tl.constexpr,
):  # fmt: skip
    """Write dx of `tiles` tiles of R rows, and their sum of dy s."""
    pid = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BD)
    weight = tl.load(weight_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)
    dweight = tl.zeros([R, BD], tl.float32)
    for tile in range(0, tiles):
        row = (pid * tiles + tile) * R + tl.arange(0, R)
        mask = (row < rows)[:, None] & (channel < channels)[None, :]
        offsets = row[:, None] * channels + channel[None, :]
        dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)
        scaled = tl.load(total_ptr + offsets, mask=mask, other=0.0) * rstd[:, None]
        dweight += dy * scaled
        dnormal = dy * weight[None, :]
        mean = tl.sum(dnormal * scaled, 1) / channels
        dx = (dnormal - scaled * mean[:, None]) * rstd[:, None]
        if HAS_DTOTAL:
            dx += tl.load(dtotal_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + offsets, dx, mask=mask)
    tl.store(parts_ptr + pid * channels + channel, tl.sum(dweight, 0), mask=channel < channels)


def backward(
    dy: Tensor, dresidual_out: Tensor | None, residual_out: Tensor, weight: Tensor, rstd: Tensor, x_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x + residual, in float32 whatever `x_dtype`, and of the weight, in its dtype."""
    channels = residual_out.shape[-1]
    rows = residual_out.numel() // channels
    tile = row_shape(channels)
    tiles = triton.cdiv(rows, tile.rows * PROGRAMS)
    programs = triton.cdiv(rows, tile.rows * tiles)
    dx = torch.empty_like(residual_out)
    parts = torch.empty(programs, channels, device=dx.device, dtype=torch.float32)
    with on_device_of(dx):
        normalise_back[(programs,)](
            dy, given(dresidual_out, dy), residual_out, weight, rstd, dx, parts, rows, tiles, channels,
            R=tile.rows, BD=tile.channels, HAS_DTOTAL=dresidual_out is not None, num_warps=tile.warps,
        )  # fmt: skip
    return dx, parts.sum(0).to(weight.dtype)
