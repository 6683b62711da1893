"""The inside of a Mamba block from the first projection's output to the last one's, in the official signature."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from seqdomains.kernels.causal_conv1d import causal_conv1d
from seqdomains.kernels.compat.scan import channels_last, pairs, projection
from seqdomains.kernels.rms_norm import rms_norm
from seqdomains.kernels.selective_scan import selective_scan


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: Literal[0, 1] = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Convolve, project, scan, gate and project out, in the signature of `mamba_ssm`.

    All tensors have gradients, the output's bias and the norms' weights included. Under autocast the projections run
    in its dtype. A is complex where states come in conjugate pairs (S4D, arXiv:2206.11893).

    Parameters
    ----------
    xz : Tensor, shape (batch, 2 dim, L)
        Input of the convolution, then the gate.
    conv1d_weight : Tensor, shape (dim, 1, W)
        Filters; W is 2, 3 or 4.
    conv1d_bias : Tensor, shape (dim,), or None
        Added before SiLU.
    x_proj_weight : Tensor, shape (R + 2N, dim), or (R + 4N, dim) where A is complex
        Gives the step's R numbers, B and C. Those that are given below have no rows here.
    delta_proj_weight : Tensor, shape (dim, R)
        Gives the step.
    out_proj_weight : Tensor, shape (width, dim)
        Last projection.
    out_proj_bias : Tensor, shape (width,), or None
        Its bias.
    A : Tensor, shape (dim, N)
        Continuous transition, real or complex.
    B, C : Tensor, optional
        As `selective_scan_fn` takes them, in place of those that x_proj gives.
    D, delta_bias : Tensor, shape (dim,), optional
        Skip, and what is added to the step.
    B_proj_bias, C_proj_bias : Tensor, shape (N,) or (2N,), optional
        Added to B and C that x_proj gives.
    delta_softplus : bool, default True
        Whether the step is softplus(delta + delta_bias).
    checkpoint_lvl : {0, 1}, default 1
        1 computes all between xz and the scan again in the backward pass, so that the convolution's output and the step
        are not kept; the scan is never run twice. 0 keeps them.
    b_rms_weight, c_rms_weight : Tensor, shape (N,), optional
        Weights of root-mean-square norms (arXiv:1910.07467) over B and C that x_proj gives, as Falcon-Mamba has.
    dt_rms_weight : Tensor, shape (dim,), optional
        The same over the step, after its projection.
    b_c_dt_rms_eps : float, default 1e-6
        Added to the mean squares.

    Returns
    -------
    Tensor, shape (batch, L, width)
        Channels last, as the official function returns it.

    Raises
    ------
    ValueError
        Shapes, dtypes, devices or `checkpoint_lvl` do not fit.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> dim, N, R, width = 4, 2, 1, 3
    >>> xz, conv, x_proj = torch.randn(1, 2 * dim, 7), torch.randn(dim, 1, 4), torch.randn(R + 2 * N, dim)
    >>> dt_proj, out_proj, A = torch.randn(dim, R), torch.randn(width, dim), -torch.rand(dim, N)
    >>> mamba_inner_fn(xz, conv, None, x_proj, dt_proj, out_proj, None, A).shape
    torch.Size([1, 7, 3])
    """
    if checkpoint_lvl not in (0, 1):
        raise ValueError(f"checkpoint_lvl is {checkpoint_lvl!r}, expected 0 or 1")
    if xz.dim() != 3 or xz.shape[1] != 2 * A.shape[0]:
        raise ValueError(
            f"xz has shape {tuple(xz.shape)}, expected (batch, 2 dim, L) with dim = {A.shape[0]} as A has rows"
        )
    x, z = channels_last(xz).chunk(2, dim=-1)
    arguments: tuple[Any, ...] = (
        *(x, z, conv1d_weight.squeeze(1), conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias),
        *(B_proj_bias, C_proj_bias, delta_softplus, b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps),
    )
    if checkpoint_lvl == 0:
        y = _gated(*arguments)
    else:
        y = checkpoint(
            _gated, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=_keep_results_of_scan
        )
    # Callers keep the bias in fp32 beside half-precision weights; a product wants both in one dtype.
    bias = None if out_proj_bias is None else out_proj_bias.to(out_proj_weight.dtype)
    return linear(y, out_proj_weight, bias)


def _keep_results_of_scan() -> Any:
    """Run the scan once: its output, which the last projection keeps anyway, and its chunk states are few bytes."""
    contexts: Any = create_selective_checkpoint_contexts
    return contexts([torch.ops.seqdomains.selective_scan.default])


def _gated(
    x: Tensor,
    z: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor | None,
    delta_bias: Tensor | None,
    B_proj_bias: Tensor | None,
    C_proj_bias: Tensor | None,
    delta_softplus: bool,
    b_rms_weight: Tensor | None,
    c_rms_weight: Tensor | None,
    dt_rms_weight: Tensor | None,
    eps: float,
) -> Tensor:
    paired = A.is_complex()
    rank, numbers = delta_proj_weight.shape[1], A.shape[1] * (2 if paired else 1)
    u = causal_conv1d(x, conv1d_weight, conv1d_bias, activation="silu")
    projected = linear(u, x_proj_weight)
    # The product with a contiguous transpose of this small matrix is faster on a CPU.
    delta = projected[..., :rank] @ delta_proj_weight.t().contiguous()
    if dt_rms_weight is not None:
        delta = rms_norm(delta, dt_rms_weight, eps=eps)

    def of_each_step(values: Tensor, bias: Tensor | None, norm: Tensor | None) -> Tensor:
        values = values if bias is None else values + bias.to(values.dtype)
        values = values if norm is None else rms_norm(values, norm, eps=eps)
        return pairs(values) if paired else values

    if B is None:
        B = of_each_step(projected[..., rank : rank + numbers], B_proj_bias, b_rms_weight)
    else:
        B = projection("B", B, paired=paired)
    if C is None:
        C = of_each_step(projected[..., -numbers:], C_proj_bias, c_rms_weight)
    else:
        C = projection("C", C, paired=paired)
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, softplus=delta_softplus)
