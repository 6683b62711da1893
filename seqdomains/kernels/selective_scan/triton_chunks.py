"""What happens between the scan's chunks: states passed from one to the next, and sums over all of them.

Every sum has a fixed order, so that two runs are bit-equal.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from seqdomains.kernels.selective_scan.triton_tile import SIZES
from seqdomains.kernels.triton_parts import columns, exp2_of, from_columns


@triton.jit
def four_states(states_ptr, place, i, size, known, exists):
    """Read the states of four chunks as a [BLOCK, 4] tile; chunks that are not there have zeros."""
    mask = exists[:, None] & ((place >= 0) & (place < known))[None, :]
    return tl.load(states_ptr + place[None, :] * size + i[:, None], mask=mask, other=0.0)


@triton.jit
def four_decays(sums_ptr, place, i, A2, channels, known, exists, N: tl.constexpr):
    """Return the decays over four chunks; one where a chunk is not there."""
    mask = exists[:, None] & ((place >= 0) & (place < known))[None, :]
    total = tl.load(sums_ptr + place[None, :] * channels + (i // N)[:, None], mask=mask, other=0.0)
    return exp2_of(A2[:, None], total)


@triton.jit
def write_four_states(states_ptr, place, i, size, known, exists, h):
    """Write the states of four chunks that are there."""
    mask = exists[:, None] & ((place >= 0) & (place < known))[None, :]
    tl.store(states_ptr + place[None, :] * size + i[:, None], h, mask=mask)


@triton.jit
def through_four(h, decays, ends, BLOCK: tl.constexpr):
    """Carry h through four chunks; return it after each."""
    a0, a1, a2, a3 = columns(decays, BLOCK)
    e0, e1, e2, e3 = columns(ends, BLOCK)
    h1 = a0 * h + e0
    h2 = a1 * h1 + e1
    h3 = a2 * h2 + e2
    return h1, h2, h3, a3 * h3 + e3


@triton.jit
def walk_forward(h, A2, sums_ptr, states_ptr, i, exists, channels, known, N: tl.constexpr, BLOCK: tl.constexpr):
    """Turn the end of each of `known` chunks from a start of zero into the true one, in place; return the last.

    Sixteen chunks are read before the first is written: the walk waits for memory only.
    """
    size = channels * N
    for c in range(0, known, 16):
        p0 = (c + tl.arange(0, 4)).to(tl.int64)
        p1 = p0 + 4
        p2 = p0 + 8
        p3 = p0 + 12
        a0 = four_decays(sums_ptr, p0, i, A2, channels, known, exists, N)
        a1 = four_decays(sums_ptr, p1, i, A2, channels, known, exists, N)
        a2 = four_decays(sums_ptr, p2, i, A2, channels, known, exists, N)
        a3 = four_decays(sums_ptr, p3, i, A2, channels, known, exists, N)
        e0 = four_states(states_ptr, p0, i, size, known, exists)
        e1 = four_states(states_ptr, p1, i, size, known, exists)
        e2 = four_states(states_ptr, p2, i, size, known, exists)
        e3 = four_states(states_ptr, p3, i, size, known, exists)
        h1, h2, h3, h = through_four(h, a0, e0, BLOCK)
        write_four_states(states_ptr, p0, i, size, known, exists, from_columns(h1, h2, h3, h, BLOCK))
        h1, h2, h3, h = through_four(h, a1, e1, BLOCK)
        write_four_states(states_ptr, p1, i, size, known, exists, from_columns(h1, h2, h3, h, BLOCK))
        h1, h2, h3, h = through_four(h, a2, e2, BLOCK)
        write_four_states(states_ptr, p2, i, size, known, exists, from_columns(h1, h2, h3, h, BLOCK))
        h1, h2, h3, h = through_four(h, a3, e3, BLOCK)
        write_four_states(states_ptr, p3, i, size, known, exists, from_columns(h1, h2, h3, h, BLOCK))
    return h


@triton.jit
def walk_backward(
    q, dA, A2, sums_ptr, q_ptr, reached_ptr, part_ptr, i, exists, channels, known, N: tl.constexpr, BLOCK: tl.constexpr
):
    """Turn what each of `known` chunks adds to q into the q that enters it from its end, in place; return q and dA.

    A chunk's share of dA is `part`, as if nothing came from its end, and q times J, which is what it reached.
    """
    size = channels * N
    for c in range(0, known, 8):
        p0 = known - 1 - (c + tl.arange(0, 4)).to(tl.int64)
        p1 = p0 - 4
        a0 = four_decays(sums_ptr, p0, i, A2, channels, known, exists, N)
        a1 = four_decays(sums_ptr, p1, i, A2, channels, known, exists, N)
        e0 = four_states(q_ptr, p0, i, size, known, exists)
        e1 = four_states(q_ptr, p1, i, size, known, exists)
        J0 = four_states(reached_ptr, p0, i, size, known, exists)
        J1 = four_states(reached_ptr, p1, i, size, known, exists)
        part0 = four_states(part_ptr, p0, i, size, known, exists)
        part1 = four_states(part_ptr, p1, i, size, known, exists)
        q1, q2, q3, q4 = through_four(q, a0, e0, BLOCK)
        entering = from_columns(q, q1, q2, q3, BLOCK)
        q = q4
        write_four_states(q_ptr, p0, i, size, known, exists, entering)
        dA += tl.sum(entering * J0 + part0, 1)
        q1, q2, q3, q4 = through_four(q, a1, e1, BLOCK)
        entering = from_columns(q, q1, q2, q3, BLOCK)
        q = q4
        write_four_states(q_ptr, p1, i, size, known, exists, entering)
        dA += tl.sum(entering * J1 + part1, 1)
    return q, dA


@triton.jit(do_not_specialize=SIZES)
def pass_forward(
    A_ptr, start_ptr, sums_ptr, states_ptr, channels, known, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """Turn the ends of the first `known` chunks of each batch row from zero into the states that enter the next ones.

    The state leaves chunk c as exp(A S_c) h + end_c, with S the chunk's sum of d. A program owns BLOCK of a batch row's
    D N states.
    """
    pid = tl.program_id(0)
    batch = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    size = channels * N
    exists = i < size
    A2 = tl.load(A_ptr + i, mask=exists, other=0.0).to(tl.float32) * 1.4426950408889634
    h = tl.zeros([BLOCK], tl.float32)
    if HAS_START:
        h = tl.load(start_ptr + batch * size + i, mask=exists, other=0.0).to(tl.float32)
    sums_ptr += batch * known * channels
    states_ptr += batch * known * size
    walk_forward(h, A2, sums_ptr, states_ptr, i, exists, channels, known, N, BLOCK)


@triton.jit
def walk_through(
    A2, sums_ptr, ends_ptr, i, exists, channels, known, N: tl.constexpr, BLOCK: tl.constexpr, BACK: tl.constexpr
):
    """Return where `known` chunks together lead from zero, in the order of time or `BACK`; nothing is written."""
    size = channels * N
    h = tl.zeros([BLOCK], tl.float32)
    for c in range(0, known, 8):
        p0 = (c + tl.arange(0, 4)).to(tl.int64)
        p1 = p0 + 4
        if BACK:
            p0 = known - 1 - p0
            p1 = known - 1 - p1
        a0 = four_decays(sums_ptr, p0, i, A2, channels, known, exists, N)
        a1 = four_decays(sums_ptr, p1, i, A2, channels, known, exists, N)
        e0 = four_states(ends_ptr, p0, i, size, known, exists)
        e1 = four_states(ends_ptr, p1, i, size, known, exists)
        _h1, _h2, _h3, h = through_four(h, a0, e0, BLOCK)
        _h1, _h2, _h3, h = through_four(h, a1, e1, BLOCK)
    return h


@triton.jit(do_not_specialize=SIZES)
def pass_through(
    A_ptr, sums_ptr, ends_ptr, end_ptr, channels, known, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Write where all chunks of each batch row together lead from zero, of which each leads to its `ends`.

    In the order of time these are states; `BACK`, what sweeps add to q. The chunks' own are left as they are.
    """
    pid = tl.program_id(0)
    batch = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    size = channels * N
    exists = i < size
    A2 = tl.load(A_ptr + i, mask=exists, other=0.0).to(tl.float32) * 1.4426950408889634
    sums_ptr += batch * known * channels
    ends_ptr += batch * known * size
    h = walk_through(A2, sums_ptr, ends_ptr, i, exists, channels, known, N, BLOCK, BACK)
    tl.store(end_ptr + batch * size + i, h, mask=exists)


