"""Sums over the channels of a warp, for dB and dC, in the scan's Gluon kernels."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201, RUF005
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,misc,assignment"

from __future__ import annotations

from typing import Final

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from seqdomains.kernels.selective_scan.gluon_tile import state_layout


@gluon.jit
def sixteen(tile, ROW: gl.constexpr, CH: gl.constexpr):
    """Take a [channels, 16] tile apart into 16 vectors, which moves nothing."""
    halves = gl.split(tile.reshape([CH, 8, 2]))
    vectors = ()
    for a in gl.static_range(2):
        quarter = gl.split(halves[a].reshape([CH, 4, 2]))
        for b in gl.static_range(2):
            eighth = gl.split(quarter[b].reshape([CH, 2, 2]))
            for c in gl.static_range(2):
                pair = gl.split(eighth[c])
                for d in gl.static_range(2):
                    vectors = vectors + (gl.convert_layout(pair[d], ROW, assert_trivial=True),)
    # vectors[8a + 4b + 2c + d] holds n = a + 2b + 4c + 8d
    return vectors


@gluon.jit
def bit_pair(low, high):
    """Return two bfloat16 ones or zeros as a register."""
    return gl.where(low, 0x3F80, 0) + gl.where(high, 0x3F80 << 16, 0)


# Sums over the 32 lanes of a warp of 16 values a lane, on the tensor cores (Ampere and later). The values, packed to
# bfloat16 pairs, are the B operand of m16n8k16, four at a time: lane l owns column l / 4 and four places of k. The A
# operand is constant: rows 0 to 3 and rows 12 to 15 have ones where k holds value 0, 1, 2, 3, the other rows are empty,
# so each column gathers its four lanes. m16n8k8 in tf32 with ones then adds the columns; lanes with l / 4 < 4 bring it
# the upper rows of one product, the others the lower rows of the next. The hardware's order of summation is fixed.
_SUM_BFLOAT16: Final = gl.constexpr("""{
.reg .b32 b<8>, p<4>, q<4>, r<4>, s<4>, one, none;
.reg .f32 zero, x<4>;
mov.f32 zero, 0f00000000;
mov.b32 one, 0x3F800000;
cvt.rn.bf16x2.f32 b0, $5, $4;
cvt.rn.bf16x2.f32 b1, $7, $6;
cvt.rn.bf16x2.f32 b2, $9, $8;
cvt.rn.bf16x2.f32 b3, $11, $10;
cvt.rn.bf16x2.f32 b4, $13, $12;
cvt.rn.bf16x2.f32 b5, $15, $14;
cvt.rn.bf16x2.f32 b6, $17, $16;
cvt.rn.bf16x2.f32 b7, $19, $18;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {p0,p1,p2,p3}, {$20,$22,$21,$23}, {b0,b1}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {q0,q1,q2,q3}, {$20,$22,$21,$23}, {b2,b3}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {r0,r1,r2,r3}, {$20,$22,$21,$23}, {b4,b5}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {s0,s1,s2,s3}, {$20,$22,$21,$23}, {b6,b7}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0,$1,x0,x1}, {one,one,one,one}, {p0,p1}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$2,$3,x2,x3}, {one,one,one,one}, {r0,r1}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0,$1,x0,x1}, {one,one,one,one}, {q2,q3}, {$0,$1,x0,x1};
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$2,$3,x2,x3}, {one,one,one,one}, {s2,s3}, {$2,$3,x2,x3};
}""")


_SUM_CONSTRAINTS: Final = gl.constexpr("=&f,=&f,=&f,=&f," + "f," * 16 + "r,r,r,r")


# The same where eight lanes share a part of N: the second stage is one addition of the columns a lane holds.
_SUM_EIGHT_LANES: Final = gl.constexpr("""{
.reg .b32 b<8>;
.reg .f32 p<4>, q<4>, r<4>, s<4>, zero;
mov.f32 zero, 0f00000000;
cvt.rn.bf16x2.f32 b0, $3, $2;
cvt.rn.bf16x2.f32 b1, $5, $4;
cvt.rn.bf16x2.f32 b2, $7, $6;
cvt.rn.bf16x2.f32 b3, $9, $8;
cvt.rn.bf16x2.f32 b4, $11, $10;
cvt.rn.bf16x2.f32 b5, $13, $12;
cvt.rn.bf16x2.f32 b6, $15, $14;
cvt.rn.bf16x2.f32 b7, $17, $16;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {p0,p1,p2,p3}, {$18,$20,$19,$21}, {b0,b1}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {q0,q1,q2,q3}, {$18,$20,$19,$21}, {b2,b3}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {r0,r1,r2,r3}, {$18,$20,$19,$21}, {b4,b5}, {zero,zero,zero,zero};
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {s0,s1,s2,s3}, {$18,$20,$19,$21}, {b6,b7}, {zero,zero,zero,zero};
add.f32 p0, p0, p1;
add.f32 q2, q2, q3;
add.f32 r0, r0, r1;
add.f32 s2, s2, s3;
add.f32 $0, p0, q2;
add.f32 $1, r0, s2;
}""")


_SUM_EIGHT_CONSTRAINTS: Final = gl.constexpr("=&f,=&f," + "f," * 16 + "r,r,r,r")


@gluon.jit
def selectors(W: gl.constexpr):
    """Return the constant operand's registers for `sum_channels`."""
    group = (gl.arange(0, 32 * W, gl.SliceLayout(1, state_layout(16, W))) % 32) // 4
    return (
        bit_pair(group == 0, group == 1),
        bit_pair(group == 2, group == 3),
        bit_pair(group == 4, group == 5),
        bit_pair(group == 6, group == 7),
    )


