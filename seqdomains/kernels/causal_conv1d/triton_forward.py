"""The causal depthwise convolution in Triton: tiles of steps and channels, read once per tap (from L1 but for one)."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.triton_parts import channel_values, given, on_device_of, sigmoid

STEPS = 16
CHANNELS = 128


@triton.jit
def input_rows(
    x_ptr, state_ptr, row, t, length, channels, channel, exists, WIDTH: tl.constexpr, HAS_STATE: tl.constexpr
):  # fmt: skip
    """Read steps t + row in float32; x_ptr points at step t. Steps before 0 come from the state, others are zero."""
    step = t + row
    mask = ((step >= 0) & (step < length))[:, None] & exists[None, :]
    x = tl.load(x_ptr + row[:, None] * channels + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_STATE:
        mask = ((step < 0) & (step > -WIDTH))[:, None] & exists[None, :]
        offsets = (step + (WIDTH - 1))[:, None] * channels + channel[None, :]
        x += tl.load(state_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    return x


@triton.jit
def place(length, channels, T: tl.constexpr, BD: tl.constexpr):
    """Return batch row, first of T steps, channels and which of them exist; all axes lie on the grid's x axis."""
    pid = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, BD)
    tiles = tl.cdiv(length, T)
    channel = (pid % channel_blocks) * BD + tl.arange(0, BD)
    tile = pid // channel_blocks
    return (tile // tiles).to(tl.int64), (tile % tiles) * T, channel, channel < channels


@triton.jit(do_not_specialize=["length"])
def convolve(
    x_ptr, weight_ptr, bias_ptr, state_ptr, y_ptr, length, channels,
    T: tl.constexpr, BD: tl.constexpr, WIDTH: tl.constexpr,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr,
):  # fmt: skip
    """Write a [T, BD] tile of y."""
    batch, t, channel, exists = place(length, channels, T, BD)
    row = tl.arange(0, T)
    x_ptr += (batch * length + t) * channels
    y_ptr += (batch * length + t) * channels
    state_ptr += batch * (WIDTH - 1) * channels
    y = tl.zeros([T, BD], tl.float32) + channel_values(bias_ptr, channel, exists, HAS_BIAS)[None, :]
    for k in tl.static_range(WIDTH):
        tap = tl.load(weight_ptr + channel * WIDTH + k, mask=exists, other=0.0).to(tl.float32)
        x = input_rows(
            x_ptr, state_ptr, row + (k - (WIDTH - 1)), t, length, channels, channel, exists, WIDTH, HAS_STATE
        )
        y += x * tap[None, :]
    if SILU:
        y = y * sigmoid(y)
    mask = (t + row < length)[:, None] & exists[None, :]
    tl.store(y_ptr + row[:, None] * channels + channel[None, :], y, mask=mask)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """Convolve contiguous tensors; return y, shape (B, L, D) in x's dtype."""
    batch, length, channels = x.shape
    y = torch.empty_like(x)
    grid = (batch * triton.cdiv(length, STEPS) * triton.cdiv(channels, CHANNELS),)
    with on_device_of(x):
        convolve[grid](
            x, weight, given(bias, weight), given(state, x), y, length, channels,
            T=STEPS, BD=CHANNELS, WIDTH=weight.shape[1],
            SILU=silu, HAS_BIAS=bias is not None, HAS_STATE=state is not None, num_warps=4,
        )  # fmt: skip
    return y
