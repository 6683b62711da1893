"""What the scan's Triton kernels for complex states share; a complex tile is a pair of real ones.

Everything is done with conjugate gradients: with Q = conj(q) and GH = conj(gh), README's adjoint has no conjugates
inside, GH_t = 2 gated_t C_t + Q_{t+1} and Q_t = a_t GH_t, and those of dA, dB, dC and dh0 are taken at the end. The 2
is that of y = 2 Re sum_n C h: a state stands for its conjugate too.

Complex tensors are read and written as integers of 64 bits, one access for both parts. Scratch has a real and an
imaginary plane per chunk, (.., 2, D, N).
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.selective_scan.triton_tile import Tile, TileShape
from seqdomains.kernels.triton_parts import columns, exp2_of, from_columns

# Channels per program for N up to 16, complex states that a lane of 32 holds, and registers that it may have.
TILES: Final[dict[str, Tile]] = {
    "complex_chunk_ends": Tile(16, 8),
    "complex_outputs": Tile(16, 8),
    "complex_sweep_forward": Tile(16, 8),
    "complex_sweep_backward": Tile(16, 8),
}


def complex_tile(kernel: str, d_state: int) -> TileShape:
    """Return the tile of a kernel.

    Examples
    --------
    >>> tuple(complex_tile("complex_outputs", 16)), tuple(complex_tile("complex_outputs", 256))
    ((16, 16, {'num_warps': 1}), (8, 256, {'num_warps': 8}))
    """
    states = 1 << (d_state - 1).bit_length()
    most, per_lane, registers = TILES[kernel]
    channels = max(8, most * 16 // max(states, 16))
    options = {"num_warps": max(1, states * channels // (32 * per_lane))}
    return TileShape(channels, states, options if registers is None else options | {"maxnreg": registers})


def planes_of(A: Tensor) -> Tensor:
    """Return A as float32 (2, D, N)."""
    return torch.view_as_real(A.resolve_conj()).permute(2, 0, 1).contiguous()


def packed_view(tensor: Tensor) -> Tensor:
    """View complex numbers as integers of 64 bits; leave a real tensor."""
    return tensor.resolve_conj().view(torch.int64) if tensor.is_complex() else tensor


@triton.jit
def state_offsets(channel, n, N: tl.constexpr):
    """Return the offsets of a [N, BD] tile in a (D, N) array."""
    return channel[None, :] * N + n[:, None]


@triton.jit
def step_rows(pointer, offsets, mask):
    """Do `four_rows`; from 16 bits through a sum of one number.

    Triton 3.6 would else spread the 16 bits over the lanes that share a channel, and let each compute all steps' sizes:
    a third more instructions.
    """
    x = tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)
    if pointer.dtype.element_ty.primitive_bitwidth < 32:
        x = tl.sum(x[:, :, None], 2)
    return x


@triton.jit
def unpack(pair):
    """Return the real and the imaginary part of complex numbers that were read as integers."""
    return pair.to(tl.uint32).to(tl.float32, bitcast=True), (pair >> 32).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def pack(real, imaginary):
    """Return complex numbers as integers of 64 bits."""
    high = imaginary.to(tl.uint32, bitcast=True).to(tl.uint64) << 32
    return (high | real.to(tl.uint32, bitcast=True).to(tl.uint64)).to(tl.int64, bitcast=True)


@triton.jit
def rotate(size, shifted, r):
    """Return size (cos + i sin) of pi (k + r), with r between -1/2 and 1/2 and k the last bit of `shifted`.

    From S, sqrt(2) times the sine of half the angle pi r, a polynomial with an error of 2e-9: the cosine of pi r is
    1 - S^2, and S times that of its half, sqrt(2 - S^2) >= 1 before a factor, the sine. Triton's own sine and cosine
    are far slower, and a GPU's approximate ones wrong by 4e-7.
    """
    s = r * r
    sine = 0.11267927940091933 + s * -0.0064956146273986
    sine = -0.9135296237177916 + s * sine
    sine = (2.2214414413568595 + s * sine) * r
    # An odd k turns the sign over: its last bit reaches the highest one.
    sign = shifted.to(tl.uint32, bitcast=True) << 31
    size = (size.to(tl.uint32, bitcast=True) + sign).to(tl.float32, bitcast=True)
    part = size * sine
    return size - part * sine, part * tl.sqrt(2.0 - sine * sine)


@triton.jit
def decay(growth, turn, Ar, Ai):
    """Return exp(d A) with growth = d log2(e) and turn = d / pi.

    What whole half turns leave of turn Ai is exact: adding 1.5 * 2^23 rounds to an integer in float32, and a fused
    multiplication and addition takes it off the exact product.
    """
    shifted = tl.fma(turn, Ai, 12582912.0)
    return rotate(exp2_of(growth, Ar), shifted, tl.fma(turn, Ai, 12582912.0 - shifted))


@triton.jit
def most_turn(Ai):
    """Return the largest `turn` of each channel that leaves float32 a fraction to tell, 2^22 half turns."""
    return 4194304.0 / tl.maximum(tl.max(tl.abs(Ai), 0), 1e-30)


@triton.jit
def turns_of(d, most):
    """Return d / pi within `most` for a [BD, 4] tile of steps.

    In float32, 1 / pi alone would be wrong by 4e-8, in the same direction at each step.
    """
    turn = tl.fma(d, 0.31830987334251404, d * 1.2841276653130507e-08)
    return tl.minimum(tl.maximum(turn, -most[:, None]), most[:, None])


@triton.jit
def add_turns(total, lost, turn):
    """Add four steps' turns to a sum in double float32; `lost` is what the sum has too much (Kahan)."""
    addend = tl.sum(turn, 1) - lost
    after = total + addend
    return after, (after - total) - addend


