"""The selective scan as a plain loop over time, and its adjoint, in single or double precision."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdomains.kernels.dispatch import widest
from seqdomains.kernels.selective_scan.plan import Enter


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
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan with differentiable torch operations; the shapes are those of `seqdomains.kernels.selective_scan`.

    Returns
    -------
    tuple of Tensor
        y, shape (B, L, D), and h_last, shape (B, D, N) or (S, D, N); in double precision if any input is, else single.

    Examples
    --------
    >>> u = torch.ones(1, 3, 1)
    >>> y, h = selective_scan(u, u, -torch.ones(1, 1), u, u, softplus=False)
    >>> y.flatten()
    tensor([1.0000, 1.3679, 1.5032])
    """
    dtype = widest((u, dt, A, B, C, D, z, bias, h0))
    u, dt = u.to(dtype), dt.to(dtype)
    A, B, C = (tensor.to(_of_states(A, dtype)) for tensor in (A, B, C))
    d = _steps(dt, bias, softplus)
    rows, ends = [torch.empty(0)] * u.shape[1], []
    walks = _walks(u, cu_seqlens, reverse)
    for h, walk in zip(_split(h0, u, A, walks, cu_seqlens), walks, strict=True):
        for t in walk:
            h = torch.exp(d[:, t, :, None] * A) * h + (d[:, t] * u[:, t])[..., None] * _at(B, t, u)
            rows[t] = _pairs(A) * (h * _at(C, t, u)).sum(-1).real
        ends.append(h)
    y = torch.stack(rows, 1) if rows else torch.zeros_like(u)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y, torch.cat(ends)


