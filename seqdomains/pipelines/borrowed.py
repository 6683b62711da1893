"""What a pipeline borrows, it gives back: device, train mode, random state, thread count, determinism switches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# cuBLAS splits matrix products differently from run to run unless its workspace is pinned:
# https://docs.nvidia.com/cuda/cublas/#results-reproducibility
_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def borrowed(model: nn.Module, *, device: torch.device, training: bool) -> Iterator[nn.Module]:
    """Put a model on a device and in a mode; afterwards it is where and as it was.

    Parameters
    ----------
    model : Module
        Moved in place. A model whose parameters lie on several devices is left where it is.
    device : torch.device
        Where to work.
    training : bool
        Train mode or evaluation mode.

    Examples
    --------
    >>> model = nn.Linear(2, 2).train()
    >>> with borrowed(model, device=torch.device("cpu"), training=False):
    ...     model.training
    False
    >>> model.training
    True
    """
    modes = {module: module.training for module in model.modules()}
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    home = devices.pop() if len(devices) == 1 else None
    try:
        if home is not None:
            model.to(device)
        model.train(training)
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
        if home is not None:
            model.to(home)


@contextmanager
def seeded(seed: int, *, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generators of the CPU and `device`; afterwards they are where they were.

    Build a model under it, so that the same command begins with the same weights.

    Parameters
    ----------
    seed : int
        Any integer that `torch.manual_seed` takes.
    device : torch.device or str
        Whose generator is meant, beside the CPU's.

    Examples
    --------
    >>> with seeded(3):
    ...     first = torch.rand(2)
    >>> with seeded(3):
    ...     second = torch.rand(2)
    >>> torch.equal(first, second)
    True
    """
    device = torch.device(device)
    # without an index the current device's generator is meant, and fork_rng wants its number
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    """Ask torch for deterministic algorithms: two runs of the same command on one machine agree bit for bit.

    An operation that has no deterministic form warns instead of failing. New memory is not filled with NaN, which torch
    does by default in this mode and which costs a pass over every new tensor.

    Examples
    --------
    >>> with deterministic():
    ...     torch.are_deterministic_algorithms_enabled()
    True
    >>> torch.are_deterministic_algorithms_enabled()
    False
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    switches: Any = torch.utils.deterministic  # a module whose attribute torch does not declare
    fill = switches.fill_uninitialized_memory
    workspace = os.environ.get(_CUBLAS_WORKSPACE)
    os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    switches.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        switches.fill_uninitialized_memory = fill
        if workspace is None:
            os.environ.pop(_CUBLAS_WORKSPACE, None)


@contextmanager
def thread_count(threads: int) -> Iterator[int]:
    """Let torch's CPU operations use `threads` threads; 0 leaves the number as it is.

    Yields
    ------
    int
        The number in force.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with thread_count(1) as threads:
    ...     threads, torch.get_num_threads()
    (1, 1)
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