@triton.jit
def fraction(x):
    """Return what whole turns leave of x half turns, at most one; nothing of what has no fraction in float32."""
    whole = (x * 0.5 + 12582912.0) - 12582912.0
    return tl.where(tl.abs(x) < 4194304.0, x - 2.0 * whole, 0.0)


@triton.jit
def upper_half(x):
    """Return the 12 upper bits of a float32's 24: products of halves are exact, whatever the compiler fuses."""
    return (x.to(tl.uint32, bitcast=True) & 0xFFFFF000).to(tl.float32, bitcast=True)


@triton.jit
def chunk_decay(Ar, Ai, total, lost):
    """Return the decay over steps whose `turn` add up to total - lost, though that may be thousands of turns."""
    A1 = upper_half(Ai)
    A0 = Ai - A1
    S1 = upper_half(total)
    S0 = total - S1
    y = fraction(A1 * S1) + fraction(A1 * S0) + (fraction(A0 * S1) + (fraction(A0 * S0) - Ai * lost))
    shifted = y + 12582912.0
    # pi log2(e)
    return rotate(exp2_of(total * 4.532360141827193, Ar), shifted, y - (shifted - 12582912.0))


@triton.jit
def times(xr, xi, yr, yi):
    """Multiply two complex tiles."""
    return xr * yr - xi * yi, xr * yi + xi * yr


@triton.jit
def add_times_row(total_r, total_i, xr, xi, cr, ci, COMPLEX: tl.constexpr):
    """Add a complex tile times B or C, which may be real, in as many operations as the product alone would take."""
    total_r += xr * cr
    total_i += xi * cr
    if COMPLEX:
        total_r -= xi * ci
        total_i += xr * ci
    return total_r, total_i


@triton.jit
def state_part(xr, xi, cr, ci, BN: tl.constexpr, BD: tl.constexpr, COMPLEX: tl.constexpr):
    """Add the real part of a complex tile times B or C, which may be real, over the states that a lane has.

    Products are added apart, so that each is fused with an addition.
    """
    if BN == 16:
        part = tl.sum(tl.reshape(xr * cr, [4, 4, BD]), 1)
        if COMPLEX:
            part -= tl.sum(tl.reshape(xi * ci, [4, 4, BD]), 1)
        return part
    elif COMPLEX:
        return tl.sum(xr * cr - xi * ci, 0)
    else:
        return tl.sum(xr * cr, 0)


@triton.jit
def finish_states(p0, p1, p2, p3, BN: tl.constexpr, BD: tl.constexpr):
    """Add four steps' `state_part` over lanes; return a [BD, 4] tile."""
    if BN == 16:
        parts = tl.reshape(tl.join(tl.join(p0, p2), tl.join(p1, p3)), [4, BD, 4])
        c0, c1, c2, c3 = columns(tl.permute(parts, (1, 2, 0)), 4 * BD)
        return tl.reshape((c0 + c1) + (c2 + c3), [BD, 4])
    else:
        return from_columns(p0, p1, p2, p3, BD)


@triton.jit
def parts_of(value, COMPLEX: tl.constexpr):
    """Return both parts of what was read of B or C; the second counts only if it is complex."""
    if COMPLEX:
        return unpack(value)
    else:
        real = value.to(tl.float32)
        return real, real


@triton.jit
def constant_tile(pointer, state, mask, FORM: tl.constexpr, COMPLEX: tl.constexpr):
    """Read a constant B or C as a pair of [N, BD] tiles; zeros, to be ignored, if it varies."""
    if FORM == 2:
        return parts_of(tl.load(pointer + state, mask=mask, other=0), COMPLEX)
    else:
        return 0.0, 0.0


@triton.jit
def row_pair(pointer, real, imaginary, n, present, N: tl.constexpr, FORM: tl.constexpr, COMPLEX: tl.constexpr):
    """Return B or C at one step as a pair of [N, 1] or [N, BD] tiles; the second counts only if it is complex."""
    if FORM == 2:
        return real, imaginary
    else:
        first, second = parts_of(tl.load(pointer + n, mask=(n < N) & present, other=0), COMPLEX)
        return first[:, None], second[:, None]


@triton.jit
def advance_pair(hr, hi, ar, ai, du, br, bi, COMPLEX: tl.constexpr):
    """Return a h and a h + B du."""
    pr, pi = times(ar, ai, hr, hi)
    if COMPLEX:
        return pr, pi, pr + br * du[None, :], pi + bi * du[None, :]
    else:
        return pr, pi, pr + br * du[None, :], pi


@triton.jit
def entering_pair(
    states_ptr, start_ptr, entering, owner, channels, state, mask, N: tl.constexpr, HAS_START: tl.constexpr
):
    """Read the state that enters a chunk: what is stored for it, or h0, or zero."""
    size = channels.to(tl.int64) * N
    stored = entering >= 0
    h = tl.load(states_ptr + tl.where(stored, entering, 0) * size + state, mask=mask & stored, other=0)
    if HAS_START:
        h |= tl.load(start_ptr + owner * size + state, mask=mask & (entering < 0), other=0)
    return unpack(h)


@triton.jit
def load_planes(pointer, flat, size, state, mask):
    """Read a complex tile from scratch or from A."""
    pointer += flat * (2 * size)
    return tl.load(pointer + state, mask=mask, other=0.0), tl.load(pointer + (size + state), mask=mask, other=0.0)


@triton.jit
def store_planes(pointer, flat, size, state, mask, xr, xi):
    """Write a complex tile to scratch."""
    pointer += flat * (2 * size)
    tl.store(pointer + state, xr, mask=mask)
    tl.store(pointer + (size + state), xi, mask=mask)
