"""A block's step in Triton: three launches, each of whose programs has one row and some channels.

The first makes the convolution's output and the gate, and moves the convolution's inputs on; the second makes step, B
and C, and goes on with the states; the third projects back. What all channels of a row need, such as the norm and the
projections to B and C, each program computes for itself: that is less than another launch.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.block_step import BlockMemory, BlockWeights
from seqdomains.kernels.row_product import RowWeights
from seqdomains.kernels.row_product import triton_forward as row_product
from seqdomains.kernels.row_product.triton_forward import added, product, scale_of
from seqdomains.kernels.selective_scan_step.triton_forward import softplus
from seqdomains.kernels.triton_launch import laid_out, launch, launch_key
from seqdomains.kernels.triton_parts import exp2_of, given, on_device_of, sigmoid


@triton.jit(do_not_specialize=["blocks"])
def enter(
    hidden_ptr, residual_ptr, stream_ptr, norm_ptr, inner_ptr, inner_bias_ptr, taps_ptr, taps_bias_ptr, conv_ptr,
    u_ptr, z_ptr, blocks, eps, d: tl.constexpr, D: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
    BJ: tl.constexpr, BW: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_INNER_BIAS: tl.constexpr,
    HAS_TAPS_BIAS: tl.constexpr,
):  # fmt: skip
    """Add, normalise, project BJ channels inwards and convolve them."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    i = tl.arange(0, BD)
    stream = added(hidden_ptr + row * d, residual_ptr + row * d, i, d, HAS_RESIDUAL)
    if program % blocks == 0:
        tl.store(stream_ptr + row * d + i, stream, mask=i < d)
    scale = scale_of(stream, eps, d)
    channel = (program % blocks) * BJ + tl.arange(0, BJ)
    exists = channel < D
    x = tl.zeros([BJ], tl.float32)
    z = tl.zeros([BJ], tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        # The stream is read again: a program does not see what another one has written.
        value = added(hidden_ptr + row * d, residual_ptr + row * d, k, d, HAS_RESIDUAL)
        value *= scale * tl.load(norm_ptr + k, mask=k < d, other=0.0)
        place = channel[:, None] * d + k[None, :]
        mask = exists[:, None] & (k < d)[None, :]
        x += tl.sum(tl.load(inner_ptr + place, mask=mask, other=0.0) * value[None, :], 1)
        z += tl.sum(tl.load(inner_ptr + D * d + place, mask=mask, other=0.0) * value[None, :], 1)
    if HAS_INNER_BIAS:
        x += tl.load(inner_bias_ptr + channel, mask=exists, other=0.0)
        z += tl.load(inner_bias_ptr + D + channel, mask=exists, other=0.0)
    mixed = tl.load(taps_ptr + channel * W + W - 1, mask=exists, other=0.0) * x
    if HAS_TAPS_BIAS:
        mixed += tl.load(taps_bias_ptr + channel, mask=exists, other=0.0)
    tap = tl.arange(0, BW)
    kept = exists[:, None] & (tap < W - 1)[None, :]
    place = conv_ptr + (row * (W - 1) + tap[None, :]) * D + channel[:, None]
    before = tl.load(place, mask=kept, other=0.0)
    mixed += tl.sum(tl.load(taps_ptr + channel[:, None] * W + tap[None, :], mask=kept, other=0.0) * before, 1)
    # A tile smaller than the program's threads is held by several warps. One of them writes: when all have read.
    tl.debug_barrier()
    tl.store(place - D, before, mask=kept & (tap > 0)[None, :])
    tl.store(conv_ptr + (row * (W - 1) + W - 2) * D + channel, x, mask=exists)
    tl.store(u_ptr + row * D + channel, mixed * sigmoid(mixed), mask=exists)
    tl.store(z_ptr + row * D + channel, z, mask=exists)


@triton.jit
def numbers(pointer, place, mask, parts, PAIRED: tl.constexpr):
    """Read real parts, and imaginary ones `parts` elements behind them; 0 where the numbers are real."""
    re = tl.load(pointer + place, mask=mask, other=0.0)
    if PAIRED:
        return re, tl.load(pointer + parts + place, mask=mask, other=0.0)
    else:
        return re, tl.zeros_like(re)


@triton.jit(do_not_specialize=["blocks", "rows"])
def go_on(
    u_ptr, z_ptr, scan_ptr, step_ptr, step_bias_ptr, A_ptr, B_ptr, C_ptr, skip_ptr, states_ptr, y_ptr, blocks, rows,
    D: tl.constexpr, N: tl.constexpr, R: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
    BJ: tl.constexpr, SELECTIVE: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Advance the states of BJ channels, and gate what they say."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    channel = (program % blocks) * BJ + tl.arange(0, BJ)
    exists = channel < D
    n = tl.arange(0, BN)
    place = channel[:, None] * N + n[None, :]
    mask = exists[:, None] & (n < N)[None, :]
    d = tl.load(step_bias_ptr + channel, mask=exists, other=0.0)
    if SELECTIVE:
        r = tl.arange(0, BR)
        low = product(scan_ptr, 0, r, r < R, u_ptr + row * D, D, BK)
        to_step = tl.load(
            step_ptr + channel[:, None] * R + r[None, :], mask=exists[:, None] & (r < R)[None, :], other=0.0
        )
        d += tl.sum(to_step * low[None, :], 1)
        b_re = product(scan_ptr, R, n, n < N, u_ptr + row * D, D, BK)[None, :]
        if PAIRED:
            b_im = product(scan_ptr, R + N, n, n < N, u_ptr + row * D, D, BK)[None, :]
            c_re = product(scan_ptr, R + 2 * N, n, n < N, u_ptr + row * D, D, BK)[None, :]
            c_im = product(scan_ptr, R + 3 * N, n, n < N, u_ptr + row * D, D, BK)[None, :]
        else:
            b_im = tl.zeros_like(b_re)
            c_re = product(scan_ptr, R + N, n, n < N, u_ptr + row * D, D, BK)[None, :]
            c_im = tl.zeros_like(c_re)
    else:
        b_re, b_im = numbers(B_ptr, place, mask, D * N, PAIRED)
        c_re, c_im = numbers(C_ptr, place, mask, D * N, PAIRED)
    d = softplus(d)
    u = tl.load(u_ptr + row * D + channel, mask=exists, other=0.0)
    rate_re, rate_im = numbers(A_ptr, place, mask, D * N, PAIRED)
    here = row * D * N + place
    h_re, h_im = numbers(states_ptr, here, mask, rows.to(tl.int64) * D * N, PAIRED)
    # As in `enter`: few states are held by several warps.
    tl.debug_barrier()
    dx = (d * u)[:, None]
    a = exp2_of(d[:, None], rate_re * 1.4426950408889634)
    if PAIRED:
        angle = d[:, None] * rate_im
        a_re, a_im = a * tl.cos(angle), a * tl.sin(angle)
        new_re = a_re * h_re - a_im * h_im + dx * b_re
        new_im = a_re * h_im + a_im * h_re + dx * b_im
        tl.store(states_ptr + rows.to(tl.int64) * D * N + here, new_im, mask=mask)
        y = 2.0 * tl.sum(c_re * new_re - c_im * new_im, 1)
    else:
        new_re = a * h_re + dx * b_re
        y = tl.sum(c_re * new_re, 1)
    tl.store(states_ptr + here, new_re, mask=mask)
    y += tl.load(skip_ptr + channel, mask=exists, other=0.0) * u
    z = tl.load(z_ptr + row * D + channel, mask=exists, other=0.0)
    tl.store(y_ptr + row * D + channel, y * z * sigmoid(z), mask=exists)


def bind(weights: BlockWeights, memory: BlockMemory) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """Return the step of these weights, which changes this memory."""
    d, D, W, N, R = weights.sizes
    rows, paired, selective = memory.conv.shape[0], weights.A.is_complex(), weights.to_scan is not None

    def parts(values: Tensor | None) -> Tensor | None:
        return values if values is None or not paired else torch.stack([values.real, values.imag])

    w = weights
    A, B, C = parts(w.A), parts(w.B), parts(w.C)
    fixed = [w.to_inner.contiguous(), w.taps.contiguous(), A, B, C, w.to_scan, w.to_step]
    to_inner, taps, A, B, C, to_scan, to_step = (one if one is None else one.contiguous() for one in fixed)
    known = launch_key(
        (w.norm, to_inner, w.inner_bias, taps, w.taps_bias, to_scan, to_step, w.step_bias, A, B, C, w.skip,
         memory.conv, memory.states)
    )  # fmt: skip
    leave = row_product.bind(RowWeights(w.out, w.out_bias))
    width = min(row_product.OUTPUTS, triton.next_power_of_2(D))
    blocks = triton.cdiv(D, width)
    shape = {"BK": min(row_product.AT_ONCE, triton.next_power_of_2(max(d, D)))}

    def step(hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = laid_out(hidden)
        residual = None if residual is None else laid_out(residual)
        stream = torch.empty_like(hidden)
        u, z, y = (hidden.new_empty(rows, D) for _ in range(3))
        now = launch_key((hidden, residual, stream, u, z, y))
        key = None if known is None or now is None else (known, now)
        with on_device_of(hidden):
            launch(
                enter, rows * blocks,
                (hidden, given(residual, hidden), stream, w.norm, to_inner, given(w.inner_bias, hidden), taps,
                 given(w.taps_bias, hidden), memory.conv, u, z, blocks, w.eps),
                {"d": d, "D": D, "W": W, **shape, "BD": triton.next_power_of_2(d), "BJ": width,
                 "BW": triton.next_power_of_2(W - 1), "HAS_RESIDUAL": residual is not None,
                 "HAS_INNER_BIAS": w.inner_bias is not None, "HAS_TAPS_BIAS": w.taps_bias is not None},
                key, num_warps=row_product.WARPS,
            )  # fmt: skip
            launch(
                go_on, rows * blocks,
                (u, z, given(to_scan, u), given(to_step, u), w.step_bias, A, given(B, u), given(C, u), w.skip,
                 memory.states, y, blocks, rows),
                {"D": D, "N": N, "R": R, **shape, "BN": triton.next_power_of_2(N),
                 "BR": triton.next_power_of_2(max(R, 1)), "BJ": width, "SELECTIVE": selective, "PAIRED": paired},
                key, num_warps=row_product.WARPS,
            )  # fmt: skip
        return leave(y, None), stream

    return step
