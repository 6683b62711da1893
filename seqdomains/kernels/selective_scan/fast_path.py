"""Whether the Gluon kernels run a scan on a GPU, or the portable Triton kernels do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from seqdomains.errors import ConfigError
from seqdomains.kernels.dispatch import VARIABLE, interpreting
from seqdomains.kernels.selective_scan.plan import gpu_chunk

# States per channel that the Gluon kernels are written for.
STATES = (16, 64)
# Why they do not run on a device, by its index.
_broken: dict[int, str] = {}


def uncovered(u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> str:
    """Say why the Gluon kernels do not take a scan; nothing if they do."""
    if u.device.type != "cuda" or interpreting():
        return "they run on NVIDIA GPUs alone"
    if missing := unavailable(u.device.index or 0):
        return missing
    if A.is_complex():
        return "A is complex"
    if A.shape[1] not in STATES:
        return f"N is {A.shape[1]}, expected {' or '.join(map(str, STATES))}"
    batch, length, channels = u.shape
    if channels % 16:
        return f"D is {channels}, expected a multiple of 16"
    if length * channels >= 1 << 31 and gpu_chunk(batch, length, channels, A.shape[1]) * channels >= 1 << 31:
        return f"a chunk of {channels} channels has 2^31 elements or more"
    if B.dim() != 3 or C.dim() != 3:
        return "B or C is constant or grouped"
    if cu_seqlens is not None:
        return "sequences are packed"
    return ""


@cache
def _loaded() -> ModuleType | str:
    try:
        return import_module("seqdomains.kernels.selective_scan.gluon")
    except (ImportError, AttributeError, TypeError) as problem:
        warnings.warn(f"selective_scan runs its portable, slower kernels: no fitting Gluon ({problem})", stacklevel=2)
        return f"this Triton has no fitting Gluon: {problem}"


@cache
def _old(index: int) -> str:
    if torch.version.hip is not None or not torch.cuda.is_available():  # fake tensors need no GPU
        return "they run on NVIDIA GPUs alone"
    major, minor = torch.cuda.get_device_capability(index)
    return "" if major >= 8 else f"compute capability is {major}.{minor}, expected 8.0 or more"


def unavailable(index: int) -> str:
    """Say why the Gluon kernels cannot run on a CUDA device at all; nothing if they can."""
    if index in _broken:
        return _broken[index]
    if problem := _old(index):
        return problem
    module = _loaded()
    return module if isinstance(module, str) else ""


def choose(u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> ModuleType | None:
    """Return the module of the Gluon kernels if they are to run, else None.

    Raises
    ------
    ConfigError
        ``SEQDOMAINS_KERNELS=gluon`` asks for them and they do not cover the call.
    """
    wish = os.environ.get(VARIABLE, "auto")
    if wish == "triton":
        return None
    reason = uncovered(u, A, B, C, cu_seqlens)
    if not reason:
        module = _loaded()
        assert isinstance(module, ModuleType)  # noqa: S101 - `uncovered` said so
        return module
    if wish == "gluon":
        raise ConfigError(f"{VARIABLE}=gluon cannot run: {reason}. Unset {VARIABLE} or set it to triton.")
    return None


@cache
def _errors() -> type[Exception]:
    from triton.errors import TritonError  # not at import: where Triton is missing this module still says so

    return cast(type[Exception], TritonError)


def attempt(function: Callable[..., Any], *arguments: Any, index: int) -> Any:
    """Run a function of the Gluon kernels on the device of this index.

    If they do not compile or fit there, say so once and return None from then on.
    """
    try:
        return function(*arguments)
    except (_errors(), RuntimeError) as problem:
        # A pass of the compiler that fails raises a bare RuntimeError.
        foreign = not isinstance(problem, _errors()) and "PassManager" not in str(problem)
        if foreign or os.environ.get(VARIABLE, "auto") == "gluon":
            raise
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        _broken[index] = f"they do not compile here: {first}"
        warnings.warn(
            f"the fast kernels of selective_scan do not compile here ({first}); the portable, slower ones run instead",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def eagerly(arguments: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Run the Gluon kernels on the arguments of the op in eager mode, or return None where they do not take them.

    Copies of tensors that have gaps, lie askew or are lazily negative are the op's business.
    """
    *inputs, cu_seqlens, softplus, reverse = arguments
    u, _, A, B, C = inputs[:5]
    if not u.is_cuda or (module := choose(u, A, B, C, cu_seqlens)) is None:
        return None
    if not all(x is None or (x.is_contiguous() and not x.is_neg() and x.data_ptr() % 16 == 0) for x in inputs):
        return None
    result: tuple[Tensor, Tensor, Tensor | None] | None = attempt(
        module.apply, inputs, softplus, reverse, index=u.get_device()
    )
    return result
