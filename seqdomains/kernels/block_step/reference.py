"""A block's step in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, silu, softplus

from seqdomains.kernels.block_step import BlockMemory, BlockWeights


def bind(weights: BlockWeights, memory: BlockMemory) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """Return the step of these weights, which changes this memory."""

    def step(hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        w = weights
        stream = hidden.clone() if residual is None else hidden + residual
        normed = stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + w.eps) * w.norm
        x, z = linear(normed, w.to_inner, w.inner_bias).chunk(2, dim=-1)
        window = torch.cat([memory.conv, x[:, None]], dim=1)
        memory.conv.copy_(window[:, 1:])
        mixed = (window * w.taps.t()).sum(1)
        u = silu(mixed if w.taps_bias is None else mixed + w.taps_bias)
        if w.to_scan is None or w.to_step is None:
            assert w.B is not None  # noqa: S101 - one of both is there
            assert w.C is not None  # noqa: S101
            dt, B, C = w.step_bias, w.B, w.C
        else:
            rank = w.to_step.shape[1]
            found = linear(u, w.to_scan)
            numbers = (found.shape[1] - rank) // 2
            low, b, c = found[:, :rank], found[:, rank : rank + numbers], found[:, rank + numbers :]
            dt = linear(low, w.to_step) + w.step_bias
            B, C = (torch.complex(*one.chunk(2, dim=-1)) if w.A.is_complex() else one for one in (b, c))
            B, C = B[:, None], C[:, None]
        d = softplus(dt)
        state = torch.complex(*memory.states) if w.A.is_complex() else memory.states[0]
        state = torch.exp(d[..., None] * w.A) * state + (d * u)[..., None] * B
        for own, part in zip(memory.states, (state.real, state.imag) if w.A.is_complex() else (state,), strict=True):
            own.copy_(part)
        y = (2 if w.A.is_complex() else 1) * (state * C).sum(-1).real + w.skip * u
        return linear(y * silu(z), w.out, w.out_bias), stream

    return step
