"""How the CPU kernels are compiled and spread over threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with numba at the first call, without the GIL, and keep the machine code on disk for later processes.

    The cache lies beside the source or, where that is read-only, in the user's cache folder (``NUMBA_CACHE_DIR``
    overrides both); where neither can be written, each process compiles again.
    """
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)


_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="seqdomains-kernel")
        return _pools[workers]


def run_tasks(compiled: Callable[..., None], tasks: int, scratch: int, *arguments: Any) -> None:
    """Call ``compiled(first, last, scratch, *arguments)`` on ranges that cover `tasks`, on torch's number of threads.

    Tasks write to places of their own, so results do not depend on the number of threads. Each range has `scratch`
    float32 numbers of its own.
    """
    parts = max(1, min(tasks, torch.get_num_threads()))
    edges = [tasks * part // parts for part in range(parts + 1)]
    futures = []
    if parts > 1:
        pool = _pool(parts - 1)
        futures = [
            pool.submit(compiled, edges[part], edges[part + 1], _aligned(scratch), *arguments)
            for part in range(1, parts)
        ]
    try:
        compiled(edges[0], edges[1], _aligned(scratch), *arguments)
    finally:
        for future in futures:
            future.result()


def _aligned(size: int) -> NDArray[np.float32]:
    """Return uninitialised memory on a 64-byte boundary: a vector that straddles two cache lines costs twice."""
    memory = np.empty(size + 16, np.float32)
    skip = (-memory.ctypes.data % 64) // 4
    return memory[skip : skip + size]


_ABSENT = np.zeros(0, np.float32)


def flat(tensor: Tensor | None) -> NDArray[np.float32]:
    """Return a tensor's numbers in order as one float32 array, without a copy where they lie so; absent is empty."""
    if tensor is None:
        return _ABSENT
    return tensor.detach().float().reshape(-1).numpy()


def sum_rows(parts: Tensor) -> Tensor:
    """Add over the first axis one by one, so that the result does not depend on threads."""
    result = parts[0].clone()
    for part in parts[1:]:
        result += part
    return result
