"""Which implementation of an op runs: chosen by device and dtype, overridden by one environment variable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor

from seqdomains.errors import ConfigError

Implementation = Literal["reference", "cpu", "triton"]

OPS: Final = ("selective_scan", "causal_conv1d", "rms_norm")
VARIABLE: Final = "SEQDOMAINS_KERNELS"
CHOICES: Final = ("auto", "reference", "cpu", "triton")

_LIBRARY: Final = torch.library.Library("seqdomains", "FRAGMENT")  # type: ignore[no-untyped-call]
# Backends that Triton's wheel compiles for; AMD cards are "cuda" in torch.
_TRITON_DEVICES: Final = ("cuda", "xpu")


def implementation(op: str, device: torch.device | str, dtype: torch.dtype) -> Implementation:
    """Name the implementation of `op` that runs for tensors of this device and dtype.

    float64 runs the reference, since the others compute in float32. Otherwise a CPU runs the numba kernels, a GPU the
    Triton kernels, and any other device the reference. The environment variable ``SEQDOMAINS_KERNELS`` (``auto``,
    ``reference``, ``cpu`` or ``triton``) overrides the choice; it is read at each call.

    Parameters
    ----------
    op : str
        ``"selective_scan"``, ``"causal_conv1d"`` or ``"rms_norm"``.
    device : torch.device or str
        Where the tensors live.
    dtype : torch.dtype
        The widest dtype among the tensors.

    Returns
    -------
    str
        ``"reference"``, ``"cpu"`` or ``"triton"``.

    Raises
    ------
    ConfigError
        The environment variable holds an unknown word, or a choice that cannot run here.
    ValueError
        No op has this name.

    Examples
    --------
    >>> implementation("selective_scan", "cpu", torch.float64)
    'reference'
    """
    if op not in OPS:
        raise ValueError(f"no op is named {op!r}; expected one of {', '.join(OPS)}")
    kind = torch.device(device).type
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise ConfigError(f"{VARIABLE}={choice!r} is not known; expected one of {', '.join(CHOICES)}")
    if choice != "auto":
        _require_possible(choice, kind, dtype)
        return cast(Implementation, choice)
    if dtype == torch.float64:
        return "reference"
    if kind == "cpu":
        return "cpu"
    if kind in _TRITON_DEVICES and find_spec("triton") is not None:
        return "triton"
    return "reference"


def _require_possible(choice: str, kind: str, dtype: torch.dtype) -> None:
    if choice == "reference":
        return
    problem = ""
    if dtype == torch.float64:
        problem = "those kernels compute in float32 and the tensors are float64"
    elif choice == "cpu" and kind != "cpu":
        problem = f"the tensors are on {kind!r}"
    elif choice == "triton" and find_spec("triton") is None:
        problem = "the package triton is not installed"
    elif choice == "triton" and kind not in _TRITON_DEVICES and not interpreting():
        problem = f"the tensors are on {kind!r}, which Triton runs only in its interpreter (TRITON_INTERPRET=1)"
    if problem:
        raise ConfigError(f"{VARIABLE}={choice} cannot run: {problem}. Unset {VARIABLE} or set it to reference.")


def interpreting() -> bool:
    """Whether Triton runs in its interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def widest(tensors: Iterable[Tensor | None]) -> torch.dtype:
    """Return float64 if any of the tensors is float64, else float32: the dtype of the arithmetic."""
    doubles = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if doubles else torch.float32


def contiguous(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Copy the tensors that have gaps; implementations read memory in order."""
    return [tensor if tensor is None else tensor.contiguous() for tensor in tensors]


def chosen(op: str, tensors: Sequence[Tensor | None]) -> Implementation:
    """Name the implementation that runs for these tensors, the first of which is there."""
    (first, *_) = (tensor for tensor in tensors if tensor is not None)
    return implementation(op, first.device, widest(tensors))


def module_of(op: str, name: Implementation, direction: Literal["forward", "backward"]) -> ModuleType:
    """Import the module that holds `forward` or `backward` of one implementation."""
    return import_module(f"seqdomains.kernels.{op}.{f'triton_{direction}' if name == 'triton' else name}")


def without_none(gradients: Iterable[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    """Put an empty tensor for each gradient of an absent input, since an op cannot return None."""
    return tuple(like.new_empty(0) if gradient is None else gradient for gradient in gradients)


def gradients_like(inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return unwritten gradients of the inputs, for tracing."""
    first = next(tensor for tensor in inputs if tensor is not None)
    return without_none((None if tensor is None else tensor.new_empty(tensor.shape) for tensor in inputs), first)


def of_present(inputs: Sequence[Tensor | None], gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Drop what `without_none` put in."""
    return [None if tensor is None else gradient for tensor, gradient in zip(inputs, gradients, strict=True)]


def require_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ValueError unless an optional tensor is absent or floating, of this shape and on this device."""
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected a floating one")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device} as the first argument")


def define_op(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register an op for all devices and return it.

    `torch.library.custom_op` would do it in one call, but its first run imports torch's compiler: 1.4 s of a command
    that predicts on one short record.

    Parameters
    ----------
    schema : str
        Name, arguments and results in torch's schema language.
    run : callable
        The op's body.
    fake : callable
        Shapes, dtypes and devices of its results, for tracing.

    Returns
    -------
    callable
        The op. Under autocast it keeps the dtypes that it is given, since the kernels widen to float32 themselves.
    """
    name = schema.partition("(")[0]
    library: Any = _LIBRARY
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CompositeExplicitAutograd")
    for key in ("AutocastCPU", "AutocastCUDA"):
        library.impl(name, torch.library.fallthrough_kernel, key)
    torch.library.register_fake(f"seqdomains::{name}", fake, lib=library)
    return getattr(torch.ops.seqdomains, name).default


def differentiate_op(name: str, backward: Callable[..., Any], save: Callable[..., Any]) -> None:
    """Register the gradient of an op, and that the op ``<name>_backward`` which it calls has none itself."""
    torch.library.register_autograd(f"seqdomains::{name}", backward, setup_context=save, lib=_LIBRARY)
    refuse = partial(refuse_double_backward, name)
    torch.library.register_autograd(f"seqdomains::{name}_backward", refuse, lib=_LIBRARY)


def refuse_double_backward(op: str, *_: object) -> None:
    """Raise the error of a second differentiation."""
    raise RuntimeError(
        f"seqdomains::{op} has no second derivative; differentiate seqdomains.kernels.{op}.reference.{op} instead, "
        "which is plain torch"
    )
