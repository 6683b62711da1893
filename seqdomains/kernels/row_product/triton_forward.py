"""A matrix times the vectors of rows in Triton: one launch, each of whose programs has one row and some outputs."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.row_product import RowWeights
from seqdomains.kernels.triton_launch import laid_out, launch, launch_key
from seqdomains.kernels.triton_parts import given, on_device_of

# Outputs of a program, and numbers that a product adds at once.
OUTPUTS: Final = 32
AT_ONCE: Final = 128
WARPS: Final = 4


@triton.jit
def product(matrix_ptr, first, rows, exists, vector_ptr, COUNT: tl.constexpr, BK: tl.constexpr):
    """Multiply rows of a matrix of COUNT columns, from `first` on, with a vector in memory; float32, one after BK."""
    found = tl.zeros(rows.shape, tl.float32)
    for start in range(0, COUNT, BK):
        k = start + tl.arange(0, BK)
        vector = tl.load(vector_ptr + k, mask=k < COUNT, other=0.0)
        tile = tl.load(
            matrix_ptr + (first + rows)[:, None] * COUNT + k[None, :],
            mask=exists[:, None] & (k < COUNT)[None, :],
            other=0.0,
        )
        found += tl.sum(tile * vector[None, :], 1)
    return found


@triton.jit
def added(hidden_ptr, residual_ptr, k, COUNT: tl.constexpr, HAS_RESIDUAL: tl.constexpr):
    """Read the elements k of a row's vector, or of the sum of two."""
    value = tl.load(hidden_ptr + k, mask=k < COUNT, other=0.0)
    if HAS_RESIDUAL:
        value += tl.load(residual_ptr + k, mask=k < COUNT, other=0.0)
    return value


@triton.jit
def scale_of(stream, eps, COUNT: tl.constexpr):
    """Return what an RMS norm multiplies a vector of COUNT numbers with."""
    return 1.0 / tl.sqrt(tl.sum(stream * stream, 0) / COUNT + eps)


@triton.jit(do_not_specialize=["blocks"])
def multiply(
    hidden_ptr, residual_ptr, norm_ptr, matrix_ptr, bias_ptr, out_ptr, blocks, eps, COUNT: tl.constexpr,
    OUT: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr, BJ: tl.constexpr, NORMED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Make BJ outputs of a row."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    hidden_ptr += row * COUNT
    residual_ptr += row * COUNT
    output = (program % blocks) * BJ + tl.arange(0, BJ)
    exists = output < OUT
    scale = 1.0
    if NORMED:
        scale = scale_of(added(hidden_ptr, residual_ptr, tl.arange(0, BC), COUNT, HAS_RESIDUAL), eps, COUNT)
    found = tl.zeros([BJ], tl.float32)
    for start in range(0, COUNT, BK):
        k = start + tl.arange(0, BK)
        value = added(hidden_ptr, residual_ptr, k, COUNT, HAS_RESIDUAL)
        if NORMED:
            value *= scale * tl.load(norm_ptr + k, mask=k < COUNT, other=0.0)
        place = output[:, None] * COUNT + k[None, :]
        tile = tl.load(matrix_ptr + place, mask=exists[:, None] & (k < COUNT)[None, :], other=0.0)
        found += tl.sum(tile * value[None, :], 1)
    if HAS_BIAS:
        found += tl.load(bias_ptr + output, mask=exists, other=0.0)
    tl.store(out_ptr + row * OUT + output, found, mask=exists)


def bind(weights: RowWeights) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the product with these weights."""
    matrix, bias, norm = weights.matrix.contiguous(), weights.bias, weights.norm
    outputs, count = matrix.shape
    known = launch_key((matrix, bias, norm))
    width = min(OUTPUTS, triton.next_power_of_2(outputs))
    blocks, whole = triton.cdiv(outputs, width), triton.next_power_of_2(count)
    shape = {"COUNT": count, "OUT": outputs, "BK": min(AT_ONCE, whole), "BC": whole, "BJ": width}

    def step(hidden: Tensor, residual: Tensor | None) -> Tensor:
        hidden = laid_out(hidden)
        residual = None if residual is None else laid_out(residual)
        out = hidden.new_empty(hidden.shape[0], outputs)
        now = launch_key((hidden, residual, out))
        with on_device_of(hidden):
            launch(
                multiply, hidden.shape[0] * blocks,
                (hidden, given(residual, hidden), given(norm, hidden), matrix, given(bias, hidden), out, blocks,
                 weights.eps),
                {**shape, "NORMED": norm is not None, "HAS_RESIDUAL": residual is not None,
                 "HAS_BIAS": bias is not None},
                None if known is None or now is None else (known, now), num_warps=WARPS,
            )  # fmt: skip
        return out

    return step
