"""What happens between the chunks of a scan with complex states: `triton_chunks` and `triton_packed` on pairs."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from seqdomains.kernels.selective_scan.triton_complex import pack, unpack
from seqdomains.kernels.selective_scan.triton_tile import SIZES
from seqdomains.kernels.triton_parts import columns, from_columns


@triton.jit
def four_of(pointer, place, i, stride, mask):
    """Read what four chunks have at `i` as a [BLOCK, 4] tile."""
    return tl.load(pointer + (place[None, :] * stride + i[:, None]), mask=mask, other=0)


@triton.jit
def through_pairs(xr, xi, ar, ai, er, ei, BLOCK: tl.constexpr):
    """Carry x through four chunks, to a x + e in each; return it before each, after each, and after the last."""
    a0, a1, a2, a3 = columns(ar, BLOCK)
    b0, b1, b2, b3 = columns(ai, BLOCK)
    e0, e1, e2, e3 = columns(er, BLOCK)
    f0, f1, f2, f3 = columns(ei, BLOCK)
    x1 = a0 * xr - b0 * xi + e0
    y1 = a0 * xi + b0 * xr + f0
    x2 = a1 * x1 - b1 * y1 + e1
    y2 = a1 * y1 + b1 * x1 + f1
    x3 = a2 * x2 - b2 * y2 + e2
    y3 = a2 * y2 + b2 * x2 + f2
    x4 = a3 * x3 - b3 * y3 + e3
    y4 = a3 * y3 + b3 * x3 + f3
    return (
        from_columns(xr, x1, x2, x3, BLOCK), from_columns(xi, y1, y2, y3, BLOCK),
        from_columns(x1, x2, x3, x4, BLOCK), from_columns(y1, y2, y3, y4, BLOCK), x4, y4,
    )  # fmt: skip


@triton.jit
def four_ends(decays_ptr, states_ptr, place, i, size, exists, count):
    """Read the decays over four chunks and their ends."""
    mask = exists[:, None] & (place < count)[None, :]
    ar = four_of(decays_ptr, place, i, 2 * size, mask)
    ai = four_of(decays_ptr + size, place, i, 2 * size, mask)
    er, ei = unpack(four_of(states_ptr, place, i, size, mask))
    return ar, ai, er, ei


@triton.jit
def write_through(states_ptr, place, i, size, exists, count, hr, hi, ar, ai, er, ei, BLOCK: tl.constexpr):
    """Carry h through four chunks, write it after each, and return the last."""
    _from_r, _from_i, to_r, to_i, hr, hi = through_pairs(hr, hi, ar, ai, er, ei, BLOCK)
    mask = exists[:, None] & (place < count)[None, :]
    tl.store(states_ptr + (place[None, :] * size + i[:, None]), pack(to_r, to_i), mask=mask)
    return hr, hi


@triton.jit
def four_parts(decays_ptr, q_ptr, reached_ptr, part_ptr, place, i, size, exists):
    """Read of four chunks the decay, what they add to Q, J, and what they add to dA."""
    mask = exists[:, None] & (place >= 0)[None, :]
    # A chunk that is not there leaves Q as it is.
    ar = tl.where((place >= 0)[None, :], four_of(decays_ptr, place, i, 2 * size, mask), 1.0)
    ai = four_of(decays_ptr + size, place, i, 2 * size, mask)
    er = four_of(q_ptr, place, i, 2 * size, mask)
    ei = four_of(q_ptr + size, place, i, 2 * size, mask)
    Jr = four_of(reached_ptr, place, i, 2 * size, mask)
    Ji = four_of(reached_ptr + size, place, i, 2 * size, mask)
    part_r = four_of(part_ptr, place, i, 2 * size, mask)
    part_i = four_of(part_ptr + size, place, i, 2 * size, mask)
    return ar, ai, er, ei, Jr, Ji, part_r, part_i


@triton.jit
def write_back(
    q_ptr, place, i, size, exists, qr, qi, dAr, dAi, ar, ai, er, ei, Jr, Ji, part_r, part_i, BLOCK: tl.constexpr
):
    """Carry Q back through four chunks, write it before each, and return the last Q and dA."""
    from_r, from_i, _to_r, _to_i, qr, qi = through_pairs(qr, qi, ar, ai, er, ei, BLOCK)
    mask = exists[:, None] & (place >= 0)[None, :]
    offsets = place[None, :] * (2 * size) + i[:, None]
    tl.store(q_ptr + offsets, from_r, mask=mask)
    tl.store(q_ptr + (size + offsets), from_i, mask=mask)
    dAr += tl.sum(from_r * Jr - from_i * Ji + part_r, 1)
    dAi += tl.sum(from_r * Ji + from_i * Jr + part_i, 1)
    return qr, qi, dAr, dAi


@triton.jit(do_not_specialize=SIZES)
def pass_complex_forward(
    start_ptr, borders_ptr, decays_ptr, states_ptr, h_last_ptr, channels, known, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, HAS_START: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Do `pass_forward`, or for packed sequences `pass_forward_packed`."""
    pid = tl.program_id(0)
    owner = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    size = channels.to(tl.int64) * N
    exists = i < size
    h = tl.zeros([BLOCK], tl.int64)
    if HAS_START:
        h = tl.load(start_ptr + owner * size + i, mask=exists, other=0)
    if PACKED:
        begin = tl.load(borders_ptr + owner)
        count = (tl.load(borders_ptr + owner + 1) - begin).to(tl.int32)
        if count == 0:
            tl.store(h_last_ptr + owner * size + i, h, mask=exists)
        else:
            tl.store(states_ptr + begin * size + i, h, mask=exists)
        count -= 1
        states_ptr += size
    else:
        begin = owner * known
        count = known
    hr, hi = unpack(h)
    states_ptr += begin * size
    decays_ptr += begin * 2 * size
    # Sixteen chunks are read before the first is written: the walk waits for memory only.
    for c in range(0, count, 16):
        p0 = (c + tl.arange(0, 4)).to(tl.int64)
        p1 = p0 + 4
        p2 = p0 + 8
        p3 = p0 + 12
        ar0, ai0, er0, ei0 = four_ends(decays_ptr, states_ptr, p0, i, size, exists, count)
        ar1, ai1, er1, ei1 = four_ends(decays_ptr, states_ptr, p1, i, size, exists, count)
        ar2, ai2, er2, ei2 = four_ends(decays_ptr, states_ptr, p2, i, size, exists, count)
        ar3, ai3, er3, ei3 = four_ends(decays_ptr, states_ptr, p3, i, size, exists, count)
        hr, hi = write_through(states_ptr, p0, i, size, exists, count, hr, hi, ar0, ai0, er0, ei0, BLOCK)
        hr, hi = write_through(states_ptr, p1, i, size, exists, count, hr, hi, ar1, ai1, er1, ei1, BLOCK)
        hr, hi = write_through(states_ptr, p2, i, size, exists, count, hr, hi, ar2, ai2, er2, ei2, BLOCK)
        hr, hi = write_through(states_ptr, p3, i, size, exists, count, hr, hi, ar3, ai3, er3, ei3, BLOCK)


