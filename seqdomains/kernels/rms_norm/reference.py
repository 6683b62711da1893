"""Root-mean-square normalisation with residual addition, and its adjoint, in float32 or float64."""

from __future__ import annotations

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import widest


def rms_norm(x: Tensor, weight: Tensor, *, residual: Tensor | None = None, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Normalise with differentiable torch operations; the shapes are those of `seqdomains.kernels.rms_norm`.

    Returns
    -------
    tuple of Tensor
        y and x + residual, both of shape (B, L, D); float64 if any input is float64, else float32.

    Examples
    --------
    >>> y, total = rms_norm(torch.tensor([[[3.0, 4.0]]]), torch.ones(2))
    >>> y
    tensor([[[0.8485, 1.1314]]])
    """
    dtype = widest((x, weight, residual))
    total = x.to(dtype) if residual is None else x.to(dtype) + residual.to(dtype)
    return total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps) * weight.to(dtype), total


def forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in x's dtype, x + residual and, flattened to (B L,), one over the root mean square."""
    y, total = rms_norm(x, weight, residual=residual, eps=eps)
    rstd = torch.rsqrt(total.square().mean(-1) + eps).flatten()
    return y.to(x.dtype), total.clone(), rstd


def again(total: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return y alone, of this dtype, of a sum that is there already."""
    return forward(total, weight, None, eps)[0].to(dtype)


def backward(
    dy: Tensor,
    dresidual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    rstd: Tensor,
    x_dtype: torch.dtype,
    has_residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients of x and of the weight in their dtypes; between them the residual's where it differs."""
    dtype = residual_out.dtype
    scaled = residual_out * rstd.reshape(*residual_out.shape[:-1], 1)
    dnormal = dy.to(dtype) * weight.to(dtype)
    dx = (dnormal - scaled * (dnormal * scaled).mean(-1, keepdim=True)) * rstd.reshape(*residual_out.shape[:-1], 1)
    if dresidual_out is not None:
        dx = dx + dresidual_out
    apart = has_residual and x_dtype != dx.dtype
    return dx.to(x_dtype), dx if apart else None, (dy.to(dtype) * scaled).sum((0, 1)).to(weight.dtype)
