"""Killed, terminated and interrupted commands: the same command ends with the same bytes, and nothing is left over."""

from __future__ import annotations

import random
import signal
import time
from contextlib import contextmanager

import pytest
import typer

from seqdomains.cli import app
from seqdomains.errors import InputError

STEPS = 200
CHANCE = random.Random()  # noqa: S311 - moments, not secrets


@pytest.fixture(scope="module")
def train():
    """Arguments of one run of the preset tiny, long enough to be met in the middle."""
    settings = (f"train.steps={STEPS}", "train.log_every=1", "train.checkpoint_every=7", "train.threads=1")
    changes = [f"--set={setting}" for setting in settings]
    return lambda out: ("genomics", "train", "--species", "great-apes", "--preset", "tiny", *changes, "--out", out)


@pytest.fixture(scope="module")
def uninterrupted(start, train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    with start(*train(folder)) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return folder, out


def steps_done(folder):
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def stop_at(process, folder, step, number):
    """Send a signal a moment after a step; returns the exit code and stderr."""
    deadline = time.monotonic() + 100
    while steps_done(folder) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(CHANCE.uniform(0, 0.02))
    process.send_signal(number)
    _, err = process.communicate()
    return process.returncode, err


def same_result(folder, other):
    names = ("model/model.safetensors", "model/config.json", "evaluation.json", "test_windows.bed")
    return [name for name in names if (folder / name).read_bytes() != (other / name).read_bytes()] == []


def test_killed_three_times_ends_with_the_same_bytes(start, train, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    moments = sorted(CHANCE.sample(range(30, STEPS - 20), 3))
    for moment in moments:
        with start(*train(folder)) as process:
            code, err = stop_at(process, folder, moment, signal.SIGKILL)
        assert code == -signal.SIGKILL, (moments, err)
        assert not (folder / "model").exists()

    newest = max((folder / "checkpoints").glob("step-*"))
    weights = newest / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[CHANCE.randrange(len(damaged))] ^= 1 << CHANCE.randrange(8)
    weights.write_bytes(damaged)

    with start(*train(folder)) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{newest.name}: model.safetensors has SHA-256" in err
    assert "going on from the checkpoint of step" in err
    assert same_result(folder, uninterrupted[0]), moments
    assert out == uninterrupted[1].replace(str(uninterrupted[0]), str(folder))
    assert steps_done(folder) == STEPS
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def test_terminated_and_interrupted_runs_save_and_say_so(start, train, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    for moment, number, expected in ((20, signal.SIGTERM, 143), (60, signal.SIGINT, 130)):
        with start(*train(folder)) as process:
            code, err = stop_at(process, folder, moment, number)
        assert code == expected, err
        assert "Traceback" not in err
        assert "repeat the command" in err
    with start(*train(folder)) as process:
        _, err = process.communicate()
    assert process.returncode == 0
    assert same_result(folder, uninterrupted[0])


def test_termination_outside_training_leaves_nothing(start, tmp_path):
    """A simulation is stopped while it writes: its temporary folder goes too."""
    changes = ["--set=data.simulation.chromosome_length=3_000_000", "--set=data.simulation.density=64"]
    with start("genomics", "simulate", *changes, "--out", tmp_path / "apes") as process:
        deadline = time.monotonic() + 100
        while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.terminate()
        _, err = process.communicate()
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_reader_that_leaves_early_is_no_error(start, run, fasta):
    with start("genomics", "predict", run, fasta(x=400_000), "--window", 16) as process:
        first = process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert first.startswith("#record\t")
    assert process.returncode == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_termination_does_not_swallow_an_error_on_its_way_out(monkeypatch, capsys):
    """As torchrun does it: a rank that has lost another is terminated while it leaves."""

    @contextmanager
    def leaving():
        try:
            yield
        finally:
            signal.raise_signal(signal.SIGTERM)

    def lose():
        with leaving():
            raise InputError("another process of the job has ended")

    commands = typer.Typer(cls=app.Commands)
    commands.callback()(lambda: None)
    commands.command("lose")(lose)
    monkeypatch.setattr(app, "app", lambda prog_name: commands(["lose"]))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            app.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143
    assert capsys.readouterr().err == "seqdomains: another process of the job has ended\n"
