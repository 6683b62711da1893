"""The selective scan: public function, torch.library registration, choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import (
    Implementation,
    chosen,
    contiguous,
    define_op,
    gradients_like,
    module_of,
    of_present,
    require_borders,
    require_order,
    require_shape,
    widest,
    without_none,
)
from seqdomains.kernels.eager import backward_of, differentiable
from seqdomains.kernels.selective_scan import fast_path
from seqdomains.kernels.selective_scan.plan import Enter, states_shape

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
    reverse: bool = ...,
    cu_seqlens: Tensor | None = ...,
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
    reverse: bool = ...,
    cu_seqlens: Tensor | None = ...,
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
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Run the selective state-space recurrence of Mamba over time.

    With :math:`d_t = \mathrm{softplus}(dt_t + bias)`, per channel and state number

    .. math:: h_t = e^{d_t A} h_{t-1} + d_t B_t u_t, \qquad y_t = (\sum_n C_{t,n} h_{t,n} + D u_t)\,\mathrm{SiLU}(z_t)

    (zero-order hold for A, Euler for B; arXiv:2312.00752, algorithm 2). A complex state stands for itself and its
    conjugate, as in S4D (arXiv:2206.11893): the sum over n is then :math:`2\,\mathrm{Re} \sum_n C_{t,n} h_{t,n}`.
    Dtypes may be mixed freely: the arithmetic is in single precision, or double in the reference when any tensor is
    double. All tensors, h0 and h_last have gradients, complex ones as torch defines them; a second derivative is an
    error.

    Parameters
    ----------
    u : Tensor, shape (B, L, D)
        Input, channels last. L may be 0.
    dt : Tensor, shape (B, L, D)
        Step before bias and softplus.
    A : Tensor, shape (D, N)
        Continuous transition, real and negative, or complex with a negative real part.
    B, C : Tensor, shape (B, L, N), (B, L, G, N) or (D, N)
        Input and output projections: of each step for all channels; of each step for G groups of D / G neighbouring
        channels; or constant in time, of each channel. B and C may differ in form. Each may be complex where A is.
        Groups of fewer than 16 channels leave lanes of a CPU's vectors idle: 23 times the time for groups of one.
    D : Tensor, shape (D,), optional
        Skip.
    z : Tensor, shape (B, L, D), optional
        Gate.
    bias : Tensor, shape (D,), optional
        Added to dt before softplus.
    softplus : bool, default True
        Whether the step is softplus(dt + bias) or dt + bias itself. A step of zero then leaves the state as it is.
    h0 : Tensor, shape (B, D, N) or (S, D, N), optional
        State before the first step that is processed, complex as A is; zero when absent.
    return_state : bool, default False
        Whether to return the state after the last step that is processed too.
    reverse : bool, default False
        Whether to run from the last step to the first, as if all were flipped in time, scanned and flipped back. h0
        then is the state after step L - 1, and h_last that of step 0.
    cu_seqlens : Tensor, shape (S + 1,), int32 or int64, optional
        Where S packed sequences begin and the last one ends, from 0 to L, on u's device; B is then 1, and h0 and
        h_last have shape (S, D, N). Sequences don't see each other and may be empty. The values are checked on a CPU
        only: a GPU would have to be waited for.

    Returns
    -------
    Tensor or tuple of Tensor
        y, shape (B, L, D) in u's dtype; with `return_state` also h_last, shape (B, D, N) or (S, D, N), float32 or
        complex64 as A is.

    Raises
    ------
    ValueError
        Shapes, dtypes, devices or the borders of the sequences do not fit.
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

    Two packed sequences of five and four steps, from the last step to the first, with states that oscillate.

    >>> A = torch.complex(A, torch.ones(4, 2))
    >>> packed = selective_scan(u, dt, A, B, C, reverse=True, cu_seqlens=torch.tensor([0, 5, 9]))
    >>> first = selective_scan(*(x[:, :5].flip(1) for x in (u, dt)), A, *(x[:, :5].flip(1) for x in (B, C)))
    >>> torch.allclose(packed[:, :5], first.flip(1), atol=1e-6)
    True
    """
    _check(u, dt, A, B, C, D, z, bias, h0, cu_seqlens)
    if u.numel() == 0:
        y, h_last = _nothing(u, A, h0, cu_seqlens)
    else:
        y, h_last, _ = _scan(u, dt, A, B, C, D, z, bias, h0, cu_seqlens, softplus, reverse)
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
    cu_seqlens: Tensor | None,
) -> None:
    if u.dim() != 3 or A.dim() != 2 or A.shape[1] == 0:
        raise ValueError(
            "expected u of shape (B, L, D) and A of shape (D, N) with N > 0, "
            f"found {tuple(u.shape)} and {tuple(A.shape)}"
        )
    batch, _, channels = shape = tuple(u.shape)
    device, paired, N = u.device, A.is_complex(), A.shape[1]
    sequences = batch
    if cu_seqlens is not None:
        require_borders(cu_seqlens, batch, device)
        sequences = cu_seqlens.shape[0] - 1
    require_shape("u", u, shape, device)
    require_shape("dt", dt, shape, device)
    require_shape("A", A, (channels, N), device, paired=paired)
    _require_projections(B, C, shape, N, device, paired=paired)
    require_shape("D", D, (channels,), device)
    require_shape("z", z, shape, device)
    require_shape("bias", bias, (channels,), device)
    require_shape("h0", h0, (sequences, channels, N), device, paired=paired)


