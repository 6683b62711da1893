"""What the scan's Gluon kernels share: layouts, copies into shared memory, step size, gate, and sums over channels.

One lane holds one channel and all of its states, so neither the recurrences nor the sums over states cross lanes. A
tile of `T` steps of u, dt, z and dy reaches shared memory by asynchronous copies while the tile before it is computed;
B and C pass through registers, where they become float32.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201, RUF005
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,misc,assignment,var-annotated"

from __future__ import annotations

from typing import Final

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

# Integer arguments that change from call to call and shall not make Triton compile again. `channels` is specialised:
# only where it is known to be a multiple of 16 can copies be 16 bytes wide.
SIZES: Final = ["length", "chunk", "chunks", "channel_blocks", "first", "segment"]


# Triton 3.8 renamed it.
block_barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@gluon.constexpr_function
def state_layout(states, warps, per_lane=1):
    """Lay a [channels, N] tile out so that a lane owns 16 states of its channels; channels are the lower lane bits."""
    parts = states // 16
    return gl.BlockedLayout([per_lane, 16], [32 // parts, parts], [warps, 1], [0, 1] if parts > 1 else [1, 0])


@gluon.constexpr_function
def channels_of(states, warps, per_lane=1):
    """Return how many channels a program with `state_layout` owns."""
    return 32 * 16 // states * warps * per_lane


@gluon.constexpr_function
def spread_layout(per_lane, states, warps):
    """Lay a [channels, N] tile out so that four lanes share the states of `per_lane` channels."""
    return gl.BlockedLayout([per_lane, states // 4], [8, 4], [warps, 1], [1, 0])


@gluon.constexpr_function
def copy_layout(channels, bits, warps):
    """Lay a [T, channels] tile out so that a lane copies 16 bytes."""
    vector = min(128 // bits, channels)
    across = channels // vector
    return gl.BlockedLayout([1, vector], [32 // across, across], [warps, 1], [1, 0])


@gluon.constexpr_function
def rows_layout(states, warps):
    """Lay a [T, N] tile of B or C out so that a lane reads four numbers."""
    across = states // 4
    return gl.BlockedLayout([1, 4], [32 // across, across], [warps, 1], [1, 0])


@gluon.constexpr_function
def plain_shared(rank):
    """Lay rows of shared memory out one after the other."""
    return gl.SwizzledSharedLayout(1, 1, 1, list(reversed(range(rank))))


@gluon.constexpr_function
def bits_of(pointer_type):
    """Return the bits of what a pointer points to."""
    return pointer_type.element_ty.primitive_bitwidth


@gluon.jit
def place(length, channels, chunk, chunks, channel_blocks, first, segment, CH: gl.constexpr, REVERSE: gl.constexpr):
    """Return flat chunk in the segment, batch row, chunk in it, first row of memory, steps, block of channels.

    All axes lie on the grid's x axis, which alone may exceed 65,535. Channel blocks are innermost: programs that run
    together read the same rows of B and C. The chunks of a reversed scan are counted from the end.
    """
    pid = gl.program_id(0)
    flat = pid // channel_blocks
    block = pid % channel_blocks
    batch = flat // segment
    c = first + flat % segment
    start = c * chunk
    steps = gl.minimum(chunk, length - start)
    row = start
    if REVERSE:
        row = length - 1 - start
    return flat.to(gl.int64), batch.to(gl.int64), c, batch.to(gl.int64) * length + row, steps, block


@gluon.jit
def allocate(pointer, T: gl.constexpr, CH: gl.constexpr):
    """Allocate two tiles of the pointer's type."""
    return gl.allocate_shared_memory(pointer.dtype.element_ty, [2, T, CH], plain_shared(2))


@gluon.jit
def single_rows(tiles, T: gl.constexpr, WIDTH: gl.constexpr):
    """View two tiles as rows, one per step."""
    return tiles._reinterpret(tiles.dtype, [2 * T, WIDTH], plain_shared(1))


@gluon.jit
def fetch(
    tiles, buffer, pointer, t, steps, channels, left, T: gl.constexpr, CH: gl.constexpr, STEP: gl.constexpr,
    W: gl.constexpr,
):  # fmt: skip
    """Begin to copy steps t to t + T - 1 of a tensor into one of its two tiles; zeros where there is no step."""
    layout: gl.constexpr = copy_layout(CH, bits_of(pointer.dtype), W)
    step = t + gl.arange(0, T, gl.SliceLayout(1, layout))
    channel = gl.arange(0, CH, gl.SliceLayout(0, layout))
    offsets = (step * STEP)[:, None] * channels + channel[None, :]
    mask = ((step < steps) & (step >= 0))[:, None] & (channel < left)[None, :]
    async_copy.async_copy_global_to_shared(tiles.index(buffer), pointer + offsets, mask)


