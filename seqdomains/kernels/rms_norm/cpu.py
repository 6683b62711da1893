"""Root-mean-square normalisation on a CPU: residual addition, scale and both gradients in one pass over each row.

A task is a run of rows; its share of the weight's gradient is a row of its own, added up in order afterwards.
"""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from seqdomains.kernels.compilation import flat, kernel, memory, run_tasks, sum_rows
from seqdomains.kernels.simd import WIDTH, load_part, muladd, splat, store_part, total

# The weight's gradient has at most this many partial rows, whatever the machine.
_TASKS: Final = 64


def _run(rows: int) -> int:
    """Return how many rows make a task."""
    return max(16, -(-rows // _TASKS))


@kernel
def _normalise(first, last, scratch, shape, eps, x, weight, residual, y, residual_out, rstd):
    rows, channels, run = shape
    for row in range(first * run, min(rows, last * run)):
        squares = splat(np.float32(0))
        for c in range(0, channels, WIDTH):
            at, count = row * channels + c, channels - c
            value = load_part(x, at, count)
            if residual.size > 0:
                value = value + load_part(residual, at, count)
            store_part(residual_out, at, value, count)
            squares = muladd(value, value, squares)
        scale = np.float32(1) / np.sqrt(total(squares) / np.float32(channels) + eps)
        rstd[row] = scale
        for c in range(0, channels, WIDTH):
            at, count = row * channels + c, channels - c
            scaled = load_part(residual_out, at, count) * splat(scale)
            store_part(y, at, scaled * load_part(weight, c, count), count)


def forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in x's dtype, x + residual in float32 and one over the root mean square, shape (B L,)."""
    rows, channels = x.shape[0] * x.shape[1], x.shape[2]
    run = _run(rows)
    y, residual_out, rstd = memory(*x.shape), memory(*x.shape), memory(rows)
    run_tasks(
        _normalise,
        -(-rows // run),
        0,
        (rows, channels, run),
        np.float32(eps),
        *(flat(tensor) for tensor in (x, weight, residual, y, residual_out, rstd)),
    )
    return y.to(x.dtype), residual_out, rstd


def again(total: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return y alone, of this dtype, of a sum that is there already."""
    return forward(total, weight, None, eps)[0].to(dtype)


@kernel
def _adjoint(first, last, scratch, shape, dy, through, residual_out, weight, rstd, dx, dweight):
    rows, channels, run = shape
    zero = splat(np.float32(0))
    for task in range(first, last):
        for c in range(0, channels, WIDTH):
            store_part(dweight, task * channels + c, zero, channels - c)
        for row in range(task * run, min(rows, (task + 1) * run)):
            scale = splat(rstd[row])
            products = zero
            for c in range(0, channels, WIDTH):
                at, count = row * channels + c, channels - c
                scaled = load_part(residual_out, at, count) * scale
                change = load_part(dy, at, count) * scaled
                own = task * channels + c
                store_part(dweight, own, load_part(dweight, own, count) + change, count)
                products = muladd(change, load_part(weight, c, count), products)
            mean = splat(total(products) / np.float32(channels))
            for c in range(0, channels, WIDTH):
                at, count = row * channels + c, channels - c
                scaled = load_part(residual_out, at, count) * scale
                change = (load_part(dy, at, count) * load_part(weight, c, count) - scaled * mean) * scale
                if through.size > 0:
                    change = change + load_part(through, at, count)
                store_part(dx, at, change, count)


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
    rows, channels = rstd.shape[0], weight.shape[0]
    run = _run(rows)
    tasks = -(-rows // run)
    dx, dweight = memory(*residual_out.shape), memory(tasks, channels)
    run_tasks(
        _adjoint,
        tasks,
        0,
        (rows, channels, run),
        *(flat(tensor) for tensor in (dy, dresidual_out, residual_out, weight, rstd, dx, dweight)),
    )
    apart = has_residual and x_dtype != dx.dtype
    return dx.to(x_dtype), dx if apart else None, sum_rows(dweight).to(weight.dtype)
