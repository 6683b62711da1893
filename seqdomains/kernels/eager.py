"""Run an op without torch's dispatcher, which costs the host more than a short scan takes on a GPU.

An op of torch.library is what `torch.compile` and `torch.export` understand, and its gradient goes through several
layers of Python. Where nothing looks on, a plain `torch.autograd.Function` around the same bodies does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from seqdomains.kernels.dispatch import chosen, differentiate_op

_PLAIN = frozenset((Tensor, Parameter))


def watched(tensors: Iterable[Tensor]) -> bool:
    """Whether something would miss an op that runs without the dispatcher: a tracer, a transform or a mode."""
    return (
        torch.compiler.is_compiling()
        or not _PLAIN.issuperset(map(type, tensors))
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
    )


def differentiable(
    name: str,
    op: Callable[..., Any],
    run: Callable[..., Any],
    save: Callable[..., None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
    fast: Callable[[tuple[Any, ...]], Any] = lambda _: None,
) -> Callable[..., Any]:
    """Register the gradient of an op, and return what runs it: in eager mode its body, else the op.

    Parameters
    ----------
    name : str
        The op's, among `dispatch.OPS`.
    op, run : callable
        The op and its body, whose first argument is a tensor.
    save, gradients : callable
        Its ``setup_context`` and ``backward``, as `torch.library.register_autograd` takes them.
    fast : callable, optional
        Runs a call of the Triton kernels in eager mode in a way of its own, or returns None.
    """
    differentiate_op(name, gradients, save)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = run(*arguments)
            save(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return gradients(ctx, *cotangents)

    def call(*arguments: Any) -> Any:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if not torch.compiler.is_compiling() and forward_ad._current_level >= 0:
            raise RuntimeError(
                f"seqdomains::{name} has no forward-mode derivative, and would pass for a constant; differentiate "
                f"backwards, or seqdomains.kernels.{name}.reference.{name}, which is plain torch"
            )
        # The reference is plain torch, which autocast would change.
        if watched(tensors) or (implementation := chosen(name, tensors)) == "reference":
            return op(*arguments)
        if implementation == "triton" and (result := fast(arguments)) is not None:
            return result
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return Direct.apply(*arguments)
        return run(*arguments)

    return call


def backward_of(name: str, op: Callable[..., Any], run: Callable[..., Any]) -> Callable[..., Any]:
    """Return what runs the op of a gradient: its body, unless watched or where a second derivative may follow.

    The op then says that there is none.
    """

    def call(*arguments: Any) -> Any:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if torch.is_grad_enabled() or watched(tensors) or chosen(name, tensors) == "reference":
            return op(*arguments)
        return run(*arguments)

    return call
