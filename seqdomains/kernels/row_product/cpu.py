"""A matrix times the vectors of rows on a CPU: one call of compiled code, a row after the other."""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from seqdomains.kernels.compilation import Numbers, flat, kernel, memory
from seqdomains.kernels.row_product import RowWeights
from seqdomains.kernels.simd import WIDTH, load_part, muladd, splat, store, store_part, total


@kernel
def product(matrix, at, vector, of, count):
    """Return the product of a matrix's row, which begins at `at`, with the part of a vector that begins at `of`."""
    found = splat(np.float32(0))
    for i in range(0, count, WIDTH):
        found = muladd(load_part(matrix, at + i, count - i), load_part(vector, of + i, count - i), found)
    return total(found)


@kernel
def add(hidden, residual, has_residual, at, count, out, place):
    """Write the sum of two vectors that begin at `at`, the second of which may be absent, to `place`."""
    for i in range(0, count, WIDTH):
        value = load_part(hidden, at + i, count - i)
        if has_residual:
            value = value + load_part(residual, at + i, count - i)
        store_part(out, place + i, value, count - i)


@kernel
def normalise(values, at, norm, eps, count, out, place):
    """Write the RMS norm of what begins at `at` to `place`, where there is room for whole vectors."""
    squares = splat(np.float32(0))
    for i in range(0, count, WIDTH):
        value = load_part(values, at + i, count - i)
        squares = muladd(value, value, squares)
    scale = splat(np.float32(1.0 / math.sqrt(total(squares) / count + eps)))
    for i in range(0, count, WIDTH):
        store(out, place + i, load_part(values, at + i, count - i) * scale * load_part(norm, i, count - i))


@kernel
def _multiply(rows, outputs, count, flags, matrix, bias, norm, hidden, residual, scratch, out):
    eps, normed, has_residual, has_bias = flags
    for row in range(rows):
        add(hidden, residual, has_residual, row * count, count, scratch, 0)
        if normed:
            normalise(scratch, 0, norm, eps, count, scratch, 0)
        for o in range(outputs):
            value = product(matrix, o * count, scratch, 0, count)
            if has_bias:
                value += bias[o]
            out[row * outputs + o] = value


def bind(weights: RowWeights) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the product with these weights."""
    outputs, count = weights.matrix.shape
    arrays = flat(weights.matrix), flat(weights.bias), flat(weights.norm)
    normed, has_bias = weights.norm is not None, weights.bias is not None
    flags = {has: (np.float64(weights.eps), normed, has, has_bias) for has in (False, True)}
    scratch = np.zeros(count + WIDTH, np.float32)
    of_hidden, of_residual = Numbers(), Numbers()
    out = memory(0, outputs)
    written = flat(out)

    def multiply(hidden: Tensor, residual: Tensor | None) -> Tensor:
        nonlocal out, written
        if len(hidden) != len(out):
            out = memory(len(hidden), outputs)
            written = flat(out)
        given = of_hidden(hidden)
        _multiply(
            len(out), outputs, count, flags[residual is not None], *arrays, given,
            given if residual is None else of_residual(residual), scratch, written,
        )  # fmt: skip
        return out

    return multiply