def _require_projections(
    B: Tensor, C: Tensor, shape: tuple[int, ...], N: int, device: torch.device, *, paired: bool
) -> None:
    batch, length, channels = shape
    for name, tensor in (("B", B), ("C", C)):
        if tensor.dim() == 3:
            expected: tuple[int, ...] = (batch, length, N)
        elif tensor.dim() == 4:
            groups = tensor.shape[2]
            if groups == 0 or channels % groups:
                raise ValueError(f"{name} has {groups} groups, which do not divide the {channels} channels of u")
            expected = (batch, length, groups, N)
        elif tensor.dim() == 2:
            expected = (channels, N)
        else:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected (B, L, N), (B, L, G, N) or (D, N) "
                f"with B, L, D, N = {(*shape, N)}"
            )
        if tensor.is_complex() and not paired:
            raise ValueError(f"{name} is complex and A is real: a complex B or C needs a complex A")
        require_shape(name, tensor, expected, device, paired=tensor.is_complex())
    if B.dim() == C.dim() == 4 and B.shape[2] != C.shape[2]:
        raise ValueError(f"B has {B.shape[2]} groups and C has {C.shape[2]}, expected as many")


def _nothing(u: Tensor, A: Tensor, h0: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the scan of no steps: an empty y and the state as it came, connected to the inputs for autograd."""
    if cu_seqlens is not None and not torch.compiler.is_compiling():
        require_order(cu_seqlens, u.shape[1])
    dtype = _state_dtype((u, A, h0), A)
    if h0 is not None:
        return u.clone(), h0.to(dtype, copy=True)
    return u.clone(), u.new_zeros((_sequences(u, cu_seqlens), u.shape[2], A.shape[1]), dtype=dtype)


def _sequences(u: Tensor, cu_seqlens: Tensor | None) -> int:
    return u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _state_dtype(tensors: Sequence[Tensor | None], A: Tensor) -> torch.dtype:
    dtype = widest(tensors)
    return dtype.to_complex() if A.is_complex() else dtype


def _run(*arguments: Any, enter: Enter = None) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, cu_seqlens, softplus, reverse = arguments
    if cu_seqlens is not None:
        require_order(cu_seqlens, tensors[0].shape[1])
    options = _as_part(tensors, cu_seqlens, enter, reverse=reverse)
    name = chosen("selective_scan", tensors)
    given = contiguous((*tensors, cu_seqlens))
    result: tuple[Tensor, Tensor, Tensor] | None = None
    if name == "triton" and (fast := fast_path.choose(*_deciding(tensors), cu_seqlens)) is not None:
        run = partial(fast.forward, **options)
        result = fast_path.attempt(run, *given[:-1], softplus, reverse, index=tensors[0].get_device())
    if result is None:
        result = module_of("selective_scan", name, "forward").forward(*given, softplus, reverse, **options)
    return result


def _as_part(tensors: Sequence[Any], cu_seqlens: Tensor | None, enter: Enter, *, reverse: bool) -> dict[str, Any]:
    """Return the keywords of an implementation for a part of a scan, none for a whole one."""
    if enter is None:
        return {}
    _, A, B, C = _deciding(tensors)
    if A.is_complex() or B.dim() != 3 or C.dim() != 3 or cu_seqlens is not None or reverse:
        raise ValueError("a part of a scan needs real A, B and C (B, L, N), and the order of time, not packed")
    return {"enter": enter}


def _deciding(tensors: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u, A, B, C, which decide on the fast path."""
    u, _, A, B, C = tensors[:5]
    return u, A, B, C


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, cu_seqlens, _, _ = arguments
    u, A = tensors[0], tensors[2]
    name, dtype = chosen("selective_scan", tensors), _state_dtype(tensors, A)
    fast = name == "triton" and fast_path.choose(*_deciding(tensors), cu_seqlens) is not None
    stored = torch.float32 if name == "cpu" and A.is_complex() else dtype
    if name == "triton" and not all(isinstance(size, int) for size in u.shape):
        # How many chunks there are is a search over numbers: a size that is not known fits all lengths, where one that
        # is would compile the graph again for each.
        states: tuple[Any, ...] = (u.shape[0], torch.library.get_ctx().new_dynamic_size(min=0), u.shape[2], A.shape[1])
    else:
        states = _states(name, u, A, cu_seqlens, portable=not fast)
    return (
        u.new_empty(u.shape),
        u.new_empty((_sequences(u, cu_seqlens), u.shape[2], A.shape[1]), dtype=dtype),
        u.new_empty(states, dtype=stored),
    )


def _states(
    name: Implementation, u: Tensor, A: Tensor, cu_seqlens: Tensor | None, *, portable: bool
) -> tuple[int, int, int, int]:
    """Return the shape of the states that the forward of an implementation stores."""
    # On a CPU real and imaginary parts have rows of their own; complex states on a GPU have the fast kernels' chunks.
    rows = 2 * A.shape[1] if name == "cpu" and A.is_complex() else A.shape[1]
    batch, length, channels = u.shape
    portable = portable and not A.is_complex()
    sequences = _sequences(u, cu_seqlens)
    return states_shape(batch, length, channels, rows, name, sequences=sequences, portable=portable)


_op = define_op(
    "selective_scan(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? bias, Tensor? h0, "
    "Tensor? cu_seqlens, bool softplus, bool reverse) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


def _run_backward(dy: Tensor, dh_last: Tensor | None, *arguments: Any, enter: Enter = None) -> tuple[Tensor, ...]:
    return _backward(dy, dh_last, None, *arguments, enter=enter)


def _repeats_output(u: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> bool:
    """Whether the backward pass makes y again anyway, and writes it if asked to: then nobody has to keep it."""
    fast = chosen("selective_scan", (u, A, B, C, z)) == "triton" and fast_path.choose(u, A, B, C, None) is not None
    return fast and z is not None


def _run_backward_with_output(
    dy: Tensor, dh_last: Tensor | None, *arguments: Any, enter: Enter = None
) -> tuple[Tensor, ...]:
    """Return the gradients and y; see `_repeats_output`."""
    y = torch.empty_like(arguments[0], memory_format=torch.contiguous_format)
    return (*_backward(dy, dh_last, y, *arguments, enter=enter), y)


def _backward(
    dy: Tensor, dh_last: Tensor | None, y: Tensor | None, *arguments: Any, enter: Enter = None
) -> tuple[Tensor, ...]:
    """Return the gradients; where `y` is given, y is written into it again."""
    *inputs, cu_seqlens, chunk_states, softplus, reverse = arguments
    options = _as_part(inputs, cu_seqlens, enter, reverse=reverse)
    name = chosen("selective_scan", inputs)
    u, A = inputs[0], inputs[2]
    given: Any = contiguous((dy, dh_last, *inputs, cu_seqlens, chunk_states))
    dy, dh_last, *inputs, cu_seqlens, chunk_states = given
    gradients: Sequence[Tensor | None] | None = None
    fast = fast_path.choose(*_deciding(inputs), cu_seqlens) if name == "triton" else None
    if fast is not None and chunk_states.shape == _states(name, u, A, cu_seqlens, portable=False):
        run = partial(fast.backward, y=y, **options)
        gradients = fast_path.attempt(run, dy, dh_last, *inputs, chunk_states, softplus, reverse, index=u.get_device())
    if gradients is None:
        if y is not None:
            # The fast kernels did the forward, and have failed to compile since.
            y.copy_(_run(*inputs, cu_seqlens, softplus, reverse)[0])
        if name != "reference" and chunk_states.shape != _states(name, u, A, cu_seqlens, portable=True):
            # Other kernels ran the forward: the variable was changed, or the fast ones compiled in one direction only.
            forward = module_of("selective_scan", name, "forward").forward
            chunk_states = forward(*inputs, cu_seqlens, softplus, reverse)[2]
        backward = module_of("selective_scan", name, "backward").backward
        gradients = backward(dy, dh_last, *inputs, cu_seqlens, chunk_states, softplus, reverse, **options)
    return without_none(gradients, dy)


def _fake_backward(dy: Tensor, dh_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, _, _, _, _ = arguments
    return gradients_like(inputs)


_op_backward = define_op(
    "selective_scan_backward(Tensor dy, Tensor? dh_last, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? bias, Tensor? h0, Tensor? cu_seqlens, Tensor chunk_states, bool softplus, bool reverse) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
_scan_backward = backward_of("selective_scan", _op_backward, _run_backward)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, softplus, reverse = inputs
    ctx.softplus, ctx.reverse = softplus, reverse
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, dh_last: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, cu_seqlens, chunk_states = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(inputs[0])
    gradients = _scan_backward(dy, dh_last, *inputs, cu_seqlens, chunk_states, ctx.softplus, ctx.reverse)
    return (*of_present(inputs, gradients), None, None, None)


_scan = differentiable("selective_scan", _op, _run, _save, _gradients, fast_path.eagerly)
