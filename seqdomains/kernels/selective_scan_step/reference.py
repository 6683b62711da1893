"""One step of the selective scan in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdomains.kernels.dispatch import widest


def forward(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """Change the state in place; return y in u's dtype."""
    dtype = widest((state, u, dt, A, B, C, D, z, bias))
    u_, dt_ = u.to(dtype), dt.to(dtype)
    x = dt_ if bias is None else dt_ + bias.to(dtype)
    d = (F.softplus(x) if softplus else x)[..., None]
    B_, C_ = (_of_channels(projection, u).to(state.dtype) for projection in (B, C))
    state.copy_(torch.exp(d * A.to(state.dtype)) * state + d * u_[..., None] * B_)
    y = (2 if A.is_complex() else 1) * (state * C_).sum(-1).real
    if D is not None:
        y = y + D.to(dtype) * u_
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)


def _of_channels(projection: Tensor, u: Tensor) -> Tensor:
    """Return B or C, to be multiplied with states of shape (B, D, N)."""
    if projection.dim() == 2:
        return projection
    return projection.repeat_interleave(u.shape[1] // projection.shape[1], 1)
