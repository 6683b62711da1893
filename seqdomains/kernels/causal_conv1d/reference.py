"""The causal depthwise convolution as a sum of shifted copies, and its adjoint, in float32 or float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdomains.kernels.dispatch import widest


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, state: Tensor | None = None, silu: bool = False
) -> Tensor:
    """Convolve with differentiable torch operations; the shapes are those of `seqdomains.kernels.causal_conv1d`.

    Returns
    -------
    Tensor, shape (B, L, D)
        float64 if any input is float64, else float32.

    Examples
    --------
    >>> causal_conv1d(torch.arange(4.0).reshape(1, 4, 1), torch.tensor([[1.0, 10.0]])).flatten()
    tensor([ 0., 10., 21., 32.])
    """
    dtype = widest((x, weight, bias, state))
    sums = _sums(_padded(x, weight, state, dtype), weight.to(dtype), bias)
    return F.silu(sums) if silu else sums


def _padded(x: Tensor, weight: Tensor, state: Tensor | None, dtype: torch.dtype) -> Tensor:
    before = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]) if state is None else state
    return torch.cat([before.to(dtype), x.to(dtype)], 1)


def _sums(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    width = weight.shape[1]
    length = padded.shape[1] - width + 1
    sums = sum((padded[:, k : k + length] * weight[:, k] for k in range(1, width)), padded[:, :length] * weight[:, 0])
    return sums if bias is None else sums + bias.to(sums.dtype)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """Return y in x's dtype."""
    return causal_conv1d(x, weight, bias, state=state, silu=silu).to(x.dtype)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients (dx, dweight, dbias, dstate): the convolution of dy with the reversed weight."""
    dtype = widest((x, weight, bias, state))
    padded, weight_ = _padded(x, weight, state, dtype), weight.to(dtype)
    dsums = dy.to(dtype)
    if silu:
        sums = _sums(padded, weight_, bias)
        gate = torch.sigmoid(sums)
        dsums = dsums * gate * (1 + sums * (1 - gate))
    width, length = weight.shape[1], x.shape[1]
    dpadded = torch.zeros_like(padded)
    for k in range(width):
        dpadded[:, k : k + length] += dsums * weight_[:, k]
    dweight = torch.stack([(dsums * padded[:, k : k + length]).sum((0, 1)) for k in range(width)], 1)
    return (
        dpadded[:, width - 1 :].clone().to(x.dtype),
        dweight.to(weight.dtype),
        None if bias is None else dsums.sum((0, 1)).to(bias.dtype),
        None if state is None else dpadded[:, : width - 1].clone().to(state.dtype),
    )
