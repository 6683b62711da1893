"""The causal depthwise convolution: public function, torch.library registration, choice of implementation."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from seqdomains.kernels.causal_conv1d.carry import add_last_gradient, last_inputs
from seqdomains.kernels.dispatch import (
    chosen,
    contiguous,
    define_op,
    gradients_like,
    module_of,
    of_present,
    require_borders,
    require_order,
    require_shape,
    without_none,
)
from seqdomains.kernels.eager import backward_of, differentiable

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
    reverse: bool = ...,
    cu_seqlens: Tensor | None = ...,
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
    reverse: bool = ...,
    cu_seqlens: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    state: Tensor | None = None,
    return_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with the W - 1 steps before it and itself.

    y_t = bias + sum over k of weight[:, k] x_{t - (W - 1) + k}, then SiLU where asked. The arithmetic is float32, or
    float64 in the reference when any tensor is float64.

    With `reverse`, time runs from the last step to the first: y_t sees x_t to x_{t + W - 1}, as if x were flipped,
    convolved and flipped back. Both states are in the order of processing.

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
        The inputs of the W - 1 steps before x; zero when absent. With `reverse`, those after x, the nearest last.
    return_state : bool, default False
        Whether to return the last W - 1 inputs too, for the call that continues this one. With `reverse`, the first
        W - 1, the very first last.
    reverse : bool, default False
        Whether to look ahead instead of back.
    cu_seqlens : Tensor, shape (S + 1,), int32 or int64, optional
        Where S packed sequences begin and the last one ends, from 0 to L, on x's device; B is then 1 and the states
        have shape (S, W - 1, D). Sequences don't see each other and may be empty. The values are checked on a CPU
        only: a GPU would have to wait for them.

    Returns
    -------
    Tensor or tuple of Tensor
        y, shape (B, L, D) in x's dtype; with `return_state` also the new state, shape (B, W - 1, D) or (S, W - 1, D)
        in x's dtype. Both have gradients.

    Raises
    ------
    ValueError
        Shapes, dtypes, devices, the activation or the borders of the sequences do not fit.
    ConfigError
        ``SEQDOMAINS_KERNELS`` asks for what cannot run here.

    Examples
    --------
    >>> x, weight = torch.arange(4.0).reshape(1, 4, 1), torch.tensor([[1.0, 10.0]])
    >>> y, state = causal_conv1d(x, weight, return_state=True)
    >>> y.flatten(), state.flatten()
    (tensor([ 0., 10., 21., 32.]), tensor([3.]))

    Each value with the one after it, and two sequences of two steps:

    >>> causal_conv1d(x, weight, reverse=True).flatten()
    tensor([ 1., 12., 23., 30.])
    >>> causal_conv1d(x, weight, cu_seqlens=torch.tensor([0, 2, 4])).flatten()
    tensor([ 0., 10., 20., 32.])
    """
    if x.dim() != 3 or weight.dim() != 2 or not 2 <= weight.shape[1] <= 4:
        raise ValueError(
            "expected x of shape (B, L, D) and weight of shape (D, W) with W from 2 to 4, "
            f"found {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, expected 'silu' or None")
    channels, width = x.shape[2], weight.shape[1]
    if cu_seqlens is not None:
        require_borders(cu_seqlens, x.shape[0], x.device)
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    require_shape("x", x, tuple(x.shape), x.device)
    require_shape("weight", weight, (channels, width), x.device)
    require_shape("bias", bias, (channels,), x.device)
    require_shape("state", state, (sequences, width - 1, channels), x.device)
    if x.numel() > 0:
        y, last = _conv(x, weight, bias, state, activation == "silu", reverse, cu_seqlens, return_state)
    else:
        if cu_seqlens is not None and not torch.compiler.is_compiling():
            require_order(cu_seqlens, x.shape[1])
        y = x.clone()
        last = x.new_zeros(sequences, width - 1, channels) if state is None else state.to(x.dtype, copy=True)
    return (y, last) if return_state else y


def _of_several(cu_seqlens: Tensor | None) -> Tensor | None:
    """Return the borders of sequences; a single one is a batch row."""
    return None if cu_seqlens is None or cu_seqlens.shape[0] == 2 else cu_seqlens


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    return_state: bool = False,
) -> tuple[Tensor, Tensor]:
    if cu_seqlens is not None:
        require_order(cu_seqlens, x.shape[1])
        cu_seqlens = _of_several(cu_seqlens)
    tensors = (x, weight, bias, state)
    module = module_of("causal_conv1d", chosen("causal_conv1d", tensors), "forward")
    y: Tensor = module.forward(*contiguous(tensors), silu, reverse, *contiguous((cu_seqlens,)))
    return y, last_inputs(x, state, weight.shape[1] - 1, reverse, cu_seqlens) if return_state else x.new_empty(0)


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    return_state: bool = False,
) -> tuple[Tensor, Tensor]:
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    last = (sequences, weight.shape[1] - 1, x.shape[2]) if return_state else (0,)
    return x.new_empty(x.shape), x.new_empty(last)


_op = define_op(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor? state, bool silu, bool reverse=False, "
    "Tensor? cu_seqlens=None, bool return_state=False) -> (Tensor, Tensor)",
    _run,
    _fake,
)


def _run_backward(dy: Tensor, dlast: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, silu, reverse, cu_seqlens = arguments
    cu_seqlens = _of_several(cu_seqlens)
    module = module_of("causal_conv1d", chosen("causal_conv1d", inputs), "backward")
    gradients = module.backward(*contiguous((dy, *inputs)), silu, reverse, *contiguous((cu_seqlens,)))
    if dlast is not None:
        add_last_gradient(dlast, gradients[0], gradients[3], reverse, cu_seqlens)
    return without_none(gradients, dy)


def _fake_backward(dy: Tensor, dlast: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    return gradients_like(arguments[:4])


_op_backward = define_op(
    "causal_conv1d_backward(Tensor dy, Tensor? dlast, Tensor x, Tensor weight, Tensor? bias, Tensor? state, bool silu, "
    "bool reverse, Tensor? cu_seqlens) -> (Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
_conv_backward = backward_of("causal_conv1d", _op_backward, _run_backward)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, silu, reverse, cu_seqlens, return_state = inputs
    ctx.silu, ctx.reverse, ctx.return_state = silu, reverse, return_state
    ctx.save_for_backward(*tensors, cu_seqlens)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, cu_seqlens = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(inputs[0])
    dlast = dlast if ctx.return_state else None
    gradients = _conv_backward(dy, dlast, *inputs, ctx.silu, ctx.reverse, cu_seqlens)
    return (*of_present(inputs, gradients), None, None, None, None)


_conv = differentiable("causal_conv1d", _op, _run, _save, _gradients)