@triton.jit
def piece_backward(
    pid, A_ptr, entering_ptr, leaving_ptr, sums_ptr, q_ptr, reached_ptr, part_ptr, dA_ptr, channels, segment, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, ENTERS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Do `pass_backward` for one program."""
    batch = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    size = channels * N
    exists = i < size
    A2 = tl.load(A_ptr + i, mask=exists, other=0.0).to(tl.float32) * 1.4426950408889634
    q = tl.zeros([BLOCK], tl.float32)
    if ENTERS:
        q = tl.load(entering_ptr + batch * size + i, mask=exists, other=0.0)
    dA = tl.zeros([BLOCK], tl.float32)
    if ADD:
        dA = tl.load(dA_ptr + batch * size + i, mask=exists, other=0.0)
    q_ptr += batch * segment * size
    reached_ptr += batch * segment * size
    part_ptr += batch * segment * size
    sums_ptr += batch * segment * channels
    q, dA = walk_backward(
        q, dA, A2, sums_ptr, q_ptr, reached_ptr, part_ptr, i, exists, channels, segment, N, BLOCK
    )  # fmt: skip
    tl.store(leaving_ptr + batch * size + i, q, mask=exists)
    tl.store(dA_ptr + batch * size + i, dA, mask=exists)


@triton.jit(do_not_specialize=SIZES)
def pass_backward(
    A_ptr, entering_ptr, leaving_ptr, sums_ptr, q_ptr, reached_ptr, part_ptr, dA_ptr, channels, segment, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, ENTERS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Pass q over a segment's chunks from the last to the first, in place, and sum dA of each batch row.

    `entering` is the q that enters the segment from its end, zero unless `ENTERS`, and `leaving` the one that leaves it
    at its start; they may be one.
    """
    piece_backward(
        tl.program_id(0), A_ptr, entering_ptr, leaving_ptr, sums_ptr, q_ptr, reached_ptr, part_ptr, dA_ptr, channels,
        segment, blocks, N, BLOCK, ENTERS, ADD,
    )  # fmt: skip


@triton.jit
def sum_of_blocks(partial_ptr, i, mask, stride, count, BLOCK: tl.constexpr):
    """Add the parts of `count` blocks of channels in order."""
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, count):
        total += tl.load(partial_ptr + i, mask=mask, other=0.0)
        partial_ptr += stride
    return total


