"""The adjoint of the causal depthwise convolution in Triton: one walk along time; the sums before SiLU are not kept.

With ds_t = dy_t silu'(s_t): dx_t = sum over k of weight_k ds_{t + (W - 1) - k}, and at steps before 0 this is the
gradient of the state; dweight_k = sum over t of ds_t x_{t - (W - 1) + k}. A program walks with the last three x and ds
in registers. Its sums over steps are written once, and `add_parts` adds those of all programs in a fixed order.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.causal_conv1d.triton_walk import (
    Tile,
    bisections,
    place,
    row_before,
    silu_gate,
    tap,
    walk,
    weighted,
)
from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import channel_values, given, launch_add_parts, on_device_of

TILE = Tile(warps=4, per_lane=4, channels=128)
# The parts of dweight and dbias take 20 / (4 x 128) bytes per element.
STEPS = 128
# Rows of the next eight steps are on their way to shared memory while four are worked on. Without that a warp waits in
# each round, and Triton 3.6 had put loads of dy behind the arithmetic on x: a round waited four times.
STAGES = 3


@triton.jit
def sum_gradient(s, dy, SILU: tl.constexpr):
    """Return ds from the sum before the activation."""
    dy = dy.to(tl.float32)
    if SILU:
        gate = silu_gate(s)
        through = dy * gate
        return through + through * (s - s * gate)
    else:
        return dy


@triton.jit
def three_sum_gradients(
    dy_ptr, x_ptr, t, onward, most, real, shift, w0, w1, w2, w3, xa, xb, xc, WIDTH: tl.constexpr, SILU: tl.constexpr
):  # fmt: skip
    """Return ds of the steps t to t + 2 from the inputs of the three before; zero from the step `most` on."""
    own0 = (t < most)[:, None] & real
    own1 = (t + 1 < most)[:, None] & real
    own2 = (t + 2 < most)[:, None] & real
    x0 = tl.load(x_ptr + t * onward, mask=own0, other=0.0).to(tl.float32)
    x1 = tl.load(x_ptr + (t + 1) * onward, mask=own1, other=0.0).to(tl.float32)
    x2 = tl.load(x_ptr + (t + 2) * onward, mask=own2, other=0.0).to(tl.float32)
    dy0 = tl.load(dy_ptr + t * onward, mask=own0, other=0.0)
    dy1 = tl.load(dy_ptr + (t + 1) * onward, mask=own1, other=0.0)
    dy2 = tl.load(dy_ptr + (t + 2) * onward, mask=own2, other=0.0)
    s0 = sum_gradient(weighted(shift, w0, w1, w2, w3, xa, xb, xc, x0, WIDTH), dy0, SILU)
    s1 = sum_gradient(weighted(shift, w0, w1, w2, w3, xb, xc, x0, x1, WIDTH), dy1, SILU)
    s2 = sum_gradient(weighted(shift, w0, w1, w2, w3, xc, x0, x1, x2, WIDTH), dy2, SILU)
    return s0, s1, s2


@triton.jit
def store_sum(parts_ptr, channels, channel, exists, total, K: tl.constexpr, WIDTH: tl.constexpr):
    """Write a program's gradient of tap K of four."""
    if K >= 4 - WIDTH:
        tl.store(parts_ptr + (K - (4 - WIDTH)) * channels + channel, tl.sum(total, 0), mask=exists)


