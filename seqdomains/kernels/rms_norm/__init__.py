"""Root-mean-square normalisation: public function, torch.library registration, choice of implementation."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import (
    chosen,
    contiguous,
    define_op,
    module_of,
    require_shape,
    widest,
    without_none,
)
from seqdomains.kernels.eager import backward_of, differentiable

__all__ = ["rms_norm"]


@overload
def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    residual: Tensor | None = ...,
    eps: float = ...,
    return_residual: Literal[False] = ...,
) -> Tensor: ...


@overload
def rms_norm(
    x: Tensor, weight: Tensor, *, residual: Tensor | None = ..., eps: float = ..., return_residual: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    return_residual: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Add the residual stream, then divide by the root mean square over the channels (arXiv:1910.07467).

    The sum s = x + residual is kept in float32; y = s / sqrt(mean(s**2) + eps) * weight. float64 tensors run the
    reference in float64.

    Parameters
    ----------
    x : Tensor, shape (B, L, D)
        Output of the layer before.
    weight : Tensor, shape (D,)
        Scale of each channel.
    residual : Tensor, shape (B, L, D), float32, optional
        The residual stream; zero when absent.
    eps : float, default 1e-5
        Added to the mean square.
    return_residual : bool, default False
        Whether to return x + residual too, for the layer after.

    Returns
    -------
    Tensor or tuple of Tensor
        y, shape (B, L, D) in x's dtype; with `return_residual` also x + residual in float32. Both have gradients.

    Raises
    ------
    ValueError
        Shapes, dtypes or devices do not fit.
    ConfigError
        ``SEQDOMAINS_KERNELS`` asks for what cannot run here.

    Examples
    --------
    >>> x, weight, residual = torch.full((1, 1, 2), 2.0), torch.ones(2), torch.ones(1, 1, 2)
    >>> y, total = rms_norm(x, weight, residual=residual, return_residual=True)
    >>> total
    tensor([[[3., 3.]]])
    """
    if x.dim() != 3:
        raise ValueError(f"expected x of shape (B, L, D), found {tuple(x.shape)}")
    require_shape("x", x, tuple(x.shape), x.device)
    require_shape("weight", weight, (x.shape[2],), x.device)
    require_shape("residual", residual, tuple(x.shape), x.device)
    dtype = widest((x, weight, residual))
    if residual is not None and residual.dtype != dtype:
        raise ValueError(f"residual has dtype {residual.dtype}, expected {dtype}: the residual stream is never rounded")
    if x.numel() == 0:
        y, total = x.clone(), x.to(dtype, copy=True)
    else:
        # Triton would take a whole number for a constant.
        y, total, _ = _norm(x, weight, residual, float(eps))
    return (y, total) if return_residual else y


def _run(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (x, weight, residual)
    module = module_of("rms_norm", chosen("rms_norm", tensors), "forward")
    result: tuple[Tensor, Tensor, Tensor] = module.forward(*contiguous(tensors), eps)
    return result


def _run_again(total: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return the norm of a sum that is there already, in a dtype: the same numbers as when it was made."""
    tensors = (total, weight)
    module = module_of("rms_norm", chosen("rms_norm", tensors), "forward")
    again: Tensor = module.again(*contiguous(tensors), eps, dtype)
    return again


def _fake(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = widest((x, weight, residual))
    rows = x.shape[0] * x.shape[1]
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=dtype), x.new_empty((rows,), dtype=dtype)


_op = define_op(
    "rms_norm(Tensor x, Tensor weight, Tensor? residual, float eps) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


def _run_backward(
    dy: Tensor,
    dresidual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    rstd: Tensor,
    x_dtype: torch.dtype,
    has_residual: bool,
) -> tuple[Tensor, ...]:
    module = module_of("rms_norm", chosen("rms_norm", (dy, weight, residual_out)), "backward")
    tensors = contiguous((dy, dresidual_out, residual_out, weight, rstd))
    return without_none(module.backward(*tensors, x_dtype, has_residual), residual_out)


def _fake_backward(
    dy: Tensor,
    dresidual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    rstd: Tensor,
    x_dtype: torch.dtype,
    has_residual: bool,
) -> tuple[Tensor, ...]:
    apart = has_residual and x_dtype != residual_out.dtype
    dresidual = residual_out.new_empty(residual_out.shape if apart else 0)
    return residual_out.new_empty(residual_out.shape, dtype=x_dtype), dresidual, weight.new_empty(weight.shape)


_op_backward = define_op(
    "rms_norm_backward(Tensor dy, Tensor? dresidual_out, Tensor residual_out, Tensor weight, Tensor rstd, "
    "ScalarType x_dtype, bool has_residual) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
_norm_backward = backward_of("rms_norm", _op_backward, _run_backward)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, residual, _ = inputs
    ctx.x_dtype = x.dtype
    ctx.has_residual = residual is not None
    ctx.save_for_backward(weight, output[1], output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, dtotal: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    weight, total, rstd = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(total, dtype=ctx.x_dtype)
    dx, dresidual, dweight = _norm_backward(dy, dtotal, total, weight, rstd, ctx.x_dtype, ctx.has_residual)
    if not ctx.has_residual:
        return dx, dweight, None, None
    # x enters the sum as the residual does: their gradients are one tensor unless x is narrower.
    return dx, dweight, dx if ctx.x_dtype == total.dtype else dresidual, None


_norm = differentiable("rms_norm", _op, _run, _save, _gradients)
