"""The causal depthwise convolution: public function, torch.library registration, choice of implementation."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import (
    chosen,
    contiguous,
    define_op,
    differentiate_op,
    gradients_like,
    module_of,
    of_present,
    require_shape,
    without_none,
)

__all__ = ["causal_conv1d"]


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    *,
    activation: Literal["silu"] | None = ...,
    state: Tensor | None = ...,
    return_state: Literal[False] = ...,
) -> Tensor: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    *,
    activation: Literal["silu"] | None = ...,
    state: Tensor | None = ...,
    return_state: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with the W - 1 steps before it and itself.

    y_t = bias + sum over k of weight[:, k] x_{t - (W - 1) + k}, then SiLU where asked. The arithmetic is float32, or
    float64 in the reference when any tensor is float64.

    Parameters
    ----------
    x : Tensor, shape (B, L, D)
        Input, channels last. L may be 0.
    weight : Tensor, shape (D, W)
        One filter per channel, the present step last; W is 2, 3 or 4.
    bias : Tensor, shape (D,), optional
        Added before the activation.
    activation : {"silu", None}, default None
        What follows the sum.
    state : Tensor, shape (B, W - 1, D), optional
        The inputs of the W - 1 steps before x; zero when absent.
    return_state : bool, default False
        Whether to return the last W - 1 inputs too, for the call that continues this one.

    Returns
    -------
    Tensor or tuple of Tensor
        y, shape (B, L, D) in x's dtype; with `return_state` also the new state, shape (B, W - 1, D) in x's dtype.
        Both have gradients.

    Raises
    ------
    ValueError
        Shapes, dtypes, devices or the activation do not fit.
    ConfigError
        ``SEQDOMAINS_KERNELS`` asks for what cannot run here.

    Examples
    --------
    >>> x, weight = torch.arange(4.0).reshape(1, 4, 1), torch.tensor([[1.0, 10.0]])
    >>> y, state = causal_conv1d(x, weight, return_state=True)
    >>> y.flatten(), state.flatten()
    (tensor([ 0., 10., 21., 32.]), tensor([3.]))
    """
    if x.dim() != 3 or weight.dim() != 2 or not 2 <= weight.shape[1] <= 4:
        raise ValueError(
            "expected x of shape (B, L, D) and weight of shape (D, W) with W from 2 to 4, "
            f"found {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, expected 'silu' or None")
    batch, _, channels = x.shape
    width = weight.shape[1]
    require_shape("x", x, tuple(x.shape), x.device)
    require_shape("weight", weight, (channels, width), x.device)
    require_shape("bias", bias, (channels,), x.device)
    require_shape("state", state, (batch, width - 1, channels), x.device)
    y = x.clone() if x.numel() == 0 else _conv(x, weight, bias, state, activation == "silu")
    if not return_state:
        return y
    before = x.new_zeros(batch, width - 1, channels) if state is None else state.to(x.dtype)
    return y, torch.cat([before, x[:, -(width - 1) :]], 1)[:, -(width - 1) :].contiguous()


def _run(*arguments: Any) -> Tensor:
    *tensors, silu = arguments
    module = module_of("causal_conv1d", chosen("causal_conv1d", tensors), "forward")
    y: Tensor = module.forward(*contiguous(tensors), silu)
    return y


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    return x.new_empty(x.shape)


_conv = define_op(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor? state, bool silu) -> Tensor",
    _run,
    _fake,
)


def _run_backward(dy: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, silu = arguments
    module = module_of("causal_conv1d", chosen("causal_conv1d", inputs), "backward")
    return without_none(module.backward(*contiguous((dy, *inputs)), silu), dy)


def _fake_backward(dy: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, _ = arguments
    return gradients_like(inputs)


_conv_backward = define_op(
    "causal_conv1d_backward(Tensor dy, Tensor x, Tensor weight, Tensor? bias, Tensor? state, bool silu) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, silu = inputs
    ctx.silu = silu
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    gradients = _conv_backward(dy, *inputs, ctx.silu)
    return (*of_present(inputs, gradients), None)


differentiate_op("causal_conv1d", _gradients, _save)
