"""`train` under torchrun, over gloo: the run of one process, by several that share batches, time, or both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
STEPS = 9


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    letters = np.random.default_rng(0).choice(list("ACGT"), size=(3, 4000))
    path = tmp_path_factory.mktemp("own") / "refs.fa"
    labels = ("spruce", "pine", "pine")
    path.write_text(
        "".join(
            f">r{n} tree={label}\n{''.join(row)}\n" for n, (label, row) in enumerate(zip(labels, letters, strict=True))
        )
    )
    return path


@pytest.fixture(scope="module")
def job(fasta):
    """Start `train` in so many processes of torchrun, or in one without it."""

    def popen(ranks, out, *settings, steps=STEPS):
        command = [sys.executable, "-m"]
        if ranks > 1:
            command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
        values = (
            f"train.steps={steps}", "train.batch=5", "train.checkpoint_every=3", "train.log_every=1", "train.threads=1",
            "model.d_model=16", "data.test_windows=10", *settings,
        )  # fmt: skip
        command += ["seqdomains", "genomics", "train", "--data", str(fasta), "--label-from", "header:tree"]
        command += ["--preset", "barcode", "--device", "cpu", *(f"--set={one}" for one in values)]
        command += [] if out is None else ["--out", str(out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)

    return popen


def finished(process, code=0):
    out, err = process.communicate(timeout=300)
    # torchrun ends with 1, whatever its processes ended with.
    assert process.returncode == (1 if code and "torch.distributed.run" in process.args else code), err
    return out, err


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    out, _ = finished(job(1, folder))
    return folder, out


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (2, []),
        (2, ["train.sequence_ranks=2"]),
        (4, ["train.sequence_ranks=2", "train.time_chunk=50", "train.micro_batch=1", "train.recompute=true"]),
        (2, ["train.sequence_ranks=2", "train.recompute=true"]),
    ],
    ids=["batch", "time", "both", "time, recomputed"],
)
def test_several_processes_train_as_one(job, alone, tmp_path, ranks, settings):
    out, err = finished(job(ranks, tmp_path / "run", *settings))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone[0]), rtol=1e-5)
    for name, tensor in weights(alone[0]).items():
        # Adam follows the sign of a gradient that is zero but for rounding.
        np.testing.assert_allclose(weights(tmp_path / "run")[name], tensor, rtol=1e-3, atol=2e-5, err_msg=name)
    assert out.count("chance") == alone[1].count("chance") == 1
    assert err.count("loss") == STEPS
    (session,) = json.loads((tmp_path / "run" / "environment.json").read_text())["sessions"]
    assert session["ranks"] == ranks


@pytest.mark.parametrize("settings", [["train.time_chunk=40"], ["train.time_chunk=40", "train.recompute=true"]])
def test_one_process_that_saves_memory_trains_as_without(job, alone, tmp_path, settings):
    finished(job(1, tmp_path / "run", *settings))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone[0]), rtol=1e-5)


def workers(torchrun):
    """Return the processes of torchrun by rank."""
    found = {}
    for pid in map(int, Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()):
        try:
            values = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:  # it may be gone since it was listed
            continue
        if (rank := re.search(r"(?:^|\0)RANK=(\d+)\0", values)) is not None:
            found[int(rank[1])] = pid
    return found


def wait_for_step(process, metrics, step):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1]
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    raise AssertionError("no such step")


@pytest.fixture(scope="module")
def long_run(job, tmp_path_factory):
    """Two processes that were never interrupted."""
    folder = tmp_path_factory.mktemp("long") / "run"
    finished(job(2, folder, steps=60))
    return folder


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job_and_the_repeated_command_has_the_same_bytes(job, long_run, tmp_path, victim):
    process = job(2, tmp_path / "run", steps=60)
    wait_for_step(process, tmp_path / "run" / "metrics.jsonl", 10)
    os.kill(workers(process.pid)[victim], signal.SIGKILL)
    _, err = finished(process, code=1)
    assert "another process of the job has ended" in err, err
    assert "repeat the command, which goes on from the last checkpoint" in err
    assert not (tmp_path / "run" / "model").exists()
    finished(job(2, tmp_path / "run", steps=60))
    sessions = json.loads((tmp_path / "run" / "environment.json").read_text())["sessions"]
    assert sessions[1]["from_step"] >= 9
    assert losses(tmp_path / "run") == losses(long_run)
    for name, tensor in weights(long_run).items():
        assert np.array_equal(weights(tmp_path / "run")[name], tensor), name


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
@pytest.mark.parametrize("victims", [[0], [1], [0, 1]], ids=str)
def test_sigterm_saves_on_all(job, long_run, tmp_path, victims):
    process = job(2, tmp_path / "run", "train.checkpoint_every=1000", steps=60)
    wait_for_step(process, tmp_path / "run" / "metrics.jsonl", 10)
    found = workers(process.pid)
    for rank in victims:
        os.kill(found[rank], signal.SIGTERM)
    _, err = finished(process, code=1)
    assert "which is saved; repeat the command to go on" in err
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert losses(tmp_path / "run") == losses(long_run)[: int(saved.name.removeprefix("step-"))]
    finished(job(2, tmp_path / "run", "train.checkpoint_every=1000", steps=60))
    for name, tensor in weights(long_run).items():
        assert np.array_equal(weights(tmp_path / "run")[name], tensor), name


def test_other_ranks_go_on_with_a_warning_and_one_may_have_no_window(job, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    finished(job(1, alone, "train.batch=1", steps=4))
    finished(job(2, shared, "train.batch=1", steps=4))
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=1e-5)
    process = job(1, tmp_path / "run", "train.batch=1", steps=24)
    wait_for_step(process, tmp_path / "run" / "metrics.jsonl", 5)
    process.kill()
    process.communicate()
    _, err = finished(job(2, tmp_path / "run", "train.batch=1", steps=24))
    assert "the last bits may differ from those of an uninterrupted run: ranks was 1 and is 2" in err


def test_what_cannot_be_is_refused(job, tmp_path):
    _, err = finished(job(1, tmp_path / "one", "train.sequence_ranks=2"), code=2)
    assert "train.sequence_ranks: 2 ranks to a sequence do not divide the 1 of the job" in err
    _, err = finished(job(2, None), code=2)
    assert "--out: name the run folder" in err
