"""What the scan's Gluon kernels share: layouts, copies into shared memory, step size, gate, rows of states.

With N = 16 one lane holds all states of a channel or two, so neither the recurrences nor the sums over states cross
lanes; with N = 64, and in `gluon_spread`, four lanes share a channel's states. A tile of `T` steps of u, dt, z and dy
reaches shared memory by asynchronous copies while the tile before it is computed; B and C pass through registers, where
they become float32.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,misc,assignment,var-annotated"

from __future__ import annotations

from typing import Final

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from seqdomains.kernels.triton_parts import EXP2_SHORT

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
def place(length, chunk, channel_blocks, first, segment, REVERSE: gl.constexpr):
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
def read_rows(pointer, t, steps, stride, N: gl.constexpr, T: gl.constexpr, STEP: gl.constexpr,
              W: gl.constexpr):  # fmt: skip
    """Read steps t to t + T - 1 of B or C in float32; zeros where there is no step or state."""
    layout: gl.constexpr = rows_layout(N, W)
    step = t + gl.arange(0, T, gl.SliceLayout(1, layout))
    n = gl.arange(0, N, gl.SliceLayout(0, layout))
    mask = ((step < steps) & (step >= 0))[:, None]
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
    e += e * (lost * 0.6931471805599453 + 0.6931471805599453 * EXP2_SHORT)
    s = e * reciprocal(2.0 + e)
    v = s * s
    q = 0.27960602954319147 + v * 0.2817833729753231
    q = 0.4002491024050605 + v * q
    q = 0.6666631468404248 + v * q
    q = 2.000000007920808 + v * q
    return gl.where(x < 0.0, 0.0, x) + s * q, gl.where(x < 0.0, e, 1.0) * reciprocal(1.0 + e)


@gluon.jit
def decay(d, A2):
    """Return 2^(d A2) over a tile without the bias of a GPU's exp2, see `EXP2_SHORT`."""
    return gl.exp2(d[:, None] * A2 + EXP2_SHORT)


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
