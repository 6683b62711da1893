"""Root-mean-square normalisation with residual addition in Triton: whole rows in registers, several if D is small."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.triton_parts import given, on_device_of


class RowShape(NamedTuple):
    """Rows per tile, D rounded up to a power of two, and warps per program."""

    rows: int
    channels: int
    warps: int


def row_shape(channels: int) -> RowShape:
    """Choose a tile of about 2,048 elements, 16 per lane, or one row if that is longer."""
    columns = 1 << (channels - 1).bit_length()
    rows = max(1, 2048 // columns)
    return RowShape(rows, columns, min(16, max(1, rows * columns // 512)))


@triton.jit(do_not_specialize=["rows"])
def normalise(
    x_ptr, weight_ptr, residual_ptr, y_ptr, total_ptr, rstd_ptr, rows, channels, eps,
    R: tl.constexpr, BD: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Write y, x + residual and 1 / sqrt(mean square + eps) of R rows."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    channel = tl.arange(0, BD)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    offsets = row[:, None] * channels + channel[None, :]
    total = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(total * total, 1) / channels + eps)
    tl.store(total_ptr + offsets, total, mask=mask)
    tl.store(y_ptr + offsets, total * rstd[:, None] * weight[None, :], mask=mask)
    tl.store(rstd_ptr + row, rstd, mask=row < rows)


def forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise contiguous tensors.

    Returns
    -------
    tuple of Tensor
        y in x's dtype, x + residual in float32, both of x's shape, and one over the root mean square, shape (B L,).
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    tile = row_shape(channels)
    y = torch.empty_like(x)
    total = torch.empty_like(x, dtype=torch.float32)
    rstd = torch.empty(rows, device=x.device, dtype=torch.float32)
    with on_device_of(x):
        normalise[(triton.cdiv(rows, tile.rows),)](
            x, weight, given(residual, x), y, total, rstd, rows, channels, eps,
            R=tile.rows, BD=tile.channels, HAS_RESIDUAL=residual is not None, num_warps=tile.warps,
        )  # fmt: skip
    return y, total, rstd