@triton.jit(do_not_specialize=["sequences", "length", "bisections", "T"])
def convolve_back(
    dy_ptr, x_ptr, weight_ptr, bias_ptr, state_ptr, cu_ptr, dx_ptr, dstate_ptr, parts_ptr,
    sequences, length, channels, bisections, T,
    G: tl.constexpr, BD: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr, REVERSE: tl.constexpr,
    PACKED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write dx of G chunks of T steps, dstate, and the chunks' sums for dweight and dbias (the parts' last row)."""
    sequence, first, left, longest, at, onward, channel, exists = place(
        cu_ptr, sequences, length, channels, bisections, T, G, BD, REVERSE, PACKED
    )
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)[None, :]
    w0 = tap(weight_ptr, channel, exists, 0, WIDTH)
    w1 = tap(weight_ptr, channel, exists, 1, WIDTH)
    w2 = tap(weight_ptr, channel, exists, 2, WIDTH)
    w3 = tap(weight_ptr, channel, exists, 3, WIDTH)
    real = exists[None, :]
    state_at = (sequence * (WIDTH - 1) * channels)[:, None] + channel[None, :]
    xa = row_before(x_ptr, at, onward, state_ptr, state_at, first, left, channels, real, 3, WIDTH, HAS_STATE)
    xb = row_before(x_ptr, at, onward, state_ptr, state_at, first, left, channels, real, 2, WIDTH, HAS_STATE)
    xc = row_before(x_ptr, at, onward, state_ptr, state_at, first, left, channels, real, 1, WIDTH, HAS_STATE)
    sa = tl.zeros([G, BD], tl.float32)
    sb = tl.zeros([G, BD], tl.float32)
    sc = tl.zeros([G, BD], tl.float32)
    dw0 = tl.zeros([G, BD], tl.float32)
    dw1 = tl.zeros([G, BD], tl.float32)
    dw2 = tl.zeros([G, BD], tl.float32)
    dw3 = tl.zeros([G, BD], tl.float32)
    dbias = tl.zeros([G, BD], tl.float32)
    steps = tl.minimum(left, T)
    dy_ptr += at
    x_ptr += at
    dx_ptr += at
    if HAS_STATE:
        # Before the loop, which would need more registers than leave room for 16 warps.
        s0, s1, s2 = three_sum_gradients(
            dy_ptr, x_ptr, 0, onward, tl.where(first == 0, left, 0), real,
            shift, w0, w1, w2, w3, xa, xb, xc, WIDTH, SILU,
        )  # fmt: skip
        begins = (first == 0)[:, None] & real
        dstate_ptr += state_at
        if WIDTH > 3:
            tl.store(dstate_ptr + (WIDTH - 4) * channels, w0 * s0, mask=begins)
        if WIDTH > 2:
            db = weighted(0.0, w0, w1, w2, w3, s1, s0, sb, sa, WIDTH)
            tl.store(dstate_ptr + (WIDTH - 3) * channels, db, mask=begins)
        dc = weighted(0.0, w0, w1, w2, w3, s2, s1, s0, sc, WIDTH)
        tl.store(dstate_ptr + (WIDTH - 2) * channels, dc, mask=begins)
    # T is a multiple of 4: rows of the walk beyond a chunk's own are beyond its sequence too, and zero.
    for t in tl.range(0, longest, 4, num_stages=STAGES):
        own0 = (t < steps)[:, None] & real
        own1 = (t + 1 < steps)[:, None] & real
        own2 = (t + 2 < steps)[:, None] & real
        own3 = (t + 3 < steps)[:, None] & real
        # All loads before all stores: a store may alias the next load, which would wait for it.
        x0 = tl.load(x_ptr + t * onward, mask=own0, other=0.0).to(tl.float32)
        x1 = tl.load(x_ptr + (t + 1) * onward, mask=own1, other=0.0).to(tl.float32)
        x2 = tl.load(x_ptr + (t + 2) * onward, mask=own2, other=0.0).to(tl.float32)
        x3 = tl.load(x_ptr + (t + 3) * onward, mask=own3, other=0.0).to(tl.float32)
        dy0 = tl.load(dy_ptr + t * onward, mask=own0, other=0.0)
        dy1 = tl.load(dy_ptr + (t + 1) * onward, mask=own1, other=0.0)
        dy2 = tl.load(dy_ptr + (t + 2) * onward, mask=own2, other=0.0)
        dy3 = tl.load(dy_ptr + (t + 3) * onward, mask=own3, other=0.0)
        s0 = sum_gradient(weighted(shift, w0, w1, w2, w3, xa, xb, xc, x0, WIDTH), dy0, SILU)
        s1 = sum_gradient(weighted(shift, w0, w1, w2, w3, xb, xc, x0, x1, WIDTH), dy1, SILU)
        s2 = sum_gradient(weighted(shift, w0, w1, w2, w3, xc, x0, x1, x2, WIDTH), dy2, SILU)
        s3 = sum_gradient(weighted(shift, w0, w1, w2, w3, x0, x1, x2, x3, WIDTH), dy3, SILU)
        if WIDTH > 3:
            dw0 = weighted(dw0, s0, s1, s2, s3, xa, xb, xc, x0, 4)
        if WIDTH > 2:
            dw1 = weighted(dw1, s0, s1, s2, s3, xb, xc, x0, x1, 4)
        dw2 = weighted(dw2, s0, s1, s2, s3, xc, x0, x1, x2, 4)
        dw3 = weighted(dw3, s0, s1, s2, s3, x0, x1, x2, x3, 4)
        if HAS_BIAS:
            dbias += (s0 + s1) + (s2 + s3)
        # dx lags by three steps, since its last term is ds three steps on.
        da = weighted(0.0, w0, w1, w2, w3, s0, sc, sb, sa, WIDTH)
        db = weighted(0.0, w0, w1, w2, w3, s1, s0, sc, sb, WIDTH)
        dc = weighted(0.0, w0, w1, w2, w3, s2, s1, s0, sc, WIDTH)
        dd = weighted(0.0, w0, w1, w2, w3, s3, s2, s1, s0, WIDTH)
        if t > 0:
            tl.store(dx_ptr + (t - 3) * onward, da, mask=(t - 3 < steps)[:, None] & real)
            tl.store(dx_ptr + (t - 2) * onward, db, mask=(t - 2 < steps)[:, None] & real)
            tl.store(dx_ptr + (t - 1) * onward, dc, mask=(t - 1 < steps)[:, None] & real)
        tl.store(dx_ptr + t * onward, dd, mask=own0)
        xa, xb, xc = x1, x2, x3
        sa, sb, sc = s1, s2, s3
    # The last three dx wait for the three steps after the chunks, whose sums belong to the chunks that follow.
    end = tl.cdiv(longest, 4) * 4
    s0, s1, s2 = three_sum_gradients(
        dy_ptr, x_ptr, end, onward, left, real, shift, w0, w1, w2, w3, xa, xb, xc, WIDTH, SILU
    )
    da = weighted(0.0, w0, w1, w2, w3, s0, sc, sb, sa, WIDTH)
    db = weighted(0.0, w0, w1, w2, w3, s1, s0, sc, sb, WIDTH)
    dc = weighted(0.0, w0, w1, w2, w3, s2, s1, s0, sc, WIDTH)
    tl.store(dx_ptr + (end - 3) * onward, da, mask=(end - 3 < steps)[:, None] & real)
    tl.store(dx_ptr + (end - 2) * onward, db, mask=(end - 2 < steps)[:, None] & real)
    tl.store(dx_ptr + (end - 1) * onward, dc, mask=(end - 1 < steps)[:, None] & real)
    parts_ptr += (tl.program_id(0) // tl.cdiv(channels, BD)).to(tl.int64) * (WIDTH + HAS_BIAS) * channels
    store_sum(parts_ptr, channels, channel, exists, dw0, 0, WIDTH)
    store_sum(parts_ptr, channels, channel, exists, dw1, 1, WIDTH)
    store_sum(parts_ptr, channels, channel, exists, dw2, 2, WIDTH)
    store_sum(parts_ptr, channels, channel, exists, dw3, 3, WIDTH)
    if HAS_BIAS:
        tl.store(parts_ptr + WIDTH * channels + channel, tl.sum(dbias, 0), mask=exists)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (dx, dweight, dbias, dstate) of contiguous tensors, each in its tensor's dtype."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    cut = walk(x, cu_seqlens, TILE, STEPS)
    dx, dweight = torch.empty_like(x), torch.empty_like(weight)
    dbias = None if bias is None else torch.empty_like(bias)
    dstate = None if state is None else torch.empty_like(state)
    parts = torch.empty(cut.parts, width + (bias is not None), channels, device=x.device, dtype=torch.float32)
    key = launch_key((x, dy, weight, bias, state, cu_seqlens), channels)
    with on_device_of(x):
        launch(
            convolve_back, cut.parts * cut.blocks,
            (dy, x, weight, given(bias, weight), given(state, x), given(cu_seqlens, x), dx, given(dstate, dx), parts,
             sequences, length, channels, bisections(sequences), cut.steps),
            {"G": cut.chunks, "BD": cut.channels, "WIDTH": width, "SILU": silu, "REVERSE": reverse,
             "PACKED": cu_seqlens is not None, "HAS_BIAS": bias is not None, "HAS_STATE": state is not None,
             "STAGES": STAGES},
            key, num_warps=cut.warps,
        )  # fmt: skip
        launch_add_parts(parts, dweight, dbias, key=key)
    return dx, dweight, dbias, dstate
