"""One residual block as a single autograd function that keeps little and computes the rest again.

Kept of each token is the residual stream, and the scan's states at the borders of its chunks: a fifth of what a block
built of ops keeps. What lies between is computed again in the backward pass: the norm, a projection, the convolution
and two small projections. The scan is not run again: the fast kernels go through all states in the backward pass
anyway, and write its output on the way; where other kernels run, the output is kept too. Gradients that meet are added
by the products that make them.

Where ranks share a sequence, what the ranks before have told is kept too, a few kilobytes, and the backward pass asks
them for gradients alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqdomains.backbone.mixer import MambaMixer
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.sequence_parallel import KeptOfScan, SequenceShard
from seqdomains.backbone.state import LayerState
from seqdomains.kernels import raw


class _Outer(NamedTuple):
    """Parameters of a block that its directions share; the biases of the projections may be absent."""

    norm: Tensor
    to_inner: Tensor
    to_inner_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None


class _Path(NamedTuple):
    """Parameters of one direction."""

    conv: Tensor
    conv_bias: Tensor | None
    to_scan: Tensor
    to_step: Tensor
    step_bias: Tensor
    A_log: Tensor
    D: Tensor


class _Inner(NamedTuple):
    """What is computed again of one direction: the convolution's output, and what the scan takes."""

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
    shard: SequenceShard | None = None,
    padding: Tensor | None = None,
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
    outer = _Outer(norm_weight, mixer.in_proj.weight, mixer.in_proj.bias, mixer.out_proj.weight, mixer.out_proj.bias)
    paths = [
        _Path(
            path.conv1d.weight, path.conv1d.bias, path.x_proj.weight, path.dt_proj.weight, path.dt_proj.bias,
            path.A_log, path.D,
        )
        for path in mixer.paths
    ]  # fmt: skip
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    conv, ssm = (None, None) if state is None else (state.conv.to(dtype), state.ssm)
    with torch.autocast(device, enabled=False):
        out, total, last, h_last = _LeanBlock.apply(
            eps, dtype, padding, shard, hidden, residual, conv, ssm, *outer, *(one for path in paths for one in path)
        )
    return out, total, LayerState(last, h_last)


