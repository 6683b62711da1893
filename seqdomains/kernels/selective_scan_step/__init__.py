"""One step of the selective scan: public function, torch.library registration, choice of implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import chosen, contiguous, define_op, module_of, require_shape, widest

__all__ = ["selective_scan_step"]


def selective_scan_step(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    softplus: bool = True,
) -> Tensor:
    """Advance the recurrence of `selective_scan` by one step, in place.

    For inference: it has no gradient, and on a GPU is one launch that a CUDA graph can hold. Dtypes may be mixed.

    Parameters
    ----------
    state : Tensor, shape (B, D, N)
        The state before the step, which becomes the one after it. float32, or complex64 where A is complex; in double
        precision if any other tensor is. Contiguous memory is changed where it is, other memory through a copy.
    u, dt : Tensor, shape (B, D)
        Input, and step before bias and softplus.
    A : Tensor, shape (D, N)
        Continuous transition, real and negative, or complex with a negative real part.
    B, C : Tensor, shape (B, N), (B, G, N) or (D, N)
        Input and output projections: for all channels; for G groups of D / G neighbouring channels; or constant, of
        each channel. Each may be complex where A is. If batch and channels are equally many, (B, N) and (D, N) look
        alike and are refused: write (B, 1, N) or, of a constant one, ``expand(B, D, N)``.
    D : Tensor, shape (D,), optional
        Skip.
    z : Tensor, shape (B, D), optional
        Gate.
    bias : Tensor, shape (D,), optional
        Added to dt before softplus.
    softplus : bool, default True
        Whether the step is softplus(dt + bias) or dt + bias itself.

    Returns
    -------
    Tensor
        y, shape (B, D), in u's dtype.

    Raises
    ------
    ValueError
        Shapes, dtypes or devices do not fit.
    RuntimeError
        A tensor requires a gradient and gradients are on.
    ConfigError
        ``SEQDOMAINS_KERNELS`` asks for what cannot run here.

    Examples
    --------
    >>> from seqdomains.kernels import selective_scan
    >>> _ = torch.manual_seed(0)
    >>> u, dt, B, C = torch.randn(1, 9, 4), torch.randn(1, 9, 4), torch.randn(1, 9, 2), torch.randn(1, 9, 2)
    >>> A, state = -torch.rand(4, 2), torch.zeros(1, 4, 2)
    >>> y = [selective_scan_step(state, u[:, t], dt[:, t], A, B[:, t], C[:, t]) for t in range(9)]
    >>> torch.allclose(torch.stack(y, 1), selective_scan(u, dt, A, B, C), atol=1e-6)
    True
    """
    if u.dim() != 2 or A.dim() != 2 or A.shape[1] == 0:
        raise ValueError(
            f"expected u of shape (B, D) and A of shape (D, N) with N > 0, found {tuple(u.shape)} and {tuple(A.shape)}"
        )
    batch, channels = shape = tuple(u.shape)
    device, paired, N = u.device, A.is_complex(), A.shape[1]
    require_shape("u", u, shape, device)
    require_shape("dt", dt, shape, device)
    require_shape("A", A, (channels, N), device, paired=paired)
    B, C = (_projection(name, x, shape, N, device, paired=paired) for name, x in (("B", B), ("C", C)))
    if B.dim() == C.dim() == 3 and B.shape[1] != C.shape[1] and 1 not in (B.shape[1], C.shape[1]):
        raise ValueError(f"B has {B.shape[1]} groups and C has {C.shape[1]}, expected as many")
    require_shape("D", D, (channels,), device)
    require_shape("z", z, shape, device)
    require_shape("bias", bias, (channels,), device)
    require_shape("state", state, (batch, channels, N), device, paired=paired)
    tensors = (state, u, dt, A, B, C, D, z, bias)
    dtype = widest(tensors[1:])
    dtype = dtype.to_complex() if paired else dtype
    if state.dtype != dtype:
        raise ValueError(f"state has dtype {state.dtype}, expected {dtype}, which it is computed in")
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise RuntimeError(
            "selective_scan_step has no gradient; call it under torch.no_grad(), or selective_scan with L = 1 to train"
        )
    if u.numel() == 0:
        return u.clone()
    y: Tensor = _step(*tensors, softplus)
    return y


def _projection(
    name: str, projection: Tensor, shape: tuple[int, ...], N: int, device: torch.device, *, paired: bool
) -> Tensor:
    """Return B or C as groups of (B, G, N), or as a constant of (D, N)."""
    batch, channels = shape
    if projection.is_complex() and not paired:
        raise ValueError(f"{name} is complex and A is real: a complex B or C needs a complex A")
    if projection.dim() == 3:
        groups = projection.shape[1]
        if groups == 0 or channels % groups:
            raise ValueError(f"{name} has {groups} groups, which do not divide the {channels} channels of u")
        expected: tuple[int, ...] = (batch, groups, N)
    elif projection.shape in ((batch, N), (channels, N)):
        if batch == channels:
            raise ValueError(
                f"{name} has shape {tuple(projection.shape)}, which may be (B, N) or (D, N) here: write (B, 1, N) for "
                "a value per batch row, or expand(B, D, N) of a value per channel"
            )
        expected = tuple(projection.shape)
    else:
        raise ValueError(
            f"{name} has shape {tuple(projection.shape)}, expected (B, N), (B, G, N) or (D, N) "
            f"with B, D, N = {(batch, channels, N)}"
        )
    require_shape(name, projection, expected, device, paired=projection.is_complex())
    return projection[:, None] if expected == (batch, N) else projection


def _run(state: Tensor, *arguments: Any) -> Tensor:
    *tensors, softplus = arguments
    module = module_of("selective_scan_step", chosen("selective_scan_step", (state, *tensors)), "forward")
    work = state.contiguous()
    y: Tensor = module.forward(work, *contiguous(tensors), softplus)
    if work is not state:
        state.copy_(work)
    elif not state.is_inference():
        # The kernels write past torch, which then would not know that what autograd kept has changed.
        torch.autograd.graph.increment_version(state)
    return y


def _fake(state: Tensor, u: Tensor, *arguments: Any) -> Tensor:
    return u.new_empty(u.shape)


_step = define_op(
    "selective_scan_step(Tensor(a!) state, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? bias, bool softplus) -> Tensor",
    _run,
    _fake,
)
