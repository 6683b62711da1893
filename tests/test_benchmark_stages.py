"""Long benchmarks go on where they were: what is done is not done again, and time that is over ends them with 75."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Makes the stages of one folder, as each session of a benchmark does."""
    import signal

    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from benchmarks.stages import Stages

    before = signal.getsignal(signal.SIGTERM)
    yield lambda minutes=5.0: Stages(tmp_path, minutes=minutes, device="cpu")
    signal.signal(signal.SIGTERM, before)
    sys.modules.pop("benchmarks.stages", None)


def test_what_is_done_is_not_done_again_and_other_options_are_refused(stages, tmp_path):
    stages().command("show", "config", "show", "tiny", on_device=False)
    assert "d_model: 16" in (tmp_path / "show.log").read_text()
    (tmp_path / "show.log").unlink()
    again = stages()
    again.command("show", "config", "show", "tiny", on_device=False)
    assert not (tmp_path / "show.log").exists()
    assert again.seconds["show"] > 0
    with pytest.raises(SystemExit, match="has stage show of other options"):
        again.command("show", "config", "show", "laptop", on_device=False)


def test_a_command_that_fails_is_told_and_tried_again(stages, tmp_path):
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"stage show ended with 2; see .*show\.log"):
            stages().command("show", "config", "show", "no-such-preset", on_device=False)
    assert (tmp_path / "show.log").read_text().count("no-such-preset") >= 2


def test_time_that_is_over_ends_a_run_that_the_next_session_finishes(stages, tmp_path):
    run = tmp_path / "run"
    words = ("genomics", "pretrain", "--preset", "pretrain-tiny", "--out", run, "--set", "train.steps=2000")
    words += ("--set", "train.threads=1", "--set", "train.log_every=1", "--set", "train.checkpoint_every=1000")
    session = stages()

    def wait(process):
        """Let the session's time end once the run has begun."""
        deadline = time.monotonic() + 100
        while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    import subprocess

    started = subprocess.Popen

    def popen(*given, **more):
        process = started(*given, **more)
        wait(process)
        session._ends = 0
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        with pytest.raises(SystemExit) as end:
            session.command("lm", *words)
    assert end.value.code == 75
    record = json.loads((tmp_path / "stages.json").read_text())["lm"]
    assert not record["done"]
    assert record["seconds"] > 0
    assert list((run / "checkpoints").glob("step-*"))  # it was told to stop, and saved its state
    with pytest.raises(SystemExit) as end:
        stages(minutes=0).command("lm", *words)
    assert end.value.code == 75
