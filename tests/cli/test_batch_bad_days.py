"""Bad days of a batch: killed, full, interrupted, damaged; the same command ends with the same table."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.worker import Worker

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found in /proc")


@pytest.fixture(scope="module")
def inputs(genomes):
    """A pattern of half of the genomes: about 15 shards, so that a batch is met in its middle."""
    return genomes / "0*.fa"


@pytest.fixture(scope="module")
def undisturbed(seqdomains, artefact, inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("batches") / "undisturbed"
    outcome = seqdomains("genomics", "predict", artefact, inputs, "--threads", 1, "--out", out)
    assert outcome.code == 0, outcome.err
    assert len(finished(out)) > 10
    return table(out)


@pytest.fixture
def out(tmp_path):
    """The folder of a batch, whose workers are ended if a test left some."""
    folder = tmp_path / "out"
    yield folder
    for pid in workers(folder):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def command(artefact, inputs, out):
    return ("genomics", "predict", artefact, inputs, "--threads", 1, "--out", out)


@pytest.fixture
def repeat(seqdomains, command, out, undisturbed):
    """Repeat the command and hold it to what was promised; returns what it said."""

    def run(code=0):
        before = {path: path.stat().st_mtime_ns for path in finished(out)}
        outcome = seqdomains(*command)
        assert outcome.code == code, outcome.err
        assert table(out) == undisturbed
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert f"{len(before)} of {len(finished(out))} shards are done already" in outcome.err or not before
        assert left_over(out) == []
        return outcome

    return run


def table(out):
    return (out / "predictions.parquet").read_bytes()


def finished(out):
    return sorted((out / "shards").glob("[0-9]*.parquet"))


def left_over(out):
    return [path.name for path in out.rglob("*") if path.name.endswith(".partial")]


def workers(out):
    """Return the processes that compute shards of a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"batch-worker" in arguments and os.fsencode(out) in arguments:
            found.append(int(process.name))
    return found


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def half_done(process, out, shards=2):
    """Wait until some shards are done, and see that not all are."""
    until(lambda: len(finished(out)) >= shards or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()


def planned(out):
    return 1 + max(pq.read_table(out / "plan.parquet")["shard"].drop_null().to_pylist())


def test_a_killed_worker_is_replaced(start, command, out, undisturbed):
    with start(*command, "--workers", 2) as process:
        half_done(process, out)
        (victim, *_) = found = workers(out)
        assert len(found) == 2
        assert len(finished(out)) < planned(out)
        os.kill(victim, signal.SIGKILL)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert "warning: a worker ended with signal 9; another one takes its shard" in err
    assert table(out) == undisturbed
    assert workers(out) == left_over(out) == []


@pytest.mark.parametrize("options", [(), ("--workers", 2)], ids=["alone", "two workers"])
def test_a_killed_driver_loses_nothing_that_was_finished(start, seqdomains, command, out, repeat, options):
    with start(*command, *options) as process:
        half_done(process, out)
        # Of two on one folder the second is refused.
        second = seqdomains(*command)
        assert process.poll() is None
        process.kill()
        process.communicate()
    assert second.code == 2
    assert f"process {process.pid} on {socket.gethostname()} works in {out}" in second.error
    assert 2 <= len(finished(out)) < planned(out)
    assert not (out / "predictions.parquet").exists()
    # Workers that outlived it leave by themselves, with the shard that they were at.
    until(lambda: not workers(out))
    assert len(finished(out)) < planned(out)
    repeat()


@pytest.fixture
def file_limit():
    """Limit how large a file may become, which fails in the middle of a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[1] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_for_the_table_is_said_and_all_shards_are_kept(
    seqdomains, command, out, repeat, file_limit
):
    file_limit(40_000)
    outcome = seqdomains(*command)
    file_limit(None)
    assert outcome.code == 1
    assert f"cannot write into {out}: File too large" in outcome.error
    assert "repeat the command: all shards are done" in outcome.error
    assert not (out / "predictions.parquet").exists()
    assert len(finished(out)) == planned(out)
    assert left_over(out) == []
    repeat()


@pytest.mark.parametrize("options", [(), ("--workers", 2)], ids=["alone", "two workers"])
def test_a_disk_that_is_full_in_the_middle_is_said_and_what_is_done_is_kept(
    seqdomains, command, out, repeat, file_limit, options
):
    """The plan stands, and no further shard fits."""
    seqdomains(*command, "--shard", "1/1000")
    assert 1 == len(finished(out)) < planned(out)
    file_limit(4_000)
    outcome = seqdomains(*command, *options)
    file_limit(None)
    assert outcome.code == 1
    assert "cannot write " in outcome.error
    assert "File too large; mend that and repeat the command, which goes on behind the shards" in outcome.error
    assert len(finished(out)) == 1
    assert workers(out) == []
    assert left_over(out) == []
    repeat()


@pytest.fixture
def between(monkeypatch):
    """Call something in this process behind the first shard that is computed; returns the shards."""
    compute = Worker.run

    def install(change):
        calls = []

        def run(worker, shard, heard):
            done = compute(worker, shard, heard)
            calls.append(shard)
            if len(calls) == 1:
                change()
            return done

        monkeypatch.setattr(Worker, "run", run)
        return calls

    return install


def stopped_in_order(out, err):
    done, left = len(finished(out)), planned(out) - len(finished(out))
    assert "Traceback" not in err
    assert left > 0
    assert f"stopped: {done} shards were computed, {left} are left; repeat the command to go on" in err
    assert left_over(out) == []
    assert workers(out) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_batch_behind_its_shard(seqdomains, command, out, repeat, between, number):
    between(lambda: signal.raise_signal(number))
    outcome = seqdomains(*command)
    assert outcome.code == 128 + number
    assert len(finished(out)) == 1
    stopped_in_order(out, outcome.err)
    repeat()


def test_a_second_signal_ends_it_in_the_middle_of_a_shard(seqdomains, command, out, repeat, monkeypatch):
    def twice(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("seqdomains.pipelines.batch.windows._columns", twice)
        outcome = seqdomains(*command)
    assert outcome.code == 130
    assert finished(out) == left_over(out) == []
    repeat()


def test_one_interrupt_lets_workers_finish_what_is_under_way(start, command, out, repeat):
    with start(*command, "--workers", 2) as process:
        half_done(process, out)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert "stopping when the shards that are under way are done" in err
    stopped_in_order(out, err)
    repeat()


def test_two_interrupts_leave_at_once_and_leave_no_worker(start, command, out, repeat):
    with start(*command, "--workers", 2) as process:
        half_done(process, out)
        # Held, they cannot finish before the second one comes.
        found = workers(out)
        for worker in found:
            os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        for line in process.stderr:
            if "a second signal leaves at once" in line:
                break
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate()
    assert time.monotonic() - began < 5
    assert len(found) == 2
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert len(finished(out)) < planned(out)
    until(lambda: not workers(out), seconds=5)
    repeat()


def test_a_reader_that_left_does_not_keep_the_table_from_being_written(start, command, out, undisturbed):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed, start(*command, stdout=closed) as process:
        _, err = process.communicate()
    assert table(out) == undisturbed
    assert (out / "run.json").exists()
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert process.returncode == 0, err


def test_of_two_on_one_folder_the_second_is_told_who_works_there(seqdomains, command, out, repeat):
    folder = BatchFolder(out)
    folder.make()
    with folder.lock():
        for options in ((), ("--shard", "1/2")):
            outcome = seqdomains(*command, *options)
            assert outcome.code == 2
            assert f"process {os.getpid()} on {socket.gethostname()} works in {out}" in outcome.error
    assert not folder.plan.exists()
    repeat()


def test_jobs_of_an_array_keep_a_whole_batch_and_their_double_out(seqdomains, command, out):
    folder = BatchFolder(out)
    folder.make()
    with folder.lock(shared=True), folder.lock(".lock.1-of-2"):
        assert "works in" in seqdomains(*command).error
        assert "works in" in seqdomains(*command, "--shard", "1/2").error
        assert seqdomains(*command, "--shard", "2/2").code == 0
    assert len(finished(out)) == planned(out) // 2


@pytest.mark.parametrize("content", ["thesis.tex", "run.json", "sub/thesis.tex"])
def test_a_folder_of_somebody_else_is_left_as_it_is(seqdomains, command, out, content):
    (out / content).parent.mkdir(parents=True)
    (out / content).write_text("years of work")
    outcome = seqdomains(*command)
    assert outcome.code == 2
    assert "is not empty and no batch's folder" in outcome.error
    assert [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()] == [content]


def test_a_file_in_place_of_the_folder(seqdomains, command, out):
    out.write_text("years of work")
    assert seqdomains(*command).code in (1, 2)
    assert out.read_text() == "years of work"


def test_a_plan_that_is_damaged_is_refused_and_nothing_is_lost(seqdomains, command, out):
    assert seqdomains(*command).code == 0
    whole = (out / "plan.parquet").read_bytes()
    (out / "plan.parquet").write_bytes(whole[:-20])
    before = table(out), finished(out)
    outcome = seqdomains(*command)
    assert outcome.code == 1
    assert "plan.parquet cannot be read as a plan" in outcome.error
    assert (table(out), finished(out)) == before


def test_a_shard_that_was_cut_off_is_computed_again(seqdomains, command, out, undisturbed):
    assert seqdomains(*command).code == 0
    shard = finished(out)[3]
    shard.write_bytes(shard.read_bytes()[:-100])
    (out / "predictions.parquet").unlink()
    outcome = seqdomains(*command)
    assert outcome.code == 0
    assert f"{planned(out) - 1} of {planned(out)} shards are done already" in outcome.err
    assert table(out) == undisturbed


@pytest.fixture
def copies(genomes, tmp_path):
    """Return a folder of copies of some genomes, which a test may change."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for number in range(30):
        shutil.copy(genomes / f"{number:03}.fa", folder)
    return folder


def test_inputs_that_are_deleted_or_changed_while_a_batch_runs_have_no_row(seqdomains, artefact, copies, between, out):
    folder = copies
    deleted, grown, touched, read = (folder / f"0{number}.fa" for number in (20, 22, 24, "00"))

    def change():
        assert len(finished(out)) == 1
        deleted.unlink()
        grown.write_text(grown.read_text() + ">more\n" + "ACGT" * 100 + "\n")
        text = touched.read_text()
        touched.write_text(text[:-9] + text[-9:-1][::-1] + "\n")
        os.utime(touched, ns=(1, 1))
        read.unlink()  # its rows are computed: it was what it was

    calls = between(change)
    outcome = seqdomains("genomics", "predict", artefact, folder, "--threads", 1, "--out", out)
    assert outcome.code == 3, outcome.err
    assert len(calls) == planned(out) > 2
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert [error["input"] for error in errors] == [str(deleted), str(grown), str(touched)]
    assert [reason for error in errors if (reason := error["reason"]) not in outcome.err] == []
    found = set(pq.read_table(out / "predictions.parquet")["file"].to_pylist())
    gone = {str(deleted), str(grown), str(touched)}
    assert found == {str(folder / f"{number:03}.fa") for number in range(30)} - gone


def test_one_that_is_corrupt_among_a_thousand(seqdomains, artefact, out, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04}.fa").write_text(f">r{number}\n{'ACGT' * 64}\n")
    bad = folder / "0500.fa"
    bad.write_bytes(os.urandom(300))
    outcome = seqdomains("genomics", "predict", artefact, folder, "--threads", 1, "--out", out)
    assert outcome.code == 3, outcome.err
    found = pq.read_table(out / "predictions.parquet")["file"].to_pylist()
    assert found == [str(folder / f"{number:04}.fa") for number in range(1000) if number != 500]
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert (error["input"], error["record"]) == (str(bad), None)
    assert error["reason"] in outcome.err
    facts = json.loads((out / "run.json").read_text())
    assert (facts["inputs"], facts["inputs_left_out"], facts["rows"]) == (1000, 1, 999)
    # Repeated, it is no other batch, and still says what was left out.
    again = seqdomains("genomics", "predict", artefact, folder, "--threads", 1, "--out", out)
    assert (again.code, again.out) == (3, outcome.out)


def test_files_of_no_length_or_that_are_absent_or_have_no_window(seqdomains, artefact, genomes, out, tmp_path):
    empty, absent, short = (tmp_path / f"{name}.fa" for name in ("empty", "absent", "short"))
    empty.touch()
    short.write_text(">r\nACGT\n")
    given = (empty, genomes / "000.fa", absent, short)
    outcome = seqdomains("genomics", "predict", artefact, *given, "--threads", 1, "--out", out)
    assert outcome.code == 3
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert [(error["input"], error["record"]) for error in errors] == [
        (str(one), None) for one in (empty, absent, short)
    ]
    for error, word in zip(errors, ("is empty", "does not exist", "longer than every contig"), strict=True):
        assert word in error["reason"]
    assert set(pq.read_table(out / "predictions.parquet")["file"].to_pylist()) == {str(genomes / "000.fa")}


def test_nothing_but_bad_files_is_an_error(seqdomains, artefact, out, tmp_path):
    for name in ("a.fa", "b.fa"):
        (tmp_path / name).touch()
    outcome = seqdomains("genomics", "predict", artefact, tmp_path / "a.fa", tmp_path / "b.fa", "--out", out)
    assert outcome.code == 1
    assert "no input can be read" in outcome.err
    assert "a.fa is empty" in outcome.err
    assert not (out / "plan.parquet").exists()


def test_a_model_that_changed_does_not_finish_a_batch_of_another(seqdomains, artefact, copies, between, out, tmp_path):
    """Two workers of two models would make one table that nobody could tell apart."""
    folder = copies
    model = tmp_path / "model"
    shutil.copytree(artefact, model)
    command = ("genomics", "predict", model, folder, "--threads", 1, "--out", out)
    between(lambda: signal.raise_signal(signal.SIGINT))
    assert seqdomains(*command).code == 130
    assert 1 <= len(finished(out)) < planned(out)
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text + " ")
    outcome = seqdomains(*command)
    assert outcome.code == 2
    assert "model_sha256" in outcome.err
    (model / "config.json").write_text(text)
    assert seqdomains(*command).code == 0
