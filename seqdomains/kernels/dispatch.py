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
# For inference alone, without a gradient; where there is a state, it is changed in place.
STEPS: Final = ("selective_scan_step", "block_step", "row_product", "token_draw")
VARIABLE: Final = "SEQDOMAINS_KERNELS"
CHOICES: Final = ("auto", "reference", "cpu", "triton", "gluon")

_DOUBLE: Final = frozenset((torch.float64, torch.complex128))
_REAL: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPLEX: Final = (torch.complex64, torch.complex128)
_LIBRARY: Final = torch.library.Library("seqdomains", "FRAGMENT")  # type: ignore[no-untyped-call]
# Backends that Triton's wheel compiles for; AMD cards are "cuda" in torch.
_TRITON_DEVICES: Final = ("cuda", "xpu")


def implementation(op: str, device: torch.device | str, dtype: torch.dtype) -> Implementation:
    """Name the implementation of `op` that runs for tensors of this device and dtype.

    float64 runs the reference, since the others compute in float32. Otherwise a CPU runs the numba kernels, a GPU the
    Triton kernels, and any other device the reference. The environment variable ``SEQDOMAINS_KERNELS`` (``auto``,
    ``reference``, ``cpu``, ``triton`` or ``gluon``) overrides the choice; it is read at each call. ``triton`` takes the
    portable kernels alone, ``gluon`` insists on the fast ones that `selective_scan` has for NVIDIA GPUs.

    Parameters
    ----------
    op : str
        ``"selective_scan"``, ``"causal_conv1d"``, ``"rms_norm"``, ``"selective_scan_step"``, ``"block_step"``,
        ``"row_product"`` or ``"token_draw"``.
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
    if op not in OPS and op not in STEPS:
        raise ValueError(f"no op is named {op!r}; expected one of {', '.join(OPS + STEPS)}")
    kind = torch.device(device).type
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise ConfigError(f"{VARIABLE}={choice!r} is not known; expected one of {', '.join(CHOICES)}")
    if choice != "auto":
        _require_possible(choice, kind, dtype)
        return "triton" if choice == "gluon" else cast(Implementation, choice)
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
    elif choice in ("triton", "gluon") and find_spec("triton") is None:
        problem = "the package triton is not installed"
    elif choice in ("triton", "gluon") and kind not in _TRITON_DEVICES and not interpreting():
        problem = f"the tensors are on {kind!r}"
        if choice == "triton":
            problem += ", which Triton runs only in its interpreter (TRITON_INTERPRET=1)"
    if problem:
        raise ConfigError(f"{VARIABLE}={choice} cannot run: {problem}. Unset {VARIABLE} or set it to reference.")


def interpreting() -> bool:
    """Whether Triton runs in its interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def widest(tensors: Iterable[Tensor | None]) -> torch.dtype:
    """Return float64 if any of the tensors is float64 or complex128, else float32: the precision of the arithmetic."""
    return torch.float32 if _DOUBLE.isdisjoint([x.dtype for x in tensors if x is not None]) else torch.float64


def contiguous(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Copy the tensors that have gaps or are lazily negative or conjugate; implementations read memory as it is."""
    return [x if x is None else x.contiguous().resolve_conj().resolve_neg() for x in tensors]


def chosen(op: str, tensors: Sequence[Tensor | None]) -> Implementation:
    """Name the implementation that runs for these tensors, the first of which is there."""
    first = next(tensor for tensor in tensors if tensor is not None)
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


def require_shape(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], device: torch.device, *, paired: bool = False
) -> None:
    """Raise ValueError unless an optional tensor is absent or of this shape, on this device and floating.

    With `paired` it must be complex instead, as states that come in conjugate pairs are.
    """
    if tensor is None:
        return
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if tensor.dtype not in (_COMPLEX if paired else _REAL):
        kind = "complex64 since A is complex" if paired else "float16, bfloat16, float32 or float64"
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected {kind}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device} as the first argument")


def require_borders(cu_seqlens: Tensor, batch: int, device: torch.device) -> None:
    """Raise ValueError unless the borders of packed sequences have a fitting shape, dtype and device."""
    if batch != 1:
        raise ValueError(f"B is {batch}, expected 1: with cu_seqlens, sequences lie end to end in one batch row")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens has shape {tuple(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}, "
            "expected (S + 1,) with S at least 1, int32 or int64"
        )
    if cu_seqlens.device != device:
        raise ValueError(f"cu_seqlens is on {cu_seqlens.device}, expected {device} as the first argument")


def require_order(cu_seqlens: Tensor, length: int) -> None:
    """Raise ValueError unless the borders rise from 0 to L; those on a GPU are not read, since that waits for it."""
    if cu_seqlens.device.type != "cpu":
        return
    borders = cu_seqlens.tolist()
    if borders[0] != 0 or borders[-1] != length or borders != sorted(borders):
        raise ValueError(f"cu_seqlens must rise from 0 to L = {length}, found {borders}")


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
