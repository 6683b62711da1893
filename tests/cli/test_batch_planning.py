"""What may go wrong while several processes look at the inputs of a batch, before there is a plan."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two files so large that two processes look at them, for seconds."""
    folder = tmp_path_factory.mktemp("large")
    for name in ("a", "b"):
        with (folder / f"{name}.fa").open("w") as handle:
            handle.write(f">{name}\n")
            handle.writelines("ACGTTGCA" * 16 + "\n" for _ in range(2_000_000))
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def planning(start, artefact, large, tmp_path):
    """A batch with two workers whose inputs are being read by two more processes."""
    common = ("--threads", 1, "--workers", 2, "--out", tmp_path / "out")
    with start("genomics", "predict", artefact, large, *common) as process:
        try:
            until(lambda: len(children(process.pid, "spawn_main")) == 2 and len(children(process.pid)) >= 4)
            time.sleep(0.5)
            yield process, children(process.pid)
        finally:
            process.kill()


def children(pid, named=""):
    """Return the processes that a process has started, with a word in their command line."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # One that was listed, such as a short `git`, or a thread of the driver's, may be gone when it is looked at.
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, (task / "children").read_text().split()):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if named in Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace"):
                        found.append(child)
    return found


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGINT], 130), ([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGTERM], 143)],
    ids=["Ctrl-C", "twice", "SIGTERM"],
)
def test_a_signal_ends_all_processes_at_once(planning, tmp_path, signals, code):
    process, started = planning
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    _, err = process.communicate(timeout=5)
    # The second one may meet an interpreter that is about to leave, and end it as a shell would say it with 130.
    assert process.returncode in (code, -signals[-1]) if len(signals) > 1 else process.returncode == code, err
    assert "Traceback" not in err
    until(lambda: not any(map(lives, started)), seconds=5)
    assert not (tmp_path / "out" / "plan.parquet").exists()


def test_nothing_outlives_a_killed_driver(planning):
    process, started = planning
    process.kill()
    process.communicate()
    until(lambda: not any(map(lives, started)), seconds=5)


def test_a_killed_reader_is_told_and_the_driver_reads_on(planning):
    process, _ = planning
    os.kill(children(process.pid, "spawn_main")[0], signal.SIGKILL)
    said = ""
    while "one process goes on" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    assert process.poll() is None


def test_a_killed_worker_is_replaced(planning):
    process, _ = planning
    os.kill(children(process.pid, "batch-worker")[0], signal.SIGKILL)
    said = ""
    while "shards\n" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    until(lambda: len(children(process.pid, "batch-worker")) == 2)