@gluon.jit
def read_rows(pointer, t, steps, stride, N: gl.constexpr, NP: gl.constexpr, T: gl.constexpr, STEP: gl.constexpr,
              W: gl.constexpr):  # fmt: skip
    """Read steps t to t + T - 1 of B or C in float32; zeros where there is no step or state."""
    layout: gl.constexpr = rows_layout(NP, W)
    step = t + gl.arange(0, T, gl.SliceLayout(1, layout))
    n = gl.arange(0, NP, gl.SliceLayout(0, layout))
    mask = ((step < steps) & (step >= 0))[:, None]
    if N != NP:
        mask = mask & (n < N)[None, :]
    return gl.load(pointer + ((step * STEP)[:, None] * stride + n[None, :]), mask=mask, other=0.0).to(gl.float32)


@gluon.jit
def reciprocal(x):
    """Return 1 / x to one unit in the last place."""
    return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, True, 1)


@gluon.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return reciprocal(1.0 + gl.exp2(x * -1.4426950408889634))


@gluon.jit
def softplus(x):
    """Return log(1 + e^x) and its derivative; see `triton_tile.softplus` for the method, whose series this shortens."""
    negative = gl.maximum(-gl.abs(x), -87.0)
    product = negative * 1.4426950216293335
    lost = gl.fma(negative, 1.4426950216293335, -product) + negative * 1.9259629911e-8
    e = gl.exp2(product)
    e += e * (lost * 0.6931471805599453)
    s = e * reciprocal(2.0 + e)
    v = s * s
    q = 0.27960602954319147 + v * 0.2817833729753231
    q = 0.4002491024050605 + v * q
    q = 0.6666631468404248 + v * q
    q = 2.000000007920808 + v * q
    return gl.where(x < 0.0, 0.0, x) + s * q, gl.where(x < 0.0, e, 1.0) * reciprocal(1.0 + e)


@gluon.jit
def step_size(x, exists, SOFTPLUS: gl.constexpr):
    """Return d and its derivative by x; both zero, the identity step, where a step does not exist."""
    if SOFTPLUS:
        # e^-87 is zero beside anything: one selection for both.
        d, slope = softplus(gl.where(exists, x, -87.0))
    else:
        d = gl.where(exists, x, 0.0)
        slope = gl.where(exists, 1.0 + 0.0 * x, 0.0)
    return d, slope


@gluon.jit
def channel_values(pointer, channel, exists, GIVEN: gl.constexpr):
    """Read D or bias in float32; zero if it is absent."""
    if GIVEN:
        return gl.load(pointer + channel, mask=exists, other=0.0).to(gl.float32)
    else:
        return gl.zeros_like(channel).to(gl.float32)


@gluon.jit
def state_tile(pointer, channel, exists, n, N: gl.constexpr):
    """Read a (D, N) array of float32 as a [channels, N] tile."""
    mask = exists[:, None] & (n < N)[None, :]
    return gl.load(pointer + (channel * N)[:, None] + n[None, :], mask=mask, other=0.0).to(gl.float32)


# Four lanes hold a part each of four sums. Afterwards lane j of them holds sum j.
_SUM_OF_FOUR_LANES: Final = gl.constexpr("""{
.reg .pred odd, upper;
.reg .f32 k0, k1, x0, x1;
setp.ne.b32 odd, $5, 0;
setp.ne.b32 upper, $6, 0;
selp.f32 k0, $3, $1, upper;
selp.f32 k1, $4, $2, upper;
selp.f32 x0, $1, $3, upper;
selp.f32 x1, $2, $4, upper;
shfl.sync.bfly.b32 x0, x0, 2, 31, -1;
shfl.sync.bfly.b32 x1, x1, 2, 31, -1;
add.f32 k0, k0, x0;
add.f32 k1, k1, x1;
selp.f32 x0, k0, k1, odd;
selp.f32 k0, k1, k0, odd;
shfl.sync.bfly.b32 x0, x0, 1, 31, -1;
add.f32 $0, k0, x0;
}""")


@gluon.jit
def sum_of_four_lanes(s0, s1, s2, s3, odd, upper):
    """Add four [channels, 4] tiles over their second axis, the four lanes; the result's second axis tells which."""
    return gl.inline_asm_elementwise(
        _SUM_OF_FOUR_LANES, "=&f,f,f,f,f,r,r", [s0, s1, s2, s3, odd, upper], gl.float32, True, 1
    )


@gluon.jit
def store_state_tile(pointer, tile, channel, exists, n, N: gl.constexpr):
    """Write a [channels, N] tile into a (D, N) array of float32."""
    mask = exists[:, None] & (n < N)[None, :]
    gl.store(pointer + (channel * N)[:, None] + n[None, :], tile, mask=mask)


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


@gluon.jit
def entering_state(
    states_ptr, start_ptr, batch, c, chunks, channels, channel, lane, exists, n, N: gl.constexpr,
    HAS_START: gl.constexpr,
):  # fmt: skip
    """Read the state that enters chunk c: that of `start_ptr`, or zero, for the first, else what was kept for it."""
    states_ptr += ((batch * (chunks - 1) + c - 1) * channels + channel) * N
    h = state_tile(states_ptr, lane, exists & (c > 0), n, N)
    if HAS_START:
        start_ptr += (batch * channels + channel) * N
        h += state_tile(start_ptr, lane, exists & (c == 0), n, N)
    return h


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
