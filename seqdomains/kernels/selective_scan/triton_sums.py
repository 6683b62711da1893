"""The last sums of the scan's backward: of dA over batch rows, of dD and dbias over all chunks, in a fixed order."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def column_sums(pointer, column, rows, columns):
    """Add the rows of 32 columns of an array of float32."""
    row = tl.arange(0, 16)
    total = tl.zeros([16, 32], tl.float32)
    for first in range(0, rows, 16):
        place = (first + row).to(tl.int64)[:, None] * columns + column[None, :]
        mask = (first + row < rows)[:, None] & (column < columns)[None, :]
        total += tl.load(pointer + place, mask=mask, other=0.0)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["batch", "size", "rows", "columns"])
def add_rows(
    dA_ptr, sum_A_ptr, dD_ptr, sum_D_ptr, dbias_ptr, sum_bias_ptr, batch, size, rows, columns,
    BLOCK: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Add the `batch` rows of dA, `size` numbers each, and the `rows` rows of dD and dbias, `columns` numbers each."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(size, BLOCK)
    if pid < blocks:
        i = pid * BLOCK + tl.arange(0, BLOCK)
        mask = i < size
        total = tl.zeros([BLOCK], tl.float32)
        for _ in range(0, batch):
            total += tl.load(dA_ptr + i, mask=mask, other=0.0)
            dA_ptr += size
        tl.store(sum_A_ptr + i, total, mask=mask)
    else:
        column = (pid - blocks) * 32 + tl.arange(0, 32)
        if HAS_D:
            tl.store(sum_D_ptr + column, column_sums(dD_ptr, column, rows, columns), mask=column < columns)
        if HAS_BIAS:
            tl.store(sum_bias_ptr + column, column_sums(dbias_ptr, column, rows, columns), mask=column < columns)
