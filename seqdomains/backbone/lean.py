"""One residual block as a single autograd function that keeps little and computes the rest again.

Kept of each token is the residual stream, and the scan's states at the borders of its chunks: a fifth of what a block
built of ops keeps. What lies between is computed again in the backward pass: the norm, a projection, the convolution
and two small projections. The scan is not run again: the fast kernels go through all states in the backward pass
anyway, and write its output on the way; where other kernels run, the output is kept too. Gradients that meet are added
by the products that make them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqdomains.backbone.mixer import MambaMixer
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.state import LayerState
from seqdomains.kernels import raw


class _Weights(NamedTuple):
    """Parameters of a block; the biases of the projections may be absent."""

    norm: Tensor
    to_inner: Tensor
    to_inner_bias: Tensor | None
    conv: Tensor
    conv_bias: Tensor | None
    to_scan: Tensor
    to_step: Tensor
    step_bias: Tensor
    A_log: Tensor
    D: Tensor
    out: Tensor
    out_bias: Tensor | None


class _Inner(NamedTuple):
    """What is computed again: the convolution's input and output, the gate, and what the scan takes."""

    x: Tensor
    z: Tensor
    u: Tensor
    low: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    last: Tensor


def run_block(
    mixer: MambaMixer,
    hidden: Tensor,
    residual: Tensor | None,
    state: LayerState | None,
    *,
    norm_weight: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, LayerState]:
    """Do what `Block.forward` does with this mixer and this norm before it, keeping less for the backward pass.

    Examples
    --------
    >>> from seqdomains.backbone.block import Block
    >>> from seqdomains.backbone.config import MambaConfig
    >>> from seqdomains.backbone.initialisation import initialise
    >>> config = MambaConfig(d_model=8, n_layer=1)
    >>> block = Block(config)
    >>> initialise(block, config)
    >>> hidden = torch.randn(2, 5, 8)
    >>> out, *_ = run_block(block.mixer, hidden, None, None, norm_weight=block.norm.weight, eps=block.norm.eps)
    >>> torch.equal(out, block(hidden, None)[0])
    True
    """
    weights = _Weights(
        norm_weight, mixer.in_proj.weight, mixer.in_proj.bias, mixer.conv1d.weight, mixer.conv1d.bias,
        mixer.x_proj.weight, mixer.dt_proj.weight, mixer.dt_proj.bias, mixer.A_log, mixer.D, mixer.out_proj.weight,
        mixer.out_proj.bias,
    )  # fmt: skip
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    conv, ssm = (None, None) if state is None else (state.conv.to(dtype), state.ssm)
    with torch.autocast(device, enabled=False):
        out, total, last, h_last = _LeanBlock.apply(eps, dtype, hidden, residual, conv, ssm, *weights)
    return out, total, LayerState(last, h_last)


def _inner(normed: Tensor, conv: Tensor | None, weights: _Weights) -> _Inner:
    to_x, to_z = weights.to_inner.chunk(2)
    x, z = normed @ to_x.t(), normed @ to_z.t()
    if weights.to_inner_bias is not None:
        bias_x, bias_z = weights.to_inner_bias.chunk(2)
        x, z = x.add_(bias_x), z.add_(bias_z)
    u, last = raw.convolve(x, weights.conv.squeeze(1), weights.conv_bias, conv, True, return_state=True)
    rank = weights.to_step.shape[1]
    states = (weights.to_scan.shape[0] - rank) // 2
    low, B, C = torch.split(u @ weights.to_scan.t(), [rank, states, states], dim=-1)
    return _Inner(x, z, u, low, low @ weights.to_step.t().contiguous(), B.contiguous(), C.contiguous(), last)


def _cast(weights: _Weights, dtype: torch.dtype) -> _Weights:
    """Return the weights of products in their precision; those of the kernels stay as they are."""
    return weights._replace(
        to_inner=weights.to_inner.to(dtype),
        to_inner_bias=None if weights.to_inner_bias is None else weights.to_inner_bias.to(dtype),
        to_scan=weights.to_scan.to(dtype),
        to_step=weights.to_step.to(dtype),
        out=weights.out.to(dtype),
        out_bias=None if weights.out_bias is None else weights.out_bias.to(dtype),
    )