def _steps(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """Return d in the precision of dt."""
    x = dt if bias is None else dt + bias.to(dt.dtype)
    return F.softplus(x) if softplus else x


def _of_states(A: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype.to_complex() if A.is_complex() else dtype


def _pairs(A: Tensor) -> int:
    """Return how many states a number of h stands for: with its conjugate, a complex one is two."""
    return 2 if A.is_complex() else 1


def _walks(u: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> list[range]:
    """Return the steps of each sequence in the order of processing; all batch rows are one sequence here."""
    borders = [0, u.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    walks = [range(start, stop) for start, stop in pairwise(borders)]
    return [walk[::-1] for walk in walks] if reverse else walks


def _split(h: Tensor | None, u: Tensor, A: Tensor, walks: list[range], cu_seqlens: Tensor | None) -> list[Tensor]:
    """Return the states of each walk, zero where they are absent."""
    batch, _, channels = u.shape
    if h is None:
        return [A.new_zeros(batch, channels, A.shape[1]) for _ in walks]
    return [h.to(A.dtype)] if cu_seqlens is None else list(torch.split(h.to(A.dtype), 1))


def _at(projection: Tensor, t: int, u: Tensor) -> Tensor:
    """Return B or C of one step, to be multiplied with states of shape (B, D, N)."""
    if projection.dim() == 2:
        return projection
    if projection.dim() == 3:
        return projection[:, t, None, :]
    return projection[:, t].repeat_interleave(u.shape[2] // projection.shape[2], 1)


def _add_at(total: Tensor, t: int, gradient: Tensor) -> None:
    """Add the gradient of `_at` to that of the whole projection."""
    if total.dim() == 2:
        total += gradient.sum(0)
    elif total.dim() == 3:
        total[:, t] += gradient.sum(1)
    else:
        batch, _, groups, states = total.shape
        total[:, t] += gradient.reshape(batch, groups, -1, states).sum(2)


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
    cu_seqlens: Tensor | None,
    softplus: bool,
    reverse: bool,
    *,
    enter: Enter = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in u's dtype, h_last in the dtype of the arithmetic, and no chunk states.

    `enter` takes where the scan leads from zero, found by a scan of its own, and its sum of d, and returns h0.
    """
    if enter is not None:
        end = selective_scan(u, dt, A, B, C, bias=bias, softplus=softplus)[1]
        h0 = enter(end, _steps(dt.to(end.dtype), bias, softplus).sum(1))
    y, h_last = selective_scan(
        u, dt, A, B, C, D, z, bias, softplus=softplus, h0=h0, reverse=reverse, cu_seqlens=cu_seqlens
    )
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
    cu_seqlens: Tensor | None,
    chunk_states: Tensor,
    softplus: bool,
    reverse: bool,
    *,
    enter: Enter = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (du, ddt, dA, dB, dC, dD, dz, dbias, dh0) by the adjoint recurrence, last step first.

    With g_t = dL/dy_t conj(C_t) and q_t = conj(a_t) (g_t + q_{t+1}), where a_t = exp(d_t A) and q_{L+1} = dL/dh_last,
    the gradient of h_t is g_t + q_{t+1}; everything else is a product of it with the conjugate of what entered step t.
    A gradient of a complex number is that by its real part plus i times that by its imaginary part, as in torch.
    `enter` takes the gradient of the first state if that of the last were zero, found by a walk of its own, and returns
    the latter.
    """
    dtype = widest((u, dt, A, B, C, D, z, bias, h0))
    u_, dt_, dy_ = (tensor.to(dtype) for tensor in (u, dt, dy))
    A_, B_, C_ = (tensor.to(_of_states(A, dtype)) for tensor in (A, B, C))
    x = dt_ if bias is None else dt_ + bias.to(dtype)
    d = F.softplus(x) if softplus else x
    gated = dy_ if z is None else dy_ * F.silu(z.to(dtype))
    if enter is not None:
        q = A_.new_zeros(u.shape[0], *A.shape)
        for t in reversed(range(u.shape[1])):
            q = torch.exp(d[:, t, :, None] * A_) * (q + gated[:, t, :, None] * _at(C_, t, u))
        dh_last = enter(q)
    du = torch.zeros_like(u_) if D is None else gated * D.to(dtype)
    dd, out = torch.empty_like(u_), torch.empty_like(u_)
    dA, dB, dC = torch.zeros_like(A_), torch.zeros_like(B_), torch.zeros_like(C_)
    walks, dh0 = _walks(u, cu_seqlens, reverse), []
    starts, ends = (_split(h, u, A_, walks, cu_seqlens) for h in (h0, dh_last))
    for start, q, walk in zip(starts, ends, walks, strict=True):
        states = [start]
        for t in walk:
            entered = (d[:, t] * u_[:, t])[..., None] * _at(B_, t, u)
            states.append(torch.exp(d[:, t, :, None] * A_) * states[-1] + entered)
        for t in reversed(walk):
            B_t, C_t, h = _at(B_, t, u), _at(C_, t, u), states.pop()
            weight = _pairs(A) * gated[:, t, :, None]
            out[:, t] = _pairs(A) * (h * C_t).sum(-1).real
            _add_at(dC, t, weight * h.conj())
            gh = q + weight * C_t.conj()
            q = gh * torch.exp(d[:, t, :, None] * A_).conj()
            through_decay = q * states[-1].conj()
            dA += (through_decay * d[:, t, :, None]).sum(0)
            rate = (gh * B_t.conj()).sum(-1).real
            dd[:, t] = (through_decay * A_.conj()).sum(-1).real + rate * u_[:, t]
            du[:, t] += rate * d[:, t]
            _add_at(dB, t, gh * (d[:, t] * u_[:, t])[..., None])
        dh0.append(q)
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
        (dB if B.is_complex() else dB.real).to(B.dtype),
        (dC if C.is_complex() else dC.real).to(C.dtype),
        None if D is None else (gated * u_).sum((0, 1)).to(D.dtype),
        dz,
        None if bias is None else dx.sum((0, 1)).to(bias.dtype),
        None if h0 is None else torch.cat(dh0).to(h0.dtype),
    )