def _project(normed: Tensor, outer: _Outer, *, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what the directions share: the convolutions' input and the gate."""
    to_x, to_z = outer.to_inner.chunk(2)
    x, z = normed @ to_x.t(), normed @ to_z.t()
    if outer.to_inner_bias is not None:
        bias_x, bias_z = outer.to_inner_bias.chunk(2)
        x, z = x.add_(bias_x), z.add_(bias_z)
    return x if padding is None else x.masked_fill_(padding, 0), z


def _inner(x: Tensor, conv: Tensor | None, path: _Path, *, reverse: bool, padding: Tensor | None) -> _Inner:
    u, last = raw.convolve(x, path.conv.squeeze(1), path.conv_bias, conv, True, reverse, return_state=True)
    if reverse and padding is not None:
        u = u.masked_fill_(padding, 0)
    rank = path.to_step.shape[1]
    states = (path.to_scan.shape[0] - rank) // 2
    low, B, C = torch.split(u @ path.to_scan.t(), [rank, states, states], dim=-1)
    return _Inner(u, low, low @ path.to_step.t().contiguous(), B.contiguous(), C.contiguous(), last)


def _split(parameters: Sequence[Tensor | None]) -> tuple[_Outer, list[_Path]]:
    first, width = len(_Outer._fields), len(_Path._fields)
    paths = [parameters[start : start + width] for start in range(first, len(parameters), width)]
    return _Outer(*parameters[:first]), [_Path(*path) for path in paths]  # type: ignore[arg-type]


def _cast_outer(outer: _Outer, dtype: torch.dtype) -> _Outer:
    """Return the weights of products in their precision; those of the kernels stay as they are."""
    return outer._replace(
        to_inner=outer.to_inner.to(dtype),
        to_inner_bias=None if outer.to_inner_bias is None else outer.to_inner_bias.to(dtype),
        out=outer.out.to(dtype),
        out_bias=None if outer.out_bias is None else outer.out_bias.to(dtype),
    )


def _cast_path(path: _Path, dtype: torch.dtype) -> _Path:
    return path._replace(to_scan=path.to_scan.to(dtype), to_step=path.to_step.to(dtype))


def _decay(path: _Path) -> Tensor:
    return -torch.exp(full_precision(path.A_log))


def _over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """Return the gradient of a weight whose products have the gradient `a` and the input `b`."""
    return a.flatten(0, 1).t() @ b.flatten(0, 1)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product of `a` and `b` to `total`."""
    total.view(-1, total.shape[-1]).addmm_(a.reshape(-1, a.shape[-1]), b)


def _path_gradients(
    path: _Path,
    held: list[Tensor],
    conv: Tensor | None,
    kept: KeptOfScan,
    dout: Tensor,
    dlast: Tensor | None,
    dh_last: Tensor | None,
    *,
    to_out: Tensor,
    repeated: bool,
    reverse: bool,
    last: bool,
    padding: Tensor | None,
    shard: SequenceShard | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, _Path]:
    """Return the gradients of a direction's input, gate and two states, its share in the output's, its parameters'.

    `held` are the input and the gate, which the `last` direction lets go of as soon as it can. The share is None where
    the output is kept. With `shard`, `conv` is what entered this rank's part.
    """
    x, z = held
    if last:
        held.clear()
    cast = _cast_path(path, to_out.dtype)
    u, low, dt, B, C, _ = _inner(x, conv, cast, reverse=reverse, padding=padding)
    A, dy = _decay(path), dout @ to_out
    inputs = (u, dt, A, B, C, path.D, z, path.step_bias)
    if shard is None:
        backward = raw.scan_backward_with_output if repeated else raw.scan_backward
        found = backward(dy, dh_last, *inputs, kept.entering, None, kept.states, True, reverse)
    else:
        found = shard.run_scan_back(dy, dh_last, inputs, kept, output=repeated)
    du, ddt, dA, dB, dC, dD, dz, dbias, dh0, *again = found
    out = _over_tokens(dout, again[0]) if repeated else None
    del z, dt, dy, inputs, found, again
    to_step, dlow = _over_tokens(ddt, low), ddt @ cast.to_step
    del ddt
    projected = torch.cat([dlow, dB, dC], dim=-1)
    to_scan = _over_tokens(projected, u)
    _add_product(du, projected, cast.to_scan)
    if reverse and padding is not None:
        du = du.masked_fill_(padding, 0)
    dx, dconv, dconv_bias, dstate = raw.convolve_backward(
        du, dlast if shard is None else None, x, path.conv.squeeze(1), path.conv_bias, conv, True, reverse, None
    )
    if shard is not None:
        dstate = shard.tails_back(dx, dstate, dlast)
    return dx, dz, dstate, dh0, out, _Path(dconv.unsqueeze(1), dconv_bias, to_scan, to_step, dbias, dA * A, dD)


class _LeanBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        eps: float,
        dtype: torch.dtype,
        padding: Tensor | None,
        shard: SequenceShard | None,
        hidden: Tensor,
        residual: Tensor | None,
        conv: Tensor | None,
        h0: Tensor | None,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given, paths = _split(parameters)
        # With one direction nothing behind a position reaches it, padding or not.
        padding = padding if len(paths) > 1 else None
        outer = _cast_outer(given, dtype)
        normed, total, rstd = raw.normalise(hidden, outer.norm, residual, eps)
        x, z = _project(normed.to(dtype), outer, padding=padding)
        ctx.began = conv is not None, h0 is not None
        shared_last = None
        if shard is not None:
            conv, shared_last = shard.tails(x, conv, paths[0].conv.shape[2] - 1)
        found, kept = [], []
        for number, path in enumerate(paths):
            reverse = number > 0
            inner = _inner(x, None if reverse else conv, _cast_path(path, dtype), reverse=reverse, padding=padding)
            inputs = (inner.u, inner.dt, _decay(path), inner.B, inner.C, path.D, z, path.step_bias)
            if shard is None:
                y, h_last, states = raw.scan(*inputs, None if reverse else h0, None, True, reverse)
                kept.append(KeptOfScan(states, None if reverse else h0, None))
            else:
                y, h_last, of_scan = shard.run_scan(inputs, h0)
                kept.append(of_scan)
            found.append((y, inner.last, h_last))
        y, last, h_last = found[0]
        last = last if shared_last is None else shared_last
        for other, _, _ in found[1:]:
            y = y.add_(other)
        out = y @ outer.out.t()
        if outer.out_bias is not None:
            out += outer.out_bias
        repeated = raw.scan_repeats_output(inner.u, _decay(paths[0]), inner.B, inner.C, z)
        of_scans = [one for of_scan in kept for one in of_scan]
        ctx.save_for_backward(total, rstd, None if repeated else y, conv, padding, *of_scans, *parameters)
        ctx.dtype, ctx.hidden_dtype, ctx.has_residual, ctx.paths = dtype, hidden.dtype, residual is not None, len(paths)
        ctx.eps, ctx.shard = eps, shard
        ctx.set_materialize_grads(False)
        return out, total, last, h_last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dout: Tensor | None, dtotal: Tensor | None, dlast: Tensor | None, dh_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        total, rstd, y, conv, padding, *rest = ctx.saved_tensors
        width = len(KeptOfScan._fields)
        kept = [KeptOfScan(*rest[width * path : width * (path + 1)]) for path in range(ctx.paths)]
        parameters = rest[width * ctx.paths :]
        given, paths = _split(parameters)
        outer = _cast_outer(given, ctx.dtype)
        dout = total.new_zeros(total.shape, dtype=ctx.dtype) if dout is None else dout
        wide = raw.normalise_again(total, outer.norm, ctx.eps, ctx.dtype)
        held = list(_project(wide, outer, padding=padding))
        repeated, both = y is None, ctx.paths > 1
        dx, dz, dstate, dh0, out, first = _path_gradients(
            paths[0], held, conv, kept[0], dout, dlast, dh_last,
            to_out=outer.out, repeated=repeated, reverse=False, last=not both, padding=padding, shard=ctx.shard,
        )  # fmt: skip
        slopes: list[Tensor | None] = [*first]
        if both:
            more_x, more_z, _, _, more_out, second = _path_gradients(
                paths[1], held, None, kept[1], dout, None, None,
                to_out=outer.out, repeated=repeated, reverse=True, last=True, padding=padding, shard=None,
            )  # fmt: skip
            dx, dz, slopes = dx.add_(more_x), dz.add_(more_z), [*slopes, *second]
            out = None if out is None or more_out is None else out.add_(more_out)
        out = _over_tokens(dout, y) if out is None else out
        del y
        if padding is not None:
            dx = dx.masked_fill_(padding, 0)
        to_x, to_z = outer.to_inner.chunk(2)
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
        own_outer = _Outer(dnorm, to_inner, to_inner_bias, out, None if given.out_bias is None else dout.sum((0, 1)))
        own = [
            None if weight is None or slope is None else slope.to(weight.dtype)
            for weight, slope in zip(parameters, [*own_outer, *slopes], strict=True)
        ]
        return (
            None, None, None, None, dhidden, dresidual if ctx.has_residual else None,
            dstate if ctx.began[0] else None, dh0 if ctx.began[1] else None, *own,
        )  # fmt: skip
