"""The selective scan as a plain loop over time, and its adjoint, in float32 or float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdomains.kernels.dispatch import widest


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    softplus: bool = True,
    h0: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan with differentiable torch operations; the shapes are those of `seqdomains.kernels.selective_scan`.

    Returns
    -------
    tuple of Tensor
        y, shape (B, L, D), and h_last, shape (B, D, N); float64 if any input is float64, else float32.

    Examples
    --------
    >>> u = torch.ones(1, 3, 1)
    >>> y, h = selective_scan(u, u, -torch.ones(1, 1), u, u, softplus=False)
    >>> y.flatten()
    tensor([1.0000, 1.3679, 1.5032])
    """
    dtype = widest((u, dt, A, B, C, D, z, bias, h0))
    u, dt, A, B, C = (tensor.to(dtype) for tensor in (u, dt, A, B, C))
    d = _step(dt, bias, softplus)
    h = u.new_zeros(u.shape[0], u.shape[2], A.shape[1]) if h0 is None else h0.to(dtype)
    rows = []
    for t in range(u.shape[1]):
        h = torch.exp(d[:, t, :, None] * A) * h + (d[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        rows.append((h * C[:, t, None, :]).sum(-1))
    y = torch.stack(rows, 1) if rows else torch.zeros_like(u)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y, h


def _step(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    x = dt if bias is None else dt + bias.to(dt.dtype)
    return F.softplus(x) if softplus else x


def forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in u's dtype, h_last in the dtype of the arithmetic, and no chunk states."""
    y, h_last = selective_scan(u, dt, A, B, C, D, z, bias, softplus=softplus, h0=h0)
    return y.to(u.dtype), h_last, h_last.new_empty(u.shape[0], 0, u.shape[2], A.shape[1])


def backward(
    dy: Tensor,
    dh_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    chunk_states: Tensor,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (du, ddt, dA, dB, dC, dD, dz, dbias, dh0) by the adjoint recurrence, last step first.

    With g_t = dL/dy_t C_t and q_t = a_t (g_t + q_{t+1}), where a_t = exp(d_t A) and q_{L+1} = dL/dh_last, the
    gradient of h_t is g_t + q_{t+1}; everything else is a product of it with what entered step t.
    """
    dtype = widest((u, dt, A, B, C, D, z, bias, h0))
    u_, dt_, A_, B_, C_, dy_ = (tensor.to(dtype) for tensor in (u, dt, A, B, C, dy))
    x = dt_ if bias is None else dt_ + bias.to(dtype)
    d = F.softplus(x) if softplus else x
    h = u_.new_zeros(u.shape[0], u.shape[2], A.shape[1]) if h0 is None else h0.to(dtype)
    states = [h]
    for t in range(u.shape[1]):
        h = torch.exp(d[:, t, :, None] * A_) * h + (d[:, t] * u_[:, t])[..., None] * B_[:, t, None, :]
        states.append(h)
    gated = dy_ if z is None else dy_ * F.silu(z.to(dtype))
    du = torch.zeros_like(u_) if D is None else gated * D.to(dtype)
    dd, dB, dC, out = torch.empty_like(u_), torch.empty_like(B_), torch.empty_like(C_), torch.empty_like(u_)
    dA = torch.zeros_like(A_)
    q = torch.zeros_like(h) if dh_last is None else dh_last.to(dtype)
    for t in reversed(range(u.shape[1])):
        C_t, B_t = C_[:, t, None, :], B_[:, t, None, :]
        out[:, t] = (states[t + 1] * C_t).sum(-1)
        dC[:, t] = (states[t + 1] * gated[:, t, :, None]).sum(1)
        gh = q + gated[:, t, :, None] * C_t
        q = gh * torch.exp(d[:, t, :, None] * A_)
        through_decay = q * states[t]
        dA += (through_decay * d[:, t, :, None]).sum(0)
        rate = (gh * B_t).sum(-1)
        dd[:, t] = (through_decay * A_).sum(-1) + rate * u_[:, t]
        du[:, t] += rate * d[:, t]
        dB[:, t] = (gh * (d[:, t] * u_[:, t])[..., None]).sum(1)
    dx = dd * torch.sigmoid(x) if softplus else dd
    dz = None
    if z is not None:
        gate = torch.sigmoid(z.to(dtype))
        skip = out if D is None else out + D.to(dtype) * u_
        dz = (dy_ * skip * gate * (1 + z.to(dtype) * (1 - gate))).to(z.dtype)
    return (
        du.to(u.dtype),
        dx.to(dt.dtype),
        dA.to(A.dtype),
        dB.to(B.dtype),
        dC.to(C.dtype),
        None if D is None else (gated * u_).sum((0, 1)).to(D.dtype),
        dz,
        None if bias is None else dx.sum((0, 1)).to(bias.dtype),
        None if h0 is None else q.to(h0.dtype),
    )
