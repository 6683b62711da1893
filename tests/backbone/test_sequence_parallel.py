"""A sequence that ranks share has the loss and the gradients of the whole one; each rank is a process, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[2, 4])
def by_rank(request, tmp_path_factory):
    """Run `ranks.py` in so many processes; returns what each has found."""
    folder, size = tmp_path_factory.mktemp("ranks"), request.param
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("ranks.py"))]
    processes = [
        subprocess.Popen([*command, str(rank), str(size), str(folder)], env=environment, stderr=subprocess.PIPE)
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=200)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * size, said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def test_all_ranks_together_have_the_gradients_of_the_whole_sequence(by_rank):
    cases = [name for name in by_rank[0] if name != "refused"]
    assert len(cases) == 12 + 4 + 1
    for found in by_rank:
        for name in cases:
            tolerance = 1e-12 if "float64" in name else 3e-2 if name == "bfloat16" else 1e-5
            assert found[name]["loss"] <= tolerance, (name, found[name])
            assert found[name]["gradients"] <= tolerance, (name, found[name])


def test_parts_shorter_than_the_convolution_are_refused_on_every_rank(by_rank):
    for found in by_rank:
        assert "ranks: each needs 3, which a convolution looks back" in found["refused"]
