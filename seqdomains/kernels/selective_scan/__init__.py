"""The selective scan: public function, torch.library registration, choice of implementation."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import (
    Implementation,
    backward_module,
    define_op,
    differentiate_op,
    forward_module,
    implementation,
    require_shape,
    widest,
)
from seqdomains.kernels.selective_scan.plan import states_shape

__all__ = ["selective_scan"]


@overload
def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    bias: Tensor | None = ...,
    *,
    softplus: bool = ...,
    h0: Tensor | None = ...,
    return_state: Literal[False] = ...,
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    bias: Tensor | None = ...,
    *,
    softplus: bool = ...,
    h0: Tensor | None = ...,
    return_state: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
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
    h0: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Run the selective state-space recurrence of Mamba over time.

    With :math:`d_t = \mathrm{softplus}(dt_t + bias)`, per channel and state number

    .. math:: h_t = e^{d_t A} h_{t-1} + d_t B_t u_t, \qquad y_t = (\sum_n C_{t,n} h_{t,n} + D u_t)\,\mathrm{SiLU}(z_t)

    (zero-order hold for A, Euler for B; arXiv:2312.00752, algorithm 2). Dtypes may be mixed freely: the arithmetic is
    float32, or float64 in the reference when any tensor is float64. All tensors, h0 and h_last have gradients; a
    second derivative is an error.

    Parameters
    ----------
    u : Tensor, shape (B, L, D)
        Input, channels last. L may be 0.
    dt : Tensor, shape (B, L, D)
        Step before bias and softplus.
    A : Tensor, shape (D, N)
        Continuous transition, real and negative.
    B, C : Tensor, shape (B, L, N)
        Input and output projections of each step.
    D : Tensor, shape (D,), optional
        Skip.
    z : Tensor, shape (B, L, D), optional
        Gate.
    bias : Tensor, shape (D,), optional
        Added to dt before softplus.
    softplus : bool, default True
        Whether the step is softplus(dt + bias) or dt + bias itself. A step of zero then leaves the state as it is.
    h0 : Tensor, shape (B, D, N), optional
        State before the first step; zero when absent.
    return_state : bool, default False
        Whether to return the state after the last step too.

    Returns
    -------
    Tensor or tuple of Tensor
        y, shape (B, L, D) in u's dtype; with `return_state` also h_last, shape (B, D, N), float32.

    Raises
    ------
    ValueError
        Shapes, dtypes or devices do not fit.
    ConfigError
        ``SEQDOMAINS_KERNELS`` asks for what cannot run here.

    Examples
    --------
    A state carried over a cut gives what one scan gives.

    >>> _ = torch.manual_seed(0)
    >>> u, dt, B, C = torch.randn(1, 9, 4), torch.randn(1, 9, 4), torch.randn(1, 9, 2), torch.randn(1, 9, 2)
    >>> A = -torch.rand(4, 2)
    >>> whole = selective_scan(u, dt, A, B, C)
    >>> left, h = selective_scan(u[:, :5], dt[:, :5], A, B[:, :5], C[:, :5], return_state=True)
    >>> right = selective_scan(u[:, 5:], dt[:, 5:], A, B[:, 5:], C[:, 5:], h0=h)
    >>> torch.allclose(whole, torch.cat([left, right], 1), atol=1e-6)
    True
    """
    _check(u, dt, A, B, C, D, z, bias, h0)
    if u.numel() == 0:
        y, h_last = _nothing(u, A, h0)
    else:
        y, h_last, _ = _scan(u, dt, A, B, C, D, z, bias, h0, softplus)
    return (y, h_last) if return_state else y


def _check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
) -> None:
    if u.dim() != 3 or A.dim() != 2 or A.shape[1] == 0:
        raise ValueError(
            "expected u of shape (B, L, D) and A of shape (D, N) with N > 0, "
            f"found {tuple(u.shape)} and {tuple(A.shape)}"
        )
    batch, length, channels = u.shape
    states = A.shape[1]
    expected: tuple[tuple[str, Tensor | None, tuple[int, ...]], ...] = (
        ("u", u, (batch, length, channels)),
        ("dt", dt, (batch, length, channels)),
        ("A", A, (channels, states)),
        ("B", B, (batch, length, states)),
        ("C", C, (batch, length, states)),
        ("D", D, (channels,)),
        ("z", z, (batch, length, channels)),
        ("bias", bias, (channels,)),
        ("h0", h0, (batch, channels, states)),
    )
    for name, tensor, shape in expected:
        require_shape(name, tensor, shape, u.device)


def _nothing(u: Tensor, A: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the scan of no steps: an empty y and the state as it came, connected to the inputs for autograd."""
    if h0 is not None:
        return u.clone(), h0.to(widest((u, A, h0)), copy=True)
    return u.clone(), u.new_zeros((u.shape[0], u.shape[2], A.shape[1]), dtype=widest((u, A)))


def _chosen(*tensors: Tensor | None) -> Implementation:
    return implementation("selective_scan", tensors[0].device, widest(tensors))  # type: ignore[union-attr]


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [tensor if tensor is None else tensor.contiguous() for tensor in tensors]


def _run(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    module = forward_module("selective_scan", _chosen(u, dt, A, B, C, D, z, bias, h0))
    result: tuple[Tensor, Tensor, Tensor] = module.forward(*_contiguous(u, dt, A, B, C, D, z, bias, h0), softplus)
    return result


def _fake(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (u, dt, A, B, C, D, z, bias, h0)
    batch, length, channels = u.shape
    dtype = widest(tensors)
    states = states_shape(batch, length, channels, A.shape[1], _chosen(*tensors))
    return (
        u.new_empty((batch, length, channels)),
        u.new_empty((batch, channels, A.shape[1]), dtype=dtype),
        u.new_empty(states, dtype=dtype),
    )


_scan = define_op(
    "selective_scan(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? bias, Tensor? h0, "
    "bool softplus) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


def _run_backward(
    dy: Tensor,
    dh_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    chunk_states: Tensor,
    softplus: bool,
) -> tuple[Tensor, ...]:
    module = backward_module("selective_scan", _chosen(u, dt, A, B, C, D, z, bias, h0))
    gradients = module.backward(*_contiguous(dy, dh_last, u, dt, A, B, C, D, z, bias, h0, chunk_states), softplus)
    # An op cannot return None: an absent input's gradient is an empty tensor, dropped again in _gradients.
    return tuple(u.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _fake_backward(
    dy: Tensor,
    dh_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    chunk_states: Tensor,
    softplus: bool,
) -> tuple[Tensor, ...]:
    inputs = (u, dt, A, B, C, D, z, bias, h0)
    return tuple(u.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape) for tensor in inputs)


_scan_backward = define_op(
    "selective_scan_backward(Tensor dy, Tensor? dh_last, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? bias, Tensor? h0, Tensor chunk_states, bool softplus) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, softplus = inputs
    ctx.softplus = softplus
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, dh_last: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, chunk_states = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(inputs[0])
    gradients = _scan_backward(dy, dh_last, *inputs, chunk_states, ctx.softplus)
    wanted = [None if tensor is None else gradient for tensor, gradient in zip(inputs, gradients, strict=True)]
    return (*wanted, None)


differentiate_op("selective_scan", _gradients, _save)