@gluon.jit
def by_lane(tile, N: gl.constexpr, PER: gl.constexpr, W: gl.constexpr):
    """Return a [channels, N] tile as [lanes, 16], adding the channels of a lane."""
    LANES: gl.constexpr = 32 * 16 // N
    if N > 16:
        tile = tile.reshape([W, LANES * PER, N // 16, 16]).permute([0, 2, 1, 3])
    tile = tile.reshape([32 * W, PER, 16])
    return gl.sum(tile, 1)


@gluon.jit
def sum_channels(tile, chosen, N: gl.constexpr, PER: gl.constexpr, W: gl.constexpr):
    """Add a [channels, N] tile over the channels of each warp, in bfloat16 from one lane to another.

    With N = 16, lane l gets n = m, m + 1, m + 8, m + 9 with m = 2 (l % 4). With N = 64, it gets n = m, m + 8 with
    m = 16 (l % 4) + l / 4, since the two columns that a lane holds of each product are its eight channels.
    """
    v = sixteen(by_lane(tile, N, PER, W), gl.SliceLayout(1, state_layout(16, W)), 32 * W)
    if N == 16:
        return gl.inline_asm_elementwise(
            _SUM_BFLOAT16,
            _SUM_CONSTRAINTS,
            [v[0], v[8], v[4], v[12], v[2], v[10], v[6], v[14], v[1], v[9], v[5], v[13], v[3], v[11], v[7], v[15],
             chosen[0], chosen[1], chosen[2], chosen[3]],
            (gl.float32, gl.float32, gl.float32, gl.float32),
            True,
            1,
        )  # fmt: skip
    else:
        return gl.inline_asm_elementwise(
            _SUM_EIGHT_LANES,
            _SUM_EIGHT_CONSTRAINTS,
            [v[0], v[8], v[4], v[12], v[2], v[10], v[6], v[14], v[1], v[9], v[5], v[13], v[3], v[11], v[7], v[15],
             chosen[0], chosen[1], chosen[2], chosen[3]],
            (gl.float32, gl.float32),
            True,
            1,
        )  # fmt: skip


def _scatter_sum(names: list[str], lane: int, upper: str) -> str:
    """Add pairs of lanes `lane` apart; where `upper` holds, a lane keeps the second half of the values."""
    half = len(names) // 2
    lines = ""
    for first, second in zip(names[:half], names[half:], strict=True):
        lines += f"selp.f32 s, {first}, {second}, {upper};\nselp.f32 {first}, {second}, {first}, {upper};\n"
        lines += f"shfl.sync.bfly.b32 s, s, {lane}, 31, -1;\nadd.f32 {first}, {first}, s;\n"
    return lines


def _registers(prefix: str, first: int, count: int) -> str:
    return "".join(f"mov.f32 {prefix}{i}, ${first + i};\n" for i in range(count))


# The sums of `sum_channels` in float32, by shuffles. $20 and $21 tell the lowest two bits of the lane. Values arrive in
# an order in which each half goes to one of two lanes; four remain, to be added over the lanes' upper three bits.
_SUM_FLOAT32: Final = gl.constexpr(
    "{\n.reg .f32 v<16>, s;\n.reg .pred odd, second;\nsetp.ne.b32 odd, $20, 0;\nsetp.ne.b32 second, $21, 0;\n"
    + _registers("v", 4, 16)
    + _scatter_sum([f"v{i}" for i in range(16)], 1, "odd")
    + _scatter_sum([f"v{i}" for i in range(8)], 2, "second")
    + "".join(f"mov.f32 ${i}, v{i};\n" for i in range(4))
    + "}"
)


_SUM_EIGHT_FLOAT32: Final = gl.constexpr(
    "{\n.reg .f32 v<16>, s;\n.reg .pred odd, second, upper;\n"
    "setp.ne.b32 odd, $18, 0;\nsetp.ne.b32 second, $19, 0;\nsetp.ne.b32 upper, $20, 0;\n"
    + _registers("v", 2, 16)
    + _scatter_sum([f"v{i}" for i in range(16)], 1, "odd")
    + _scatter_sum([f"v{i}" for i in range(8)], 2, "second")
    + _scatter_sum([f"v{i}" for i in range(4)], 4, "upper")
    + "mov.f32 $0, v0;\nmov.f32 $1, v1;\n}"
)


# Four steps' four values: the lanes' upper bits choose the half of the values and the step.
_SUM_STEPS_FLOAT32: Final = gl.constexpr(
    "{\n.reg .f32 v<16>, s;\n.reg .pred upper, odd, second;\n"
    "setp.ne.b32 upper, $18, 0;\nsetp.ne.b32 odd, $19, 0;\nsetp.ne.b32 second, $20, 0;\n"
    + _registers("v", 2, 16)
    + _scatter_sum([f"v{i}" for i in range(16)], 4, "upper")
    + _scatter_sum([f"v{i}" for i in range(8)], 8, "odd")
    + _scatter_sum([f"v{i}" for i in range(4)], 16, "second")
    + "mov.f32 $0, v0;\nmov.f32 $1, v1;\n}"
)


@gluon.jit
def sum_channels_exactly(tile, bits, N: gl.constexpr, PER: gl.constexpr, W: gl.constexpr):
    """Add a [channels, N] tile over lanes in float32; with N = 16 over those that are equal modulo 4.

    With N = 16, values are those of `sum_channels`. With N = 64, lane l gets n = m, m + 8, m = 16 (l / 8) + l % 8.
    """
    v = sixteen(by_lane(tile, N, PER, W), gl.SliceLayout(1, state_layout(16, W)), 32 * W)
    if N == 16:
        # Bit 1 of n goes with lane bit 0, bit 2 with lane bit 1; bits 3 and 0 are left over: m, m + 1, m + 8, m + 9.
        return gl.inline_asm_elementwise(
            _SUM_FLOAT32,
            "=&f,=&f,=&f,=&f," + "f," * 16 + "r,r",
            [v[0], v[8], v[1], v[9], v[2], v[10], v[3], v[11], v[4], v[12], v[5], v[13], v[6], v[14], v[7], v[15],
             bits[0], bits[1]],
            (gl.float32, gl.float32, gl.float32, gl.float32),
            True,
            1,
        )  # fmt: skip
    else:
        return gl.inline_asm_elementwise(
            _SUM_EIGHT_FLOAT32,
            "=&f,=&f," + "f," * 16 + "r,r,r",
            [v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15],
             bits[0], bits[1], bits[2]],
            (gl.float32, gl.float32),
            True,
            1,
        )  # fmt: skip


@gluon.jit
def sum_steps_exactly(sums, bits):
    """Finish four steps' `sum_channels_exactly`: each lane gets two numbers of one step."""
    return gl.inline_asm_elementwise(
        _SUM_STEPS_FLOAT32,
        "=&f,=&f," + "f," * 16 + "r,r,r",
        [sums[0][0], sums[0][1], sums[2][0], sums[2][1], sums[1][0], sums[1][1], sums[3][0], sums[3][1],
         sums[0][2], sums[0][3], sums[2][2], sums[2][3], sums[1][2], sums[1][3], sums[3][2], sums[3][3],
         bits[2], bits[3], bits[4]],
        (gl.float32, gl.float32),
        True,
        1,
    )  # fmt: skip


@gluon.jit
def lane_bits(W: gl.constexpr):
    """Return the five bits of the lane's number."""
    lane = gl.arange(0, 32 * W, gl.SliceLayout(1, state_layout(16, W)))
    return (lane & 1, lane & 2, lane & 4, lane & 8, lane & 16)


@gluon.jit
def sum_step(tile, chosen, N: gl.constexpr, PER: gl.constexpr, W: gl.constexpr, EXACT: gl.constexpr):
    """Add a [channels, N] tile over channels, for `store_four_sums`."""
    if EXACT:
        return sum_channels_exactly(tile, chosen, N, PER, W)
    else:
        return sum_channels(tile, chosen, N, PER, W)


@gluon.jit
def pairs_by_state(pair, W: gl.constexpr, EXACT: gl.constexpr):
    """Return what `sum_step` gave for N = 64 as [warps, 64]."""
    if EXACT:
        return gl.join(pair[0], pair[1]).reshape([W, 4, 8, 2]).permute([0, 1, 3, 2]).reshape([W, 64])
    else:
        return gl.join(pair[0], pair[1]).reshape([W, 8, 4, 2]).permute([0, 2, 3, 1]).reshape([W, 64])


@gluon.jit
def store_four_sums(pointer, stride, sums, chosen, parts, W: gl.constexpr, N: gl.constexpr, EXACT: gl.constexpr):
    """Store what `sum_step` gave for four steps: two numbers a lane, of N = 16 for each warp, else for all of them.

    The warps' parts meet in shared memory, `parts`: a sum across warps by the compiler took four barriers, this two.
    """
    if N == 16:
        lane = gl.arange(0, 32 * W, gl.SliceLayout(1, state_layout(16, W)))
        pointer += (lane // 32) * stride
        lane = lane % 32
        step = lane // 8
        upper = (lane // 4) % 2 == 1
        if EXACT:
            first, second = sum_steps_exactly(sums, chosen)
        else:
            first = gl.where(upper, sums[0][2], sums[0][0])
            second = gl.where(upper, sums[0][3], sums[0][1])
            for k in gl.static_range(1, 4):
                first = gl.where(step == k, gl.where(upper, sums[k][2], sums[k][0]), first)
                second = gl.where(step == k, gl.where(upper, sums[k][3], sums[k][1]), second)
        offsets = step * N + gl.where(upper, 8, 0) + (lane % 4) * 2
        gl.store(pointer + offsets, first)
        gl.store(pointer + offsets + 1, second)
    else:
        even = gl.join(pairs_by_state(sums[0], W, EXACT), pairs_by_state(sums[2], W, EXACT))
        odd = gl.join(pairs_by_state(sums[1], W, EXACT), pairs_by_state(sums[3], W, EXACT))
        parts.store(gl.join(even, odd).reshape([W, N, 4]))
        layout: gl.constexpr = gl.BlockedLayout([W, 1, 2], [1, 16, 2], [1, W, 1], [2, 1, 0])
        total = gl.sum(parts.load(layout), 0)
        n = gl.arange(0, N, gl.SliceLayout(1, gl.SliceLayout(0, layout)))
        step = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(0, layout)))
        gl.store(pointer + (n[:, None] + (step * N)[None, :]), total)
