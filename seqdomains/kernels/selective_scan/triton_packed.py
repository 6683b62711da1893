"""What packed sequences and groups of B and C add to the scan's Triton kernels between the sweeps."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201, SIM108
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from seqdomains.kernels.selective_scan.triton_chunks import sum_of_blocks, walk_backward, walk_forward
from seqdomains.kernels.selective_scan.triton_tile import SIZES


@triton.jit(do_not_specialize=SIZES)
def pass_forward_packed(
    A_ptr, start_ptr, borders_ptr, sums_ptr, states_ptr, h_last_ptr, channels, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """Do `pass_forward` for each sequence: one that is empty only hands its h0 on.

    The state that enters a sequence's first chunk is stored like all others.
    """
    pid = tl.program_id(0)
    sequence = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    size = channels * N
    exists = i < size
    slot = tl.load(borders_ptr + sequence)
    known = (tl.load(borders_ptr + sequence + 1) - slot).to(tl.int32)
    A2 = tl.load(A_ptr + i, mask=exists, other=0.0).to(tl.float32) * 1.4426950408889634
    h = tl.zeros([BLOCK], tl.float32)
    if HAS_START:
        h = tl.load(start_ptr + sequence * size + i, mask=exists, other=0.0).to(tl.float32)
    if known == 0:
        tl.store(h_last_ptr + sequence * size + i, h, mask=exists)
    else:
        sums_ptr += slot * channels
        states_ptr += slot * size
        tl.store(states_ptr + i, h, mask=exists)
        walk_forward(h, A2, sums_ptr, states_ptr + size, i, exists, channels, known - 1, N, BLOCK)


@triton.jit(do_not_specialize=SIZES)
def pass_backward_packed(
    A_ptr, carry_ptr, borders_ptr, sums_ptr, q_ptr, reached_ptr, part_ptr, dA_ptr, channels, first, segment, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Do `pass_backward` for those chunks of each sequence that lie in the segment."""
    pid = tl.program_id(0)
    sequence = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    size = channels * N
    exists = i < size
    begin = tl.maximum(tl.load(borders_ptr + sequence) - first, 0)
    known = (tl.minimum(tl.load(borders_ptr + sequence + 1) - first, segment) - begin).to(tl.int32)
    if known > 0:
        A2 = tl.load(A_ptr + i, mask=exists, other=0.0).to(tl.float32) * 1.4426950408889634
        q = tl.load(carry_ptr + sequence * size + i, mask=exists, other=0.0)
        dA = tl.load(dA_ptr + sequence * size + i, mask=exists, other=0.0)
        q_ptr += begin * size
        reached_ptr += begin * size
        part_ptr += begin * size
        sums_ptr += begin * channels
        q, dA = walk_backward(q, dA, A2, sums_ptr, q_ptr, reached_ptr, part_ptr, i, exists, channels, known, N, BLOCK)
        tl.store(carry_ptr + sequence * size + i, q, mask=exists)
        tl.store(dA_ptr + sequence * size + i, dA, mask=exists)


@triton.jit(do_not_specialize=SIZES)
def add_group_blocks(
    partial_ptr, out_ptr, table_ptr, length, chunk, channel_blocks, first, segment, blocks, groups,
    N: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Do `add_blocks` for each of `groups` groups, which have as many blocks of channels each, or for sequences."""
    pid = tl.program_id(0)
    per_chunk = tl.cdiv(chunk * N, BLOCK)
    group = pid // per_chunk % groups
    flat = (pid // per_chunk // groups).to(tl.int64)
    i = (pid % per_chunk) * BLOCK + tl.arange(0, BLOCK)
    if PACKED:
        row = tl.load(table_ptr + (first + flat) * 4)
        steps = tl.load(table_ptr + (first + flat) * 4 + 1).to(tl.int32)
    else:
        start = (first + flat % segment) * chunk
        steps = tl.minimum(chunk, length - start)
        if STEP < 0:
            row = flat // segment * length + (length - 1 - start)
        else:
            row = flat // segment * length + start
    mask = i < steps * N
    stride = blocks.to(tl.int64) * chunk * N
    count = channel_blocks // groups
    total = sum_of_blocks(partial_ptr + group * count * stride + flat * chunk * N, i, mask, stride, count, BLOCK)
    place = (row + i // N * STEP) * groups + group
    tl.store(out_ptr + place * N + i % N, total, mask=mask)