@triton.jit(do_not_specialize=SIZES)
def pass_complex_backward(
    carry_ptr, borders_ptr, decays_ptr, q_ptr, reached_ptr, part_ptr, dA_ptr, channels, first, segment, blocks,
    N: tl.constexpr, BLOCK: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Do `pass_backward`, or for packed sequences `pass_backward_packed`; dA adds to what there is."""
    pid = tl.program_id(0)
    owner = (pid // blocks).to(tl.int64)
    i = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    size = channels.to(tl.int64) * N
    exists = i < size
    if PACKED:
        begin = tl.maximum(tl.load(borders_ptr + owner) - first, 0)
        count = (tl.minimum(tl.load(borders_ptr + owner + 1) - first, segment) - begin).to(tl.int32)
    else:
        begin = owner * segment
        count = segment
    carry_ptr += owner * size + i
    dA_ptr += owner * size + i
    qr, qi = unpack(tl.load(carry_ptr, mask=exists, other=0))
    dAr, dAi = unpack(tl.load(dA_ptr, mask=exists, other=0))
    decays_ptr += begin * 2 * size
    q_ptr += begin * 2 * size
    reached_ptr += begin * 2 * size
    part_ptr += begin * 2 * size
    for c in range(0, count, 8):
        p0 = count - 1 - (c + tl.arange(0, 4)).to(tl.int64)
        p1 = p0 - 4
        ar0, ai0, er0, ei0, Jr0, Ji0, part_r0, part_i0 = four_parts(
            decays_ptr, q_ptr, reached_ptr, part_ptr, p0, i, size, exists
        )
        ar1, ai1, er1, ei1, Jr1, Ji1, part_r1, part_i1 = four_parts(
            decays_ptr, q_ptr, reached_ptr, part_ptr, p1, i, size, exists
        )
        qr, qi, dAr, dAi = write_back(
            q_ptr, p0, i, size, exists, qr, qi, dAr, dAi, ar0, ai0, er0, ei0, Jr0, Ji0, part_r0, part_i0, BLOCK
        )
        qr, qi, dAr, dAi = write_back(
            q_ptr, p1, i, size, exists, qr, qi, dAr, dAi, ar1, ai1, er1, ei1, Jr1, Ji1, part_r1, part_i1, BLOCK
        )
    tl.store(carry_ptr, pack(qr, qi), mask=exists)
    tl.store(dA_ptr, pack(dAr, dAi), mask=exists)