def _over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """Return the gradient of a weight whose products have the gradient `a` and the input `b`."""
    return a.flatten(0, 1).t() @ b.flatten(0, 1)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product of `a` and `b` to `total`."""
    total.view(-1, total.shape[-1]).addmm_(a.reshape(-1, a.shape[-1]), b)


class _LeanBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        eps: float,
        dtype: torch.dtype,
        hidden: Tensor,
        residual: Tensor | None,
        conv: Tensor | None,
        h0: Tensor | None,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given = _Weights(*parameters)  # type: ignore[arg-type]
        weights = _cast(given, dtype)
        normed, total, rstd = raw.normalise(hidden, weights.norm, residual, eps)
        inner = _inner(normed.to(dtype), conv, weights)
        A = -torch.exp(full_precision(given.A_log))
        y, h_last, states = raw.scan(
            inner.u, inner.dt, A, inner.B, inner.C, given.D, inner.z, given.step_bias, h0, None, True, False
        )
        out = y @ weights.out.t()
        if weights.out_bias is not None:
            out += weights.out_bias
        repeated = raw.scan_repeats_output(inner.u, A, inner.B, inner.C, inner.z)
        ctx.save_for_backward(total, rstd, None if repeated else y, states, conv, h0, *given)
        ctx.eps, ctx.dtype, ctx.hidden_dtype, ctx.has_residual = eps, dtype, hidden.dtype, residual is not None
        ctx.set_materialize_grads(False)
        return out, total, inner.last, h_last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dout: Tensor | None, dtotal: Tensor | None, dlast: Tensor | None, dh_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        total, rstd, y, states, conv, h0, *parameters = ctx.saved_tensors
        given = _Weights(*parameters)
        weights = _cast(given, ctx.dtype)
        dout = total.new_zeros(total.shape, dtype=ctx.dtype) if dout is None else dout
        wide = raw.normalise_again(total, weights.norm, ctx.eps, ctx.dtype)
        x, z, u, low, dt, B, C, _ = _inner(wide, conv, weights)
        A = -torch.exp(full_precision(given.A_log))
        dy = dout @ weights.out
        arguments = (
            dy, dh_last, u, dt, A, B, C, given.D, z, given.step_bias, h0, None, states, True, False,
        )  # fmt: skip
        if y is None:
            *gradients, y = raw.scan_backward_with_output(*arguments)
        else:
            gradients = list(raw.scan_backward(*arguments))
        du, ddt, dA, dB, dC, dD, dz, dbias, dh0 = gradients
        out = _over_tokens(dout, y)
        del y, z, dt, dy, arguments, gradients
        to_step, dlow = _over_tokens(ddt, low), ddt @ weights.to_step
        del ddt
        projected = torch.cat([dlow, dB, dC], dim=-1)
        to_scan = _over_tokens(projected, u)
        _add_product(du, projected, weights.to_scan)
        dx, dconv, dconv_bias, dstate = raw.convolve_backward(
            du, dlast, x, weights.conv.squeeze(1), weights.conv_bias, conv, True, False, None
        )
        del du
        to_x, to_z = weights.to_inner.chunk(2)
        dnormed = dx @ to_x
        _add_product(dnormed, dz, to_z)
        to_inner = torch.cat([_over_tokens(dx, wide), _over_tokens(dz, wide)])
        biased = given.to_inner_bias is not None
        to_inner_bias = torch.cat([dx.sum((0, 1)), dz.sum((0, 1))]) if biased else None
        dhidden, dresidual, dnorm = raw.normalise_backward(
            dnormed.to(ctx.hidden_dtype), dtotal, total, given.norm, rstd, ctx.hidden_dtype, ctx.has_residual
        )
        if ctx.has_residual and ctx.hidden_dtype == total.dtype:
            dresidual = dhidden
        slopes = _Weights(
            dnorm, to_inner, to_inner_bias, dconv.unsqueeze(1), dconv_bias, to_scan, to_step, dbias, dA * A, dD, out,
            None if given.out_bias is None else dout.sum((0, 1)),
        )  # fmt: skip
        own = [
            None if weight is None or slope is None else slope.to(weight.dtype)
            for weight, slope in zip(given, slopes, strict=True)
        ]
        return (
            None, None, dhidden, dresidual if ctx.has_residual else None, None if conv is None else dstate,
            None if h0 is None else dh0, *own,
        )  # fmt: skip
