"""The selective scan: public function, torch.library registration, choice of implementation."""

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
    widest,
    without_none,
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


def _run(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, softplus = arguments
    module = module_of("selective_scan", chosen("selective_scan", tensors), "forward")
    result: tuple[Tensor, Tensor, Tensor] = module.forward(*contiguous(tensors), softplus)
    return result


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, _ = arguments
    u, _, A = tensors[:3]
    (batch, length, channels), N = u.shape, A.shape[1]
    dtype = widest(tensors)
    states = states_shape(batch, length, channels, N, chosen("selective_scan", tensors))
    return (
        u.new_empty(u.shape),
        u.new_empty((batch, channels, N), dtype=dtype),
        u.new_empty(states, dtype=dtype),
    )


_scan = define_op(
    "selective_scan(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? bias, Tensor? h0, "
    "bool softplus) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


def _run_backward(dy: Tensor, dh_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, chunk_states, softplus = arguments
    module = module_of("selective_scan", chosen("selective_scan", inputs), "backward")
    gradients = module.backward(*contiguous((dy, dh_last, *inputs, chunk_states)), softplus)
    return without_none(gradients, dy)


def _fake_backward(dy: Tensor, dh_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, _, _ = arguments
    return gradients_like(inputs)


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
    return (*of_present(inputs, gradients), None)


differentiate_op("selective_scan", _gradients, _save)
