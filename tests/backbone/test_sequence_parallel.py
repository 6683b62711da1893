"""A sequence that ranks share has the loss and the gradients of the whole one; each rank is a process, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def found_by_ranks(folder, size):
    """Run `ranks.py` in so many processes; returns what each has found."""
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE}
    command = [sys.executable, str(Path(__file__).with_name("ranks.py"))]
    processes = [subprocess.Popen([*command, str(rank), str(size), str(folder)], **options) for rank in range(size)]
    try:
        said = [process.communicate(timeout=280)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * size, said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def hold(by_rank, tolerance, *, bfloat16=3e-2):
    cases = [name for name in by_rank[0] if name != "refused"]
    assert len(cases) == 16 + 2 * (4 + 1 + 1)
    for found in by_rank:
        for name in cases:
            allowed = 1e-12 if "float64" in name else bfloat16 if "bfloat16" in name else tolerance
            assert found[name]["loss"] <= allowed, (name, found[name])
            assert found[name]["gradients"] <= allowed, (name, found[name])


@pytest.fixture(scope="module", params=[2, 4])
def by_rank(request, tmp_path_factory):
    return found_by_ranks(tmp_path_factory.mktemp("ranks"), request.param)


def test_all_ranks_together_have_the_gradients_of_the_whole_sequence(by_rank):
    hold(by_rank, 1e-5)


def test_parts_shorter_than_the_convolution_are_refused_on_every_rank(by_rank):
    for found in by_rank:
        assert "ranks: each needs 3, which a convolution looks back" in found["refused"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernels", ["auto", "triton"])
def test_two_processes_on_one_gpu(kernels, tmp_path, monkeypatch):
    """The scan's gradient of the step has an error of its own there, 3e-6 of its norm, and more in the worst number."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", kernels)
    monkeypatch.setenv("RANKS_DEVICE", "cuda")
    hold(found_by_ranks(tmp_path, 2), 1e-4, bfloat16=6e-2)
