"""How the CPU kernels are compiled and spread over threads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.files import cache_folder


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with numba at the first call, without the GIL, and keep the machine code on disk for later processes.

    numba looks for stale code by the age of the function's own file alone, yet a kernel is made of several, so the
    cache folder is named after all of them. It lies in ``NUMBA_CACHE_DIR``, else beside the source, else in
    `seqdomains.files.cache_folder`; where none can be written, each process compiles again.
    """
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = _cache_folder(before)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before


@cache
def _cache_folder(chosen: str) -> str:
    here = Path(__file__).parent
    sources = [Path(__file__), here / "simd.py", *sorted(here.glob("*/cpu*.py")), *sorted(here.glob("*/plan.py"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    for folder in (Path(chosen) if chosen else here / "__pycache__", cache_folder()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder / f"kernels-{digest}")
    return str(cache_folder())


def run_tasks(compiled: Callable[..., None], tasks: int, scratch: int, *arguments: Any) -> None:
    """Call ``compiled(first, last, scratch, *arguments)`` on ranges that cover `tasks`, on torch's number of threads.

    Tasks write to places of their own, so results do not depend on the number of threads. Each call has `scratch`
    float32 numbers of its own.
    """
    threads = max(1, min(tasks, torch.get_num_threads()))
    if threads == 1:
        compiled(0, tasks, _aligned(scratch), *arguments)
        return
    parts = min(tasks, 4 * threads)
    waiting = iter(range(parts))
    failures: list[BaseException] = []

    def work(_: object = None) -> None:
        try:
            own = _aligned(scratch)
            for part in waiting:
                compiled(tasks * part // parts, tasks * (part + 1) // parts, own, *arguments)
        except BaseException as failure:  # noqa: BLE001 - raised again in the calling thread
            failures.append(failure)

    parallel = _torch_threads()
    if parallel is None:
        futures = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
        work()
        for future in futures:
            future.result()
    else:
        parallel(_CALLBACK(work), None, threads, 0)
    if failures:
        raise failures[0]


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _torch_threads() -> Any:
    """Return GOMP_parallel of the OpenMP library that torch runs on, or None where torch has another.

    torch's idle workers spin for some ms after an operation; threads of our own would wait for their cores.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        parallel = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="seqdomains-kernel")
        return _pools[workers]


def _aligned(size: int) -> NDArray[np.float32]:
    """Return uninitialised memory on a 64-byte boundary: a vector that straddles two cache lines costs twice."""
    memory = np.empty(size + 16, np.float32)
    skip = (-memory.ctypes.data % 64) // 4
    return memory[skip : skip + size]


# Elements that one thread adds at a time.
_RUN: Final = 4096
_ABSENT = np.zeros(0, np.float32)


def memory(*shape: int) -> Tensor:
    """Return unwritten float32 numbers on the CPU, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def flat(tensor: Tensor | None) -> NDArray[np.float32]:
    """Return a tensor's numbers in order as one float32 array, without a copy where they lie so; absent is empty."""
    if tensor is None:
        return _ABSENT
    # Every second element of something would be a view with gaps, which compiled code does not see.
    return tensor.detach().float().contiguous().reshape(-1).numpy()


class Numbers:
    """A tensor's numbers as `flat` gives them, asked for once where each step gives the same tensor."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None
        self._array = flat(None)

    def __call__(self, tensor: Tensor) -> NDArray[np.float32]:
        """Return them."""
        if tensor is not self._seen:
            self._array = flat(tensor)
            # What `flat` had to copy would not follow the tensor.
            lies_so = tensor.is_contiguous() and tensor.dtype == torch.float32
            self._seen = tensor if lies_so else None
        return self._array


@kernel
def _add_rows(first: Any, last: Any, scratch: Any, size: Any, parts: Any, out: Any) -> None:
    for start in range(first * _RUN, min(last * _RUN, size), _RUN):
        stop = min(start + _RUN, size)
        for i in range(start, stop):
            out[i] = parts[i]
        for row in range(size, parts.size, size):
            for i in range(start, stop):
                out[i] += parts[row + i]


def sum_rows(parts: Tensor) -> Tensor:
    """Add over the first axis row by row, so that the result does not depend on the number of threads."""
    out = memory(*parts.shape[1:])
    size = out.numel()
    run_tasks(_add_rows, -(-size // _RUN), 0, size, flat(parts), flat(out))
    return out
