"""The causal depthwise convolution in Triton: one walk along time, each input read once."""

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
from seqdomains.kernels.triton_parts import channel_values, given, on_device_of

TILE = Tile(warps=4, per_lane=4, channels=128)
# 64 steps rather than 128: more chunks, and fewer multiprocessors idle while the last ones are finished.
STEPS = 64


@triton.jit
def activated(s, SILU: tl.constexpr):
    """Return s, or s sigmoid(s)."""
    if SILU:
        return s * silu_gate(s)
    else:
        return s


@triton.jit(do_not_specialize=["sequences", "length", "bisections", "T"])
def convolve(
    x_ptr, weight_ptr, bias_ptr, state_ptr, cu_ptr, y_ptr, sequences, length, channels, bisections, T,
    G: tl.constexpr, BD: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr, REVERSE: tl.constexpr,
    PACKED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr,
):  # fmt: skip
    """Write y of G chunks of T steps and BD channels."""
    sequence, first, left, longest, at, onward, channel, exists = place(
        cu_ptr, sequences, length, channels, bisections, T, G, BD, REVERSE, PACKED
    )
    shift = channel_values(bias_ptr, channel, exists, HAS_BIAS)[None, :]
    w0 = tap(weight_ptr, channel, exists, 0, WIDTH)
    w1 = tap(weight_ptr, channel, exists, 1, WIDTH)
    w2 = tap(weight_ptr, channel, exists, 2, WIDTH)
    w3 = tap(weight_ptr, channel, exists, 3, WIDTH)
    exists = exists[None, :]
    state_at = (sequence * (WIDTH - 1) * channels)[:, None] + channel[None, :]
    xa = row_before(x_ptr, at, onward, state_ptr, state_at, first, left, channels, exists, 3, WIDTH, HAS_STATE)
    xb = row_before(x_ptr, at, onward, state_ptr, state_at, first, left, channels, exists, 2, WIDTH, HAS_STATE)
    xc = row_before(x_ptr, at, onward, state_ptr, state_at, first, left, channels, exists, 1, WIDTH, HAS_STATE)
    steps = tl.minimum(left, T)
    x_ptr += at
    y_ptr += at
    for t in range(0, longest, 4):
        own0 = (t < steps)[:, None] & exists
        own1 = (t + 1 < steps)[:, None] & exists
        own2 = (t + 2 < steps)[:, None] & exists
        own3 = (t + 3 < steps)[:, None] & exists
        # All loads before all stores: a store may alias the next load, which would wait for it.
        x0 = tl.load(x_ptr + t * onward, mask=own0, other=0.0).to(tl.float32)
        x1 = tl.load(x_ptr + (t + 1) * onward, mask=own1, other=0.0).to(tl.float32)
        x2 = tl.load(x_ptr + (t + 2) * onward, mask=own2, other=0.0).to(tl.float32)
        x3 = tl.load(x_ptr + (t + 3) * onward, mask=own3, other=0.0).to(tl.float32)
        y0 = activated(weighted(shift, w0, w1, w2, w3, xa, xb, xc, x0, WIDTH), SILU)
        y1 = activated(weighted(shift, w0, w1, w2, w3, xb, xc, x0, x1, WIDTH), SILU)
        y2 = activated(weighted(shift, w0, w1, w2, w3, xc, x0, x1, x2, WIDTH), SILU)
        y3 = activated(weighted(shift, w0, w1, w2, w3, x0, x1, x2, x3, WIDTH), SILU)
        tl.store(y_ptr + t * onward, y0, mask=own0)
        tl.store(y_ptr + (t + 1) * onward, y1, mask=own1)
        tl.store(y_ptr + (t + 2) * onward, y2, mask=own2)
        tl.store(y_ptr + (t + 3) * onward, y3, mask=own3)
        xa, xb, xc = x1, x2, x3


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Convolve contiguous tensors; return y, shape (B, L, D) in x's dtype."""
    batch, length, channels = x.shape
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    y = torch.empty_like(x)
    cut = walk(x, cu_seqlens, TILE, STEPS)
    with on_device_of(x):
        launch(
            convolve, cut.parts * cut.blocks,
            (x, weight, given(bias, weight), given(state, x), given(cu_seqlens, x), y,
             sequences, length, channels, bisections(sequences), cut.steps),
            {"G": cut.chunks, "BD": cut.channels, "WIDTH": weight.shape[1], "SILU": silu, "REVERSE": reverse,
             "PACKED": cu_seqlens is not None, "HAS_BIAS": bias is not None, "HAS_STATE": state is not None},
            launch_key((x, weight, bias, state, cu_seqlens), channels), num_warps=cut.warps,
        )  # fmt: skip
    return y