@triton.jit
def block_sums(
    pid, partial_ptr, out_ptr, length, chunk, channel_blocks, first, segment, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Do `add_blocks` for one program."""
    per_chunk = tl.cdiv(chunk * N, BLOCK)
    flat = (pid // per_chunk).to(tl.int64)
    i = (pid % per_chunk) * BLOCK + tl.arange(0, BLOCK)
    start = (first + flat % segment) * chunk
    mask = i < tl.minimum(chunk, length - start) * N
    stride = blocks.to(tl.int64) * chunk * N
    total = sum_of_blocks(partial_ptr + flat * chunk * N, i, mask, stride, channel_blocks, BLOCK)
    if REVERSE:
        out_ptr += (flat // segment * length + length - 1 - start) * N
        tl.store(out_ptr + (i % N - i // N * N), total, mask=mask)
    else:
        tl.store(out_ptr + (flat // segment * length + start) * N + i, total, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def add_blocks(
    partial_ptr, out_ptr, length, chunk, channel_blocks, first, segment, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Add a segment's dB or dC over the blocks of channels, BLOCK numbers of one chunk at a time.

    `partial` is (channel_blocks, blocks, chunk, N), with `blocks` the chunks of all batch rows in the segment.
    """
    block_sums(
        tl.program_id(0), partial_ptr, out_ptr, length, chunk, channel_blocks, first, segment, blocks, N, BLOCK, REVERSE
    )


@triton.jit(do_not_specialize=[*SIZES, "passing", "pieces"])
def pass_and_add(
    A_ptr, entering_ptr, leaving_ptr, sums_ptr, q_ptr, reached_ptr, part_ptr, dA_ptr, partial_ptr, out_ptr,
    length, channels, chunk, channel_blocks, first, segment, blocks, passing, pieces,
    N: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr, ENTERS: tl.constexpr,
    ADD: tl.constexpr,
):  # fmt: skip
    """Do `pass_backward` in the first `passing` programs and `add_blocks` in the others: one launch instead of two."""
    pid = tl.program_id(0)
    if pid < passing:
        piece_backward(
            pid, A_ptr, entering_ptr, leaving_ptr, sums_ptr, q_ptr, reached_ptr, part_ptr, dA_ptr, channels, segment,
            pieces, N, PIECE, ENTERS, ADD,
        )  # fmt: skip
    else:
        block_sums(
            pid - passing, partial_ptr, out_ptr, length, chunk, channel_blocks, first, segment, blocks, N, BLOCK,
            REVERSE,
        )  # fmt: skip


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


@triton.jit
def row_sums(
    pid, dA_ptr, sum_A_ptr, dD_ptr, sum_D_ptr, dbias_ptr, sum_bias_ptr, batch, size, rows, columns,
    BLOCK: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Do `add_rows` for one program."""
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


@triton.jit(do_not_specialize=["batch", "size", "rows", "columns"])
def add_rows(
    dA_ptr, sum_A_ptr, dD_ptr, sum_D_ptr, dbias_ptr, sum_bias_ptr, batch, size, rows, columns,
    BLOCK: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Add the `batch` rows of dA, `size` numbers each, and the `rows` rows of dD and dbias, `columns` numbers each."""
    row_sums(
        tl.program_id(0), dA_ptr, sum_A_ptr, dD_ptr, sum_D_ptr, dbias_ptr, sum_bias_ptr, batch, size, rows, columns,
        BLOCK, HAS_D, HAS_BIAS,
    )  # fmt: skip


@triton.jit(do_not_specialize=[*SIZES, "adders", "batch", "rows"])
def add_all(
    partial_ptr, out_ptr, dA_ptr, sum_A_ptr, dD_ptr, sum_D_ptr, dbias_ptr, sum_bias_ptr,
    length, channels, chunk, channel_blocks, first, segment, blocks, adders, batch, rows,
    N: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Do `add_blocks` in the first `adders` programs and `add_rows` in the others: one launch instead of two."""
    pid = tl.program_id(0)
    if pid < adders:
        block_sums(pid, partial_ptr, out_ptr, length, chunk, channel_blocks, first, segment, blocks, N, BLOCK, REVERSE)
    else:
        row_sums(
            pid - adders, dA_ptr, sum_A_ptr, dD_ptr, sum_D_ptr, dbias_ptr, sum_bias_ptr, batch, channels * N, rows,
            channels, BLOCK, HAS_D, HAS_BIAS,
        )  # fmt: skip
