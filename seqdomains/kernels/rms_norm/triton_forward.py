"""Root-mean-square normalisation with residual addition in Triton: whole rows in registers, several if D is small.

A tile is [K, R, 128]: K blocks of 128 channels of R rows. A program is one warp while a row has at most 32 numbers per
lane, and has one row otherwise: the compiler then has no choice but to keep blocks in the registers of a lane (Triton
3.6 and 3.8 give the warps to different axes). A lane holds four neighbouring channels of each tensor, whatever its
dtype: 16 bytes of float32, 8 of bfloat16, with no detour through shared memory from one arrangement to the other.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import given, multiprocessors, on_device_of


class Tile(NamedTuple):
    """Numbers of a row or rows that a lane holds, and warps per multiprocessor that the rows are shared out over."""

    per_lane: int
    warps: int


class Share(NamedTuple):
    """A launch: rows and blocks of channels per tile, warps, tiles per program, and programs."""

    rows: int
    blocks: int
    warps: int
    tiles: int
    programs: int


# About eight times as many warps as a multiprocessor holds, so that the last ones leave few of them idle.
TILE = Tile(per_lane=16, warps=256)
# Rows that several warps share are read ahead through shared memory: the warps wait for each other's sums.
STAGES = 2
LANES = 128  # channels that a warp reads at once


def share_rows(x: Tensor, tile: Tile) -> Share:
    """Share the rows of x, shape (B, L, D), out over programs that take one tile after the other."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    blocks = 1 << (-(-channels // LANES) - 1).bit_length()
    size = max(1, 32 * tile.per_lane // (blocks * LANES))
    warps = min(16, max(1, blocks * LANES // (32 * tile.per_lane)))
    programs = max(1, multiprocessors(x.device) * tile.warps // warps)
    tiles = -(-rows // (size * programs))
    return Share(size, blocks, warps, tiles, -(-rows // (size * tiles)))


@triton.jit
def channels_of(K: tl.constexpr, LANES: tl.constexpr):
    """Return the channels of a row as [K, LANES], marked so that a lane takes four at a time of any dtype."""
    block = tl.arange(0, K)[:, None] * LANES
    return block + tl.max_contiguous(tl.arange(0, LANES), 4)[None, :]


@triton.jit
def row_sums(tile):
    """Add a [K, R, LANES] tile over channels: in the lane first."""
    return tl.sum(tl.sum(tile, 0), 1)


@triton.jit(do_not_specialize=["rows", "tiles"])
def normalise(
    x_ptr, weight_ptr, residual_ptr, y_ptr, total_ptr, rstd_ptr, rows, tiles, channels, eps,
    K: tl.constexpr, R: tl.constexpr, LANES: tl.constexpr, HAS_RESIDUAL: tl.constexpr, KEEP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Write y and, to keep, x + residual and 1 / sqrt(mean square + eps) of `tiles` tiles of R rows."""
    channel = channels_of(K, LANES)
    exists = channel < channels
    weight = tl.load(weight_ptr + channel, mask=exists, other=0.0).to(tl.float32)[:, None, :]
    for tile in tl.range(0, tiles, num_stages=STAGES):
        row = (tl.program_id(0).to(tl.int64) * tiles + tile) * R + tl.arange(0, R)
        mask = (row < rows)[None, :, None] & exists[:, None, :]
        offsets = (row * channels)[None, :, None] + channel[:, None, :]
        total = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        if HAS_RESIDUAL:
            total += tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        rstd = 1.0 / tl.sqrt(row_sums(total * total) / channels + eps)
        tl.store(y_ptr + offsets, total * rstd[None, :, None] * weight, mask=mask)
        if KEEP:
            tl.store(total_ptr + offsets, total, mask=mask)
            tl.store(rstd_ptr + row, rstd, mask=row < rows)


def forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise contiguous tensors.

    Returns
    -------
    tuple of Tensor
        y in x's dtype, x + residual in float32, both of x's shape, and one over the root mean square, shape (B L,).
    """
    y = torch.empty_like(x)
    total = torch.empty_like(x, dtype=torch.float32)
    rstd = torch.empty(x.numel() // x.shape[-1], device=x.device, dtype=torch.float32)
    _launch(x, weight, residual, y, total, rstd, eps)
    return y, total, rstd


def again(total: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return y alone, of this dtype, of a contiguous sum."""
    y = torch.empty_like(total, dtype=dtype)
    _launch(total, weight, None, y, None, None, eps)
    return y


def _launch(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    y: Tensor,
    total: Tensor | None,
    rstd: Tensor | None,
    eps: float,
) -> None:
    channels = x.shape[-1]
    rows = x.numel() // channels
    share = share_rows(x, TILE)
    with on_device_of(x):
        launch(
            normalise, share.programs,
            (x, weight, given(residual, x), y, given(total, x), given(rstd, x), rows, share.tiles, channels, eps),
            {"K": share.blocks, "R": share.rows, "LANES": LANES, "HAS_RESIDUAL": residual is not None,
             "KEEP": total is not None, "STAGES": STAGES if share.warps > 1 else 1},
            launch_key((x, weight, residual, y), channels), num_warps=share.warps,
        )  # fmt: skip
