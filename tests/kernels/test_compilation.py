"""Threads and caches of the CPU kernels."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from seqdomains.kernels import compilation, rms_norm

ROOT = Path(compilation.__file__).parents[2]


def _record(first, last, scratch, seen):
    assert scratch.ctypes.data % 64 == 0
    seen.extend(range(first, last))


@pytest.mark.parametrize("has_openmp", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_task_runs_once(has_openmp, count, threads, monkeypatch):
    if not has_openmp:
        monkeypatch.setattr(compilation, "_torch_threads", lambda: None)
    threads(count)
    for tasks in (1, 2, 3, 100):
        seen = []
        compilation.run_tasks(_record, tasks, 32, seen)
        assert sorted(seen) == list(range(tasks))


@pytest.mark.parametrize("has_openmp", [True, False])
def test_an_error_in_a_thread_is_raised(has_openmp, threads, monkeypatch):
    if not has_openmp:
        monkeypatch.setattr(compilation, "_torch_threads", lambda: None)

    def fail(first, last, scratch):
        raise ArithmeticError(f"task {first}")

    threads(2)
    with pytest.raises(ArithmeticError, match="task"):
        compilation.run_tasks(fail, 10, 0)


@pytest.mark.parametrize("has_openmp", [True, False])
def test_threads_of_the_caller_may_run_kernels_at_once(has_openmp, threads, monkeypatch):
    if not has_openmp:
        monkeypatch.setattr(compilation, "_torch_threads", lambda: None)
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    threads(2)
    inputs = [torch.randn(4, 100, 20, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    expected = [rms_norm(x, torch.ones(20)) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda x: rms_norm(x, torch.ones(20)), inputs))
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_flat_does_not_copy_float32():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert np.shares_memory(compilation.flat(tensor), tensor.numpy())
    assert compilation.flat(None).size == 0


def test_kernels_run_where_no_cache_can_be_written(tmp_path):
    """A file in the place of every cache folder, as a stand-in for a read-only disk that root cannot write either."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = """
import numba.core.caching as caching
def refuse(self): raise OSError("read-only")
caching._CacheLocator.ensure_cache_path = refuse
import torch
from seqdomains.kernels import rms_norm
assert rms_norm(torch.ones(1, 1, 4), torch.ones(4)).sum().item() > 3.9
print("ran")
"""
    paths = {"NUMBA_CACHE_DIR": str(blocked / "a"), "SEQDOMAINS_CACHE": str(blocked / "b")}
    environment = {**os.environ, **paths, "PYTHONPATH": str(ROOT), "SEQDOMAINS_KERNELS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "ran\n", done.stderr


def test_cache_folder_is_the_first_that_can_be_made(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("SEQDOMAINS_CACHE", str(tmp_path / "user"))
    choose = compilation._cache_folder.__wrapped__
    assert Path(choose(str(tmp_path / "chosen"))).parent == tmp_path / "chosen"
    assert Path(choose(str(blocked / "chosen"))).parent == tmp_path / "user"
