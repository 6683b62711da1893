"""The causal depthwise convolution as a sum of shifted copies, and its adjoint, in float32 or float64."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdomains.kernels.dispatch import widest

# Of the steps and of the states in a padded tensor; none where sequences are not packed.
Rows = tuple[Tensor, Tensor] | None


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    state: Tensor | None = None,
    silu: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
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
    if reverse:
        x, state, cu_seqlens = _reversed(x, state, cu_seqlens)
        return causal_conv1d(x, weight, bias, state=state, silu=silu, cu_seqlens=cu_seqlens).flip(1)
    dtype = widest((x, weight, bias, state))
    rows = _rows(cu_seqlens, x, weight)
    sums = _sums(_padded(x, weight, state, rows, dtype), weight.to(dtype), bias)
    if rows is not None:
        sums = sums[:, rows[0] - (weight.shape[1] - 1)]
    return F.silu(sums) if silu else sums


def _reversed(x: Any, state: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Any, Tensor | None, Tensor | None]:
    """Turn time around; the last of packed sequences is then the first, its state with it."""
    if cu_seqlens is None:
        return x.flip(1), state, None
    return x.flip(1), None if state is None else state.flip(0), cu_seqlens[-1] - cu_seqlens.flip(0)


def _padded(x: Tensor, weight: Tensor, state: Tensor | None, rows: Rows, dtype: torch.dtype) -> Tensor:
    """Put the state before x, or before each of the packed sequences."""
    lags = weight.shape[1] - 1
    if rows is None:
        before = x.new_zeros(x.shape[0], lags, x.shape[2]) if state is None else state
        return torch.cat([before.to(dtype), x.to(dtype)], 1)
    inner, outer = rows
    padded = x.new_zeros(1, len(inner) + len(outer), x.shape[2], dtype=dtype).index_copy(1, inner, x.to(dtype))
    return padded if state is None else padded.index_copy(1, outer, state.to(dtype).reshape(1, -1, x.shape[2]))


def _rows(cu_seqlens: Tensor | None, x: Tensor, weight: Tensor) -> Rows:
    """Return where the steps of packed sequences and those of their states stand in `_padded`."""
    if cu_seqlens is None:
        return None
    lags = weight.shape[1] - 1
    borders, steps = cu_seqlens.long(), torch.arange(x.shape[1], device=x.device)
    order = torch.arange(len(borders) - 1, device=x.device)
    inner = steps + lags * (torch.searchsorted(borders[1:], steps, right=True) + 1)
    outer = (borders[:-1] + lags * order)[:, None] + torch.arange(lags, device=x.device)
    return inner, outer.flatten()


def _sums(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    width = weight.shape[1]
    length = padded.shape[1] - width + 1
    sums = sum((padded[:, k : k + length] * weight[:, k] for k in range(1, width)), padded[:, :length] * weight[:, 0])
    return sums if bias is None else sums + bias.to(sums.dtype)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Return y in x's dtype."""
    return causal_conv1d(x, weight, bias, state=state, silu=silu, reverse=reverse, cu_seqlens=cu_seqlens).to(x.dtype)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (dx, dweight, dbias, dstate): the convolution of dy with the reversed weight."""
    if reverse:
        x, state, borders = _reversed(x, state, cu_seqlens)
        gradients = backward(dy.flip(1), x, weight, bias, state, silu, False, borders)
        dx, dstate, _ = _reversed(gradients[0], gradients[3], borders)
        return dx, *gradients[1:3], dstate
    dtype = widest((x, weight, bias, state))
    weight_, dsums, rows = weight.to(dtype), dy.to(dtype), _rows(cu_seqlens, x, weight)
    padded = _padded(x, weight, state, rows, dtype)
    width, length = weight.shape[1], padded.shape[1] - weight.shape[1] + 1
    if rows is not None:
        dsums = dsums.new_zeros(1, length, x.shape[2]).index_copy(1, rows[0] - (width - 1), dsums)
    if silu:
        sums = _sums(padded, weight_, bias)
        gate = torch.sigmoid(sums)
        dsums = dsums * gate * (1 + sums * (1 - gate))
    dpadded = torch.zeros_like(padded)
    for k in range(width):
        dpadded[:, k : k + length] += dsums * weight_[:, k]
    dweight = torch.stack([(dsums * padded[:, k : k + length]).sum((0, 1)) for k in range(width)], 1)
    if rows is None:
        dx, dstate = dpadded[:, width - 1 :].clone(), dpadded[:, : width - 1].clone()
    else:
        dx, dstate = dpadded[:, rows[0]], dpadded[0, rows[1]].reshape(-1, width - 1, x.shape[2])
    return (
        dx.to(x.dtype),
        dweight.to(weight.dtype),
        None if bias is None else dsums.sum((0, 1)).to(bias.dtype),
        None if state is None else dstate.to(state.dtype),
    )
