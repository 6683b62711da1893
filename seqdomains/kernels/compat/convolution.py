"""The causal convolution and its single step in the official layout, (batch, dim, L)."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from seqdomains.kernels.causal_conv1d import causal_conv1d
from seqdomains.kernels.compat.scan import channels_last
from seqdomains.kernels.dispatch import widest

# The package takes both words for x sigmoid(x).
SILU: Final = ("silu", "swish")


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with its past, in the signature and layout of `causal_conv1d`.

    Parameters
    ----------
    x : Tensor, shape (batch, dim, L)
        Input. L may be 0.
    weight : Tensor, shape (dim, W)
        One filter per channel, the present step last; W is 2, 3 or 4.
    bias : Tensor, shape (dim,), optional
        Added before the activation.
    seq_idx : Tensor, shape (batch, L), integer, optional
        Which of several packed sequences a step belongs to: each run of equal numbers is one, and sees no other. The
        output of a negative number, which marks padding, is zero. On a GPU this waits for the device.
    initial_states : Tensor, shape (batch, dim, W - 1), optional
        The inputs before x; zero when absent.
    return_final_states : bool, default False
        Whether to return the last W - 1 inputs too. They carry gradient.
    final_states_out : Tensor, shape (batch, dim, W - 1), optional
        Where to write them.
    activation : {"silu", "swish", None}, default None
        What follows the sum.

    Returns
    -------
    Tensor or tuple of Tensor
        out, shape (batch, dim, L) in x's dtype; with `return_final_states` also the final states.

    Raises
    ------
    ValueError
        Shapes, dtypes, devices or the activation do not fit, or `seq_idx` comes with states.

    Examples
    --------
    >>> x, weight = torch.arange(4.0).reshape(1, 1, 4), torch.tensor([[1.0, 10.0]])
    >>> causal_conv1d_fn(x, weight).flatten()
    tensor([ 0., 10., 21., 32.])
    >>> causal_conv1d_fn(x, weight, seq_idx=torch.tensor([[0, 0, 1, 1]])).flatten()
    tensor([ 0., 10., 20., 32.])
    """
    silu = _silu(activation)
    if x.dim() != 3:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, dim, L)")
    if seq_idx is not None:
        if initial_states is not None or return_final_states:
            raise ValueError("initial_states or return_final_states came with seq_idx, whose sequences have no states")
        return _packed(x, weight, bias, seq_idx, silu)
    y, final = causal_conv1d(
        channels_last(x),
        weight,
        bias,
        activation=silu,
        state=None if initial_states is None else initial_states.transpose(1, 2),
        return_state=True,
    )
    if not return_final_states:
        return y.transpose(1, 2)
    states = final.transpose(1, 2)
    return y.transpose(1, 2), states if final_states_out is None else final_states_out.copy_(states)


def _silu(activation: str | None) -> Literal["silu"] | None:
    if activation is not None and activation not in SILU:
        raise ValueError(f"activation is {activation!r}, expected 'silu', 'swish' or None")
    return None if activation is None else "silu"


def _packed(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor, activation: Literal["silu"] | None
) -> Tensor:
    batch, dim, length = x.shape
    if seq_idx.shape != (batch, length):
        raise ValueError(f"seq_idx has shape {tuple(seq_idx.shape)}, expected (batch, L) = {(batch, length)}")
    begins = torch.ones_like(seq_idx, dtype=torch.bool)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    borders = torch.nn.functional.pad(begins.flatten().nonzero().flatten(), (0, 1), value=batch * length)
    if length == 0:
        return x.clone()
    # All rows end to end: a row's first step begins a sequence.
    row = channels_last(x).reshape(1, batch * length, dim)
    y = causal_conv1d(row, weight, bias, activation=activation, cu_seqlens=borders)
    return y.view(batch, length, dim).masked_fill(seq_idx[..., None] < 0, 0).transpose(1, 2)


@torch.no_grad()
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Convolve new steps with those that the state remembers, and change it in place; for inference, without gradient.

    Parameters
    ----------
    x : Tensor, shape (batch, dim) or (batch, dim, L)
        The new steps.
    conv_state : Tensor, shape (batch, dim, S)
        The last S inputs, S at least W - 1, the newest last; overwritten by those after x.
    weight : Tensor, shape (dim, W)
        One filter per channel, the present step last; W is 2, 3 or 4.
    bias : Tensor, shape (dim,), optional
        Added before the activation.
    activation : {"silu", "swish", None}, default None
        What follows the sum.

    Returns
    -------
    Tensor
        The output of the new steps, in x's shape and dtype.

    Raises
    ------
    ValueError
        Shapes, dtypes, devices or the activation do not fit.

    Examples
    --------
    >>> state = torch.tensor([[[2.0, 3.0]]])
    >>> causal_conv1d_update(torch.tensor([[4.0]]), state, torch.tensor([[1.0, 10.0]])), state.flatten()
    (tensor([[43.]]), tensor([3., 4.]))
    """
    steps = x.unsqueeze(-1) if x.dim() == 2 else x
    past = weight.shape[1] - 1
    if conv_state.dim() != 3 or conv_state.shape[:2] != steps.shape[:2] or conv_state.shape[2] < past:
        raise ValueError(
            f"conv_state has shape {tuple(conv_state.shape)}, expected (batch, dim, S) with batch, dim = "
            f"{tuple(steps.shape[:2])} and S at least {past}"
        )
    silu = _silu(activation)
    held, length, dtype = conv_state.shape[2], steps.shape[2], widest((x, conv_state, weight, bias))
    # Plain torch: for the few steps of a call it takes less time than a call of the convolution.
    line = torch.cat([conv_state, steps], -1)
    conv_state.copy_(line[..., -held:])
    windows = line[..., line.shape[2] - length - past :].to(dtype).unfold(-1, past + 1, 1)
    y = (windows * weight.to(dtype)[:, None]).sum(-1)
    y = y if bias is None else y + bias.to(dtype)[:, None]
    y = y if silu is None else torch.nn.functional.silu(y)
    return y.reshape(x.shape).to(x.dtype)
