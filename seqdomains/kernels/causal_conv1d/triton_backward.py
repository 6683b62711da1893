"""The adjoint of the causal depthwise convolution in Triton: one walk along time; the sums before SiLU are not kept.

With ds_t = dy_t silu'(s_t): dx_t = sum over k of weight_k ds_{t + (W - 1) - k}, and at steps before 0 this is the
gradient of the state; dweight_k = sum over t of ds_t x_{t - (W - 1) + k}. A program walks along some steps of some
channels with the last three x and ds in registers, so every element is read once. The sums over steps are written once
per program and added by torch in a fixed order. Widths 2 and 3 are width 4 with taps of zero.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.causal_conv1d.triton_forward import place
from seqdomains.kernels.triton_parts import (
    channel_values,
    columns,
    four_rows,
    from_columns,
    given,
    on_device_of,
    sigmoid,
)

CHANNELS = 64
# Steps per program: three more are computed twice, and the parts of dweight and dbias take 20 / 128 bytes per element.
STEPS = 128


@triton.jit
def tap(weight_ptr, channel, exists, K: tl.constexpr, WIDTH: tl.constexpr):
    """Read tap K of four in float32; the first 4 - WIDTH are zero."""
    if K >= 4 - WIDTH:
        return tl.load(weight_ptr + channel * WIDTH + (K - (4 - WIDTH)), mask=exists, other=0.0).to(tl.float32)
    else:
        return tl.zeros(channel.shape, tl.float32)


@triton.jit
def row_before(
    x_ptr, state_ptr, t, channels, channel, exists, BACK: tl.constexpr, WIDTH: tl.constexpr, HAS_STATE: tl.constexpr
):  # fmt: skip
    """Read step t - BACK in float32; x_ptr points at step t. Steps before 0 come from the state."""
    x = tl.load(x_ptr - BACK * channels + channel, mask=exists & (t >= BACK), other=0.0).to(tl.float32)
    if HAS_STATE:
        mask = exists & (t < BACK) & (t - BACK > -WIDTH)
        x += tl.load(state_ptr + (t - BACK + (WIDTH - 1)) * channels + channel, mask=mask, other=0.0).to(tl.float32)
    return x


@triton.jit
def sum_gradient(s, dy, SILU: tl.constexpr):
    """Return ds from the sum before the activation."""
    if SILU:
        gate = sigmoid(s)
        return dy * gate * (1.0 + s * (1.0 - gate))
    else:
        return dy


@triton.jit(do_not_specialize=["length", "channels"])
def convolve_back(
    dy_ptr, x_ptr, weight_ptr, bias_ptr, state_ptr, dx_ptr, dstate_ptr, parts_ptr, length, channels,
    STEPS: tl.constexpr, BD: tl.constexpr, WIDTH: tl.constexpr,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr,
):  # fmt: skip
    """Write dx of STEPS steps, dstate, and the steps' sums for dweight (rows 0 to W - 1 of the parts) and dbias."""
    batch, first, channel, exists = place(length, channels, STEPS, BD)
    k = tl.arange(0, 4)
    start = (batch * length + first) * channels
    dy_ptr += start
    x_ptr += start
    dx_ptr += start
    state_ptr += batch * (WIDTH - 1) * channels
    dstate_ptr += batch * (WIDTH - 1) * channels
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)
    w0 = tap(weight_ptr, channel, exists, 0, WIDTH)
    w1 = tap(weight_ptr, channel, exists, 1, WIDTH)
    w2 = tap(weight_ptr, channel, exists, 2, WIDTH)
    w3 = tap(weight_ptr, channel, exists, 3, WIDTH)
    xa = row_before(x_ptr, state_ptr, first, channels, channel, exists, 3, WIDTH, HAS_STATE)
    xb = row_before(x_ptr, state_ptr, first, channels, channel, exists, 2, WIDTH, HAS_STATE)
    xc = row_before(x_ptr, state_ptr, first, channels, channel, exists, 1, WIDTH, HAS_STATE)
    sa = tl.zeros([BD], tl.float32)
    sb = tl.zeros([BD], tl.float32)
    sc = tl.zeros([BD], tl.float32)
    dw0 = tl.zeros([BD], tl.float32)
    dw1 = tl.zeros([BD], tl.float32)
    dw2 = tl.zeros([BD], tl.float32)
    dw3 = tl.zeros([BD], tl.float32)
    dbias = tl.zeros([BD], tl.float32)
    steps = tl.minimum(STEPS, length - first)
    for t in range(0, steps + 3, 4):
        step = t + k
        mask = (first + step < length)[None, :] & exists[:, None]
        offsets = step[None, :] * channels + channel[:, None]
        x = four_rows(x_ptr, offsets, mask)
        dy = four_rows(dy_ptr, offsets, mask)
        x0, x1, x2, x3 = columns(x, BD)
        s0 = shift + w0 * xa + w1 * xb + w2 * xc + w3 * x0
        s1 = shift + w0 * xb + w1 * xc + w2 * x0 + w3 * x1
        s2 = shift + w0 * xc + w1 * x0 + w2 * x1 + w3 * x2
        s3 = shift + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
        ds = sum_gradient(from_columns(s0, s1, s2, s3, BD), dy, SILU)
        s0, s1, s2, s3 = columns(ds, BD)
        # dx lags by three steps, since its last term is ds three steps on.
        dx = from_columns(
            w3 * sa + w2 * sb + w1 * sc + w0 * s0,
            w3 * sb + w2 * sc + w1 * s0 + w0 * s1,
            w3 * sc + w2 * s0 + w1 * s1 + w0 * s2,
            w3 * s0 + w2 * s1 + w1 * s2 + w0 * s3,
            BD,
        )
        sa, sb, sc = s1, s2, s3
        # Steps past the program's own belong to the sums of the next one.
        s0, s1, s2, s3 = columns(tl.where((step < steps)[None, :], ds, 0.0), BD)
        dw0 += s0 * xa + s1 * xb + s2 * xc + s3 * x0
        dw1 += s0 * xb + s1 * xc + s2 * x0 + s3 * x1
        dw2 += s0 * xc + s1 * x0 + s2 * x1 + s3 * x2
        dw3 += s0 * x0 + s1 * x1 + s2 * x2 + s3 * x3
        dbias += (s0 + s1) + (s2 + s3)
        xa, xb, xc = x1, x2, x3
        late = step - 3
        mask = ((late >= 0) & (late < steps))[None, :] & exists[:, None]
        tl.store(dx_ptr + late[None, :] * channels + channel[:, None], dx, mask=mask)
        if HAS_STATE:
            mask = ((first == 0) & (late < 0) & (late > -WIDTH))[None, :] & exists[:, None]
            tl.store(dstate_ptr + (late + (WIDTH - 1))[None, :] * channels + channel[:, None], dx, mask=mask)
    parts_ptr += (tl.program_id(0) // tl.cdiv(channels, BD)).to(tl.int64) * (WIDTH + 1) * channels + channel
    if WIDTH == 4:
        tl.store(parts_ptr, dw0, mask=exists)
    if WIDTH >= 3:
        tl.store(parts_ptr + (WIDTH - 3) * channels, dw1, mask=exists)
    tl.store(parts_ptr + (WIDTH - 2) * channels, dw2, mask=exists)
    tl.store(parts_ptr + (WIDTH - 1) * channels, dw3, mask=exists)
    tl.store(parts_ptr + WIDTH * channels, dbias, mask=exists)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients (dx, dweight, dbias, dstate) of contiguous tensors, each in its tensor's dtype."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    dx = torch.empty_like(x)
    dstate = None if state is None else torch.empty_like(state)
    programs = batch * triton.cdiv(length, STEPS)
    parts = torch.empty(programs, width + 1, channels, device=x.device, dtype=torch.float32)
    with on_device_of(x):
        convolve_back[(programs * triton.cdiv(channels, CHANNELS),)](
            dy, x, weight, given(bias, weight), given(state, x), dx, given(dstate, dx), parts, length, channels,
            STEPS=STEPS, BD=CHANNELS, WIDTH=width,
            SILU=silu, HAS_BIAS=bias is not None, HAS_STATE=state is not None, num_warps=1,
        )  # fmt: skip
    total = parts.sum(0)
    dbias = None if bias is None else total[width].to(bias.dtype)
    return dx, total[:width].T.contiguous().to(weight.dtype), dbias, dstate
