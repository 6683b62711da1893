"""Shards: what is computed of a window, files that are whole or computed again, and a table that is never wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from seqdomains.backbone import MambaBackbone, MambaConfig, MambaLM, SequenceClassifier
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.batch.cut import cut_shards
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.merge import merge
from seqdomains.pipelines.batch.plan import Plan, PlannedInput, Skipped, read_plan, write_plan
from seqdomains.pipelines.batch.run import run_batch
from seqdomains.pipelines.batch.verbs import Embed, Predict, Runner
from seqdomains.pipelines.batch.windows import Windows
from seqdomains.pipelines.batch.worker import InThisProcess, Processes, Worker
from seqdomains.pipelines.interrupts import StopRequest
from seqdomains.task import Span

WINDOW = 8
CPU = torch.device("cpu")


class Bytes:
    """Files of one record whose bytes are its tokens, in windows of 8; the last one may be shorter."""

    def spans(self, path, first, windows):
        codes = np.frombuffer(Path(path).read_bytes(), np.uint8)
        if (codes > 100).any():
            raise InputError("a byte over 100")
        for start in range(first * WINDOW, min(codes.size, (first + windows) * WINDOW), WINDOW):
            yield Span("r", start, min(start + WINDOW, codes.size), codes[start : start + WINDOW] % 4)

    def blank(self, span):
        return not span.tokens.any()


class Fits(nn.Module):
    """A classifier that runs out of memory above so many windows, and remembers what it was given."""

    classes = ("a", "b")

    def __init__(self, fits=1000):
        super().__init__()
        self.fits = fits
        self.shapes = []
        self.backbone = SimpleNamespace(blank=lambda windows, length: torch.zeros(windows, length, dtype=torch.uint8))

    def forward(self, tokens, lengths=None):
        if len(tokens) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        self.shapes.append(tuple(tokens.shape))
        mean = tokens.float().mean(1)
        return torch.stack([mean, 2 - mean], dim=1)


@pytest.fixture
def batch(tmp_path):
    """Make inputs of so many bytes, and return what a batch over them needs."""

    def make(*sizes, batch_size=4, windows=4, verb=None, precision="float32", divisible=True, out="out"):
        (tmp_path / "in").mkdir(exist_ok=True)
        paths = []
        for number, size in enumerate(sizes):
            path = tmp_path / "in" / f"{number}.bin"
            if not path.exists():
                path.write_bytes(np.random.default_rng(number).integers(0, 4, size).astype(np.uint8).tobytes())
            paths.append(str(path))
        return Batch(tmp_path / out, paths, verb or Predict(Fits()), batch_size, windows, precision, divisible)

    return make


class Batch:
    def __init__(self, out, paths, verb, batch_size, windows, precision, divisible):
        self.folder = BatchFolder(out)
        self.paths = paths
        self.verb = verb
        self.parameters = {"batch_size": batch_size, "precision": precision, "threads": 1}
        self.windows = windows
        self.divisible = divisible

    def plan(self):
        inputs = tuple(PlannedInput.of(path) for path in self.paths)
        counts = [(number, -(-one.size // WINDOW), self.divisible) for number, one in enumerate(inputs) if one.size > 0]
        skipped = tuple(Skipped(number, None, "absent") for number, one in enumerate(inputs) if one.size <= 0)
        return Plan(self.parameters, inputs, cut_shards(counts, windows=self.windows), skipped)

    def worker(self, plan):
        return self.reading(Bytes(), plan)

    def reading(self, source, plan):
        batch_size, precision = (self.parameters[key] for key in ("batch_size", "precision"))
        runner = Runner(self.verb, device=CPU, batch_size=batch_size, precision=precision)
        return Worker(plan, self.folder, Windows(source, runner), nn.Identity(), CPU)

    def run(self, engine=None, *, form="parquet", share=None, between=None):
        """Do the batch in this process; `between` is called with each shard that is done."""
        self.plans = []

        def make_plan():
            self.plans.append(self.plan())
            return self.plans[-1]

        def make_worker(folder):
            worker = self.worker(read_plan(folder.plan))
            compute = worker.run

            def run(shard, heard):
                done = compute(shard, heard)
                if between is not None:
                    between(shard)
                return done

            worker.run = run
            return worker

        return run_batch(
            self.folder,
            lambda plan: engine or InThisProcess(make_worker),
            parameters=self.parameters,
            paths=self.paths,
            make_plan=make_plan,
            facts={},
            name="table",
            form=form,
            share=share,
            progress=False,
        )

    @property
    def table(self):
        return pq.read_table(self.folder.path / "table.parquet")

    @property
    def errors(self):
        return [json.loads(line) for line in self.folder.errors.read_text().splitlines()]

    @property
    def facts(self):
        return json.loads(self.folder.run.read_text())


def expected(paths):
    return [(path, "r", span.start, span.end) for path in paths for span in Bytes().spans(path, 0, 10**6)]


def places(table):
    return list(zip(*(table[name].to_pylist() for name in ("file", "record", "start", "end")), strict=True))


def left_over(folder):
    return [path.name for path in folder.path.rglob("*") if path.name.endswith(".partial")]


def test_rows_stand_in_input_order_however_windows_are_batched(batch):
    made = batch(100, 5, 33, 64, 7, 200)
    outcome = made.run()
    assert places(made.table) == expected(made.paths)
    means = [span.tokens.mean() for path in made.paths for span in Bytes().spans(path, 0, 100)]
    np.testing.assert_allclose(made.table["p_a"].to_numpy(), 1 / (1 + np.exp(2 - 2 * np.array(means))), atol=1e-6)
    assert (outcome.rows, outcome.exit_code) == (len(means), 0)
    assert made.facts["rows"] == made.facts["windows_computed"] == len(means)
    assert made.facts["tokens_computed"] == 409
    assert made.facts["shards"] == len(list(made.folder.shards.glob("*.parquet"))) > 5
    assert left_over(made.folder) == []


def test_the_table_does_not_tell_how_it_was_cut(batch):
    sizes, tables = (100, 5, 33, 64, 7, 200), []
    for windows, divisible in ((4, True), (7, True), (1000, True), (4, False)):
        made = batch(*sizes, windows=windows, divisible=divisible, out=f"out-{windows}-{divisible}")
        made.run()
        tables.append((made.folder.path / "table.parquet").read_bytes())
    assert len(set(tables)) == 1


def test_a_shard_that_is_done_is_not_computed_again(batch):
    made = batch(100, 200)
    stopped = []

    class Stops(InThisProcess):
        def compute(self, folder, shards, stop, heard):
            for one in super().compute(folder, shards, stop, heard):
                yield one
                stopped.append(one.shard)
                if len(stopped) == 3:
                    signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Exception, match=r"3 shards were computed, \d+ are left") as caught:
        made.run(Stops(lambda folder: made.worker(made.plans[0])))
    assert caught.value.exit_code == 143
    assert not (made.folder.path / "table.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in made.folder.shards.iterdir()}
    assert 0 < len(before) < len(made.plans[0].shards)
    again = []
    made.run(between=again.append)
    assert made.plans == []  # the plan was read
    assert sorted(stopped + again) == list(range(made.facts["shards"]))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert made.facts["last_session"]["shards"] == len(again)
    assert places(made.table) == expected(made.paths)


@pytest.mark.parametrize("change", ["deleted", "longer", "same size", "shorter"])
def test_an_input_that_changes_while_it_is_read_has_no_row(batch, change):
    made = batch(40, 128, 40)
    changed = Path(made.paths[1])
    rows_before = []

    def between(shard):
        if any(part.input == 1 for part in plan.shards[shard]) and not rows_before:
            table = pq.read_table(made.folder.shard(shard))
            rows_before.append(table["input"].to_pylist().count(1))
            content = changed.read_bytes()
            changed.unlink()
            if change != "deleted":
                changed.write_bytes({"longer": content + b"\0", "shorter": content[:-9]}.get(change, content[::-1]))
                os.utime(changed, ns=(1, 1))

    plan = made.plan()
    outcome = made.run(between=between)
    assert rows_before[0] > 0  # rows of it stood already, and others were to come
    assert rows_before[0] < 16
    assert outcome.exit_code == 3
    (error,) = made.errors
    assert error["input"] == str(changed)
    word = {"deleted": "was deleted", "same size": "was written to"}.get(change, "when the plan was made")
    assert word in error["reason"]
    assert places(made.table) == expected([made.paths[0], made.paths[2]])
    assert (made.facts["rows"], made.facts["inputs_left_out"]) == (10, 1)


def test_an_input_that_was_away_for_a_while_is_read_when_it_is_there_again(batch):
    made = batch(40, 128, 40)
    away, kept = Path(made.paths[1]), Path(made.paths[1] + ".kept")

    def between(shard):
        if away.exists():
            away.rename(kept)

    assert made.run(between=between).exit_code == 3
    assert [error["input"] for error in made.errors] == [str(away)]
    kept.rename(away)
    again = []
    assert made.run(between=again.append).exit_code == 0
    assert 0 < len(again) < made.facts["shards"]
    assert places(made.table) == expected(made.paths)
    assert made.errors == []


def test_an_input_that_changes_under_the_reader_has_no_row(batch):
    """Its windows were all read, but perhaps of two versions."""
    made = batch(40, 24, 40)

    class Writes(Bytes):
        def spans(self, path, first, windows):
            yield from super().spans(path, first, windows)
            if path == made.paths[1]:
                os.utime(path, ns=(1, 1))

    made.worker = lambda plan: made.reading(Writes(), plan)
    assert made.run().exit_code == 3
    assert "was written to" in made.errors[0]["reason"]
    assert places(made.table) == expected([made.paths[0], made.paths[2]])


def test_an_input_that_cannot_be_read_is_left_out_and_named(batch):
    made = batch(40, 24, 0, 40)
    Path(made.paths[1]).write_bytes(bytes([200]) * 24)
    assert made.run().exit_code == 3
    assert [(error["input"], error["reason"]) for error in made.errors] == [
        (made.paths[2], "absent"),
        (made.paths[1], f"{made.paths[1]}: a byte over 100"),
    ]
    assert places(made.table) == expected([made.paths[0], made.paths[3]])


def test_a_file_that_gives_fewer_windows_than_were_planned_is_left_out(batch):
    made = batch(40, 24)

    class Short(Bytes):
        def spans(self, path, first, windows):
            yield from super().spans(path, first, windows - (path == made.paths[1]))

    made.worker = lambda plan: made.reading(Short(), plan)
    assert made.run().exit_code == 3
    assert "gave 2 windows where 3 were planned" in made.errors[0]["reason"]
    assert places(made.table) == expected(made.paths[:1])


def test_inputs_that_are_all_bad_are_an_error_and_no_table(batch):
    made = batch(24, 24)
    for path in made.paths:
        Path(path).write_bytes(bytes([200]) * 24)
    with pytest.raises(InputError, match=r"no input could be read; .*errors\.jsonl says why"):
        made.run()
    assert len(made.errors) == 2
    assert not (made.folder.path / "table.parquet").exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_damaged_weights_end_the_batch_and_leave_no_shard(batch, precision):
    model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=("a", "b")).eval()
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    made = batch(40, verb=Predict(model), precision=precision)
    with pytest.raises(InputError, match="not finite"):
        made.run()
    assert list(made.folder.shards.iterdir()) == []


def test_a_batch_is_halved_when_memory_runs_out_and_that_is_recorded(batch, caplog):
    model = Fits(fits=5)
    made = batch(400, 13, batch_size=16, windows=16, verb=Predict(model))
    outcome = made.run()
    assert {shape[0] for shape in model.shapes} <= {1, 2, 3, 4}
    assert (4, WINDOW) in model.shapes
    assert outcome.halved == made.facts["batches_halved"] == 2
    assert "2 times a batch was halved" in caplog.text
    whole = batch(400, 13, batch_size=16, windows=16, out="whole")
    whole.run()
    assert whole.facts["batches_halved"] == 0
    np.testing.assert_allclose(made.table["p_a"].to_numpy(), whole.table["p_a"].to_numpy(), atol=1e-3)
    assert places(made.table) == places(whole.table)


def test_a_trial_finds_how_many_windows_fit():
    model = Fits(fits=5)
    runner = Runner(Predict(model), device=CPU, batch_size=16, precision="float32")
    assert runner.fit(WINDOW) == 4
    assert {shape[1] for shape in model.shapes} == {WINDOW}
    assert Runner(Predict(model), device=CPU, batch_size=3, precision="float32").fit(WINDOW) == 3


def test_one_window_that_does_not_fit_is_an_error_that_says_so(batch):
    made = batch(40, verb=Predict(Fits(fits=0)))
    with pytest.raises(InputError, match="one window of 8 tokens does not fit into the memory"):
        made.run()
    assert list(made.folder.shards.iterdir()) == []


# Of what is computed of a window.


def backbone(layers=3):
    generator = torch.Generator().manual_seed(0)
    return MambaBackbone(MambaConfig(d_model=16, n_layer=layers), generator=generator).eval()


def stream_after(model, layer, tokens):
    """Return the residual stream behind a block, caught by a hook on the whole model's forward pass."""
    caught = []
    block = model.layers[layer - 1]
    hook = block.register_forward_hook(lambda module, given, result: caught.append(result[0] + result[1]))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    return caught[0]


TOKENS = torch.randint(4, (5, 19), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layer", [0, 1, 2, 3, None])
@pytest.mark.parametrize("pooling", ["mean", "last", "max", "position"])
def test_embeddings_are_those_of_the_forward_pass(layer, pooling):
    model = backbone()
    with torch.no_grad():
        found = Embed(model, pooling=pooling, layer=layer).launch(TOKENS)
        if layer is None:
            hidden = model(TOKENS)
        else:
            hidden = stream_after(model, layer, TOKENS) if layer else model.embedding(TOKENS)
    reference = {
        "mean": hidden.mean(1),
        "last": hidden[:, -1],
        "max": hidden.max(1).values,
        "position": hidden,
    }[pooling]
    torch.testing.assert_close(found, reference, rtol=0, atol=0)


def test_any_model_with_a_backbone_gives_embeddings():
    config = MambaConfig(d_model=16, n_layer=2)
    for model in (MambaLM(config).eval(), SequenceClassifier(config, classes=("a", "b")).eval()):
        with torch.no_grad():
            assert torch.equal(Embed(model, pooling="last", layer=None).launch(TOKENS), model.backbone(TOKENS)[:, -1])


@pytest.mark.parametrize("layer", [-1, 4, 100])
def test_a_layer_that_the_model_has_not_is_refused(layer):
    with pytest.raises(ConfigError, match=f"--layer {layer}: the model has blocks 1 to 3"):
        Embed(backbone(), pooling="mean", layer=layer)


@pytest.mark.parametrize("pooling", ["mean", "position"])
def test_embeddings_in_a_table(batch, pooling):
    model = backbone(1)
    made = batch(100, 5, 33, verb=Embed(model, pooling=pooling, layer=None))
    made.run()
    spans = [(path, span) for path in made.paths for span in Bytes().spans(path, 0, 100)]
    with torch.no_grad():
        hidden = [model(torch.from_numpy(span.tokens.astype(np.int64))[None])[0] for _, span in spans]
    found = np.array(made.table["embedding"].to_pylist(), np.float32)
    if pooling == "mean":
        assert places(made.table) == expected(made.paths)
        reference = torch.stack([one.mean(0) for one in hidden])
    else:
        assert places(made.table) == [
            (path, "r", at, at + 1) for path, span in spans for at in range(span.start, span.end)
        ]
        reference = torch.cat(hidden)
    np.testing.assert_allclose(found, reference.numpy(), atol=1e-5)


def test_bfloat16_runs_and_is_about_right():
    model = SequenceClassifier(MambaConfig(d_model=16, n_layer=2), classes=("a", "b")).eval()
    windows = list(TOKENS.numpy().astype(np.uint8))
    found = {}
    for precision in ("float32", "bfloat16"):
        runner = Runner(Predict(model), device=CPU, batch_size=2, precision=precision)
        found[precision] = runner.fetch(runner.launch(windows))
        assert found[precision].dtype == np.float64
    assert not np.array_equal(found["float32"], found["bfloat16"])
    np.testing.assert_allclose(found["float32"], found["bfloat16"], atol=2e-2)


# Of damage and full disks.


@pytest.fixture
def done(batch):
    """A batch of 3 shards that is done."""
    made = batch(40, 30, windows=4)
    made.run()
    assert made.facts["shards"] == 3
    return made


def test_a_shard_that_was_cut_off_is_computed_again(done):
    table, shard = (done.folder.path / "table.parquet").read_bytes(), done.folder.shard(1)
    whole = shard.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:length])
        again = []
        done.run(between=again.append)
        assert again == [1]
        assert (done.folder.path / "table.parquet").read_bytes() == table


def test_a_shard_of_another_plan_or_of_nobody_is_computed_again(done):
    table, shard = (done.folder.path / "table.parquet").read_bytes(), done.folder.shard(1)
    rows = pq.read_table(shard)
    for metadata in ({}, {b"seqdomains": b"[]"}, {b"seqdomains": b"{"}, {b"seqdomains": b'{"plan": "other"}'}):
        pq.write_table(rows.slice(1).replace_schema_metadata(metadata), shard)
        again = []
        done.run(between=again.append)
        assert again == [1]
        assert (done.folder.path / "table.parquet").read_bytes() == table


def refusal(call):
    """Return the message of a user error, or nothing."""
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


def test_no_flipped_bit_of_a_shard_gives_another_table(done, monkeypatch):
    """It is computed again, refused by name, or changes nothing that is read."""
    monkeypatch.setattr("seqdomains.files.sync", lambda path: None)  # a minute otherwise
    plan, table = done.plans[0], (done.folder.path / "table.parquet").read_bytes()
    shard = done.folder.shard(0)  # whose columns the table has
    whole = shard.read_bytes()
    counts, wrong = {"again": 0, "refused": 0, "harmless": 0}, []
    for place in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place // 2 % 8
        shard.write_bytes(damaged)
        if done.folder.facts(0, plan) is None:
            counts["again"] += 1
        elif said := refusal(lambda: merge(plan, done.folder, name="table", form="parquet")):
            assert str(shard) in said
            counts["refused"] += 1
        else:
            counts["harmless"] += 1
            if (done.folder.path / "table.parquet").read_bytes() != table:
                wrong.append(place)
    assert not wrong
    assert counts["refused"] > 100


def test_no_flipped_bit_of_a_shards_note_is_believed(done):
    plan, note = done.plans[0], done.folder.note(0)
    whole, facts = note.read_bytes(), done.folder.facts(0, plan)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        note.write_bytes(damaged)
        assert done.folder.facts(0, plan) in (None, facts), place


def test_a_shard_with_a_flipped_bit_in_its_rows_is_named_and_the_way_out_works(done):
    table, shard = (done.folder.path / "table.parquet").read_bytes(), done.folder.shard(1)
    column = pq.ParquetFile(shard).metadata.row_group(0).column(5)
    damaged = bytearray(shard.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size - 6] ^= 4
    (done.folder.path / "table.parquet").unlink()
    shard.write_bytes(damaged)
    with pytest.raises(InputError, match=r"000001\.parquet was damaged .* repeat the command, which computes it again"):
        done.run()
    assert not (done.folder.path / "table.parquet").exists()
    again = []
    done.run(between=again.append)
    assert again == [1]
    assert (done.folder.path / "table.parquet").read_bytes() == table


@pytest.fixture
def file_limit():
    """Limit how large a file may become, which fails in the middle of a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[1] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_fails_with_a_message_wherever_it_happens_and_the_repeat_finishes(batch, file_limit):
    made = batch(1000, 600, windows=80, batch_size=16, verb=Embed(backbone(1), pooling="mean", layer=None))
    made.run()
    table, plan = (made.folder.path / "table.parquet").read_bytes(), made.plans[0]
    reached = set()
    for size in (0, 40, *range(500, len(table) + 1500, 1500)):
        shutil.rmtree(made.folder.path)
        file_limit(size)
        if said := refusal(made.run):
            assert "cannot write" in said or "cannot be locked" in said, size
            assert left_over(made.folder) == []
            assert not made.folder.run.exists()
            shards = len(list(made.folder.shards.glob("*.parquet")))
            assert all(made.folder.facts(number, plan) for number in range(shards))
            reached.add((made.folder.plan.exists(), shards))
        file_limit(None)
        made.run()
        assert (made.folder.path / "table.parquet").read_bytes() == table
    # Before the plan, before a shard, and with all shards.
    assert {(False, 0), (True, 0), (True, 3)} <= reached


# Of processes that die.

# A worker in a few lines: what it does with an order is to be filled in.
WORKER = """
import json, os, sys, time
place, log = int(sys.argv[1]), sys.argv[2]
with open(log, "a") as handle:
    handle.write(f"{os.getpid()}\\n")
for order in sys.stdin:
    shard = None if order.startswith("{") else int(order)
"""


@pytest.fixture
def processes(tmp_path):
    """Engines whose workers are such scripts; whatever they leave running is ended."""
    log = tmp_path / "pids"

    def make(*bodies):
        commands = []
        for place, body in enumerate(bodies):
            script = tmp_path / f"worker{place}.py"
            script.write_text(WORKER + textwrap.indent(textwrap.dedent(body), "    "))
            commands.append([sys.executable, str(script), str(place), str(log)])
        return Processes(commands, threads=1), lambda: [int(line) for line in log.read_text().split()]

    yield make
    for pid in log.read_text().split() if log.exists() else ():
        if is_worker(int(pid), tmp_path):
            os.kill(int(pid), signal.SIGKILL)


def is_worker(pid, folder):
    """Tell whether a process runs, and is one of ours."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


ANSWERS = """print(json.dumps({"shard": shard, "windows": 1, "tokens": 1, "failures": 0}), flush=True)"""


def test_workers_that_answer(processes, tmp_path):
    engine, started = processes(ANSWERS, ANSWERS)
    found = list(engine.compute(BatchFolder(tmp_path), range(20), StopRequest()))
    assert sorted(one.shard for one in found) == list(range(20))
    assert len(started()) == 2
    assert not any(is_worker(pid, tmp_path) for pid in started())


def test_workers_tell_how_far_they_are(processes, tmp_path):
    engine, _ = processes(f"""print(json.dumps({{"shard": shard, "heard": 7 + shard}}), flush=True)\n{ANSWERS}""")
    heard = []
    found = list(engine.compute(BatchFolder(tmp_path), range(3), StopRequest(), lambda *told: heard.append(told)))
    assert sorted(one.shard for one in found) == [0, 1, 2]
    assert sorted(heard) == [(0, 7), (1, 8), (2, 9)]


@pytest.mark.parametrize(
    ("death", "status"),
    [
        ("os._exit(7)", "exit code 7"),
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("print('{\"shard\": 5, ', end='', flush=True); os._exit(0)", "exit code 0"),
    ],
)
def test_a_shard_that_ends_every_worker_ends_the_batch_after_three(processes, tmp_path, caplog, death, status):
    engine, started = processes(f"if shard == 5: {death}\n{ANSWERS}")
    found = []
    with pytest.raises(InputError, match=f"shard 5 ended 3 workers, the last with {status}") as caught:
        found.extend(engine.compute(BatchFolder(tmp_path), range(9), StopRequest()))
    assert caught.value.exit_code == 1
    assert len(started()) == 3
    assert caplog.text.count(f"a worker ended with {status}; another one takes its shard") == 2


def test_a_worker_that_dies_once_is_replaced_and_its_shard_computed(processes, tmp_path, caplog):
    once = f"""
    if shard == 3 and not os.path.exists(log + ".died"):
        open(log + ".died", "w").close()
        os._exit(9)
    {ANSWERS}
    """
    engine, started = processes(once)
    found = list(engine.compute(BatchFolder(tmp_path), range(6), StopRequest()))
    assert [one.shard for one in found] == list(range(6))
    assert len(started()) == 2
    assert caplog.text.count("another one takes its shard") == 1


def test_what_a_worker_says_is_wrong_ends_the_batch(processes, tmp_path):
    engine, _ = processes('print(json.dumps({"error": "the disk is full"}), flush=True)')
    with pytest.raises(InputError, match="the disk is full"):
        list(engine.compute(BatchFolder(tmp_path), range(3), StopRequest()))


def test_a_batch_that_ends_early_leaves_no_worker(processes, tmp_path):
    """The one that is busy is ended, and no other one is started in its place."""
    busy = """
    open(log + ".busy", "w").close()
    time.sleep(100)
    """
    dies = """
    while not os.path.exists(log + ".busy"):
        time.sleep(0.001)
    os._exit(1)
    """
    engine, started = processes(busy, dies)
    before = set(threading.enumerate())
    with pytest.raises(InputError, match="ended 3 workers"):
        list(engine.compute(BatchFolder(tmp_path), range(30), StopRequest()))
    for thread in set(threading.enumerate()) - before:
        thread.join(3)
        assert not thread.is_alive(), "still waits for a worker"
    assert len(started()) == 1 + 3
    until(lambda: not any(is_worker(pid, tmp_path) for pid in started()))


TRIES = f"""
if shard is None:
    print(json.dumps({{"fits": json.loads(order)["batch_size"] >> place}}), flush=True)
    continue
{ANSWERS}
"""


@pytest.mark.parametrize("asked", [True, False])
def test_processes_that_were_started_before_there_was_a_plan(processes, tmp_path, asked):
    engine, started = processes(TRIES, TRIES)
    with engine:
        engine.prepare({"batch_size": 16})
        if asked:
            assert engine.fits() == 8  # the less of 16 and 8
        found = list(engine.compute(BatchFolder(tmp_path), range(20), StopRequest()))
    assert sorted(one.shard for one in found) == list(range(20))
    assert len(started()) == 2
    assert not any(is_worker(pid, tmp_path) for pid in started())


def test_processes_that_get_no_plan_are_ended(processes, tmp_path):
    engine, started = processes(TRIES, TRIES)
    with engine:
        engine.prepare({"batch_size": 16})
        assert engine.fits() == 8
    assert len(started()) == 2
    assert not any(is_worker(pid, tmp_path) for pid in started())


def test_a_process_that_ends_in_its_trial_is_replaced(processes, tmp_path, caplog):
    dies = f"""
    if shard is None:
        os._exit(3)
    {ANSWERS}
    """
    engine, started = processes(TRIES, dies)
    with engine:
        engine.prepare({"batch_size": 16})
        assert engine.fits() == 16
        found = list(engine.compute(BatchFolder(tmp_path), range(200), StopRequest()))
    assert sorted(one.shard for one in found) == list(range(200))
    assert "a worker ended with exit code 3; another one takes its place" in caplog.text
    assert len(started()) == 3


def test_a_trial_that_fails_everywhere_or_finds_no_room_says_so(processes):
    for bodies, message in (
        (["os._exit(3)"], "all workers ended, the last with exit code 3"),
        ([TRIES, 'print(\'{"error": "too long"}\', flush=True)'], "too long"),
    ):
        engine, _ = processes(*bodies)
        with engine:
            engine.prepare({"batch_size": 16})
            with pytest.raises(InputError, match=message):
                engine.fits()


def test_a_command_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="a worker cannot be started"):
        list(Processes([[str(tmp_path / "absent")]], threads=1).compute(BatchFolder(tmp_path), [0], StopRequest()))


# Of the folder.


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_that_somebody_works_in_is_refused(batch, shared):
    made = batch(40)
    made.folder.make()
    with (
        made.folder.lock(shared=shared),
        pytest.raises(ConfigError, match=f"process {os.getpid()} on .* works in .*; wait for it") as caught,
    ):
        made.run()
    assert caught.value.exit_code == 2
    assert not made.folder.plan.exists()
    made.run()
    assert places(made.table) == expected(made.paths)


def test_a_folder_that_holds_something_else_is_left_alone(batch):
    made = batch(40)
    made.folder.path.mkdir()
    (made.folder.path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"is not empty and no batch's folder \(it holds thesis.tex\)"):
        made.run()
    assert [path.name for path in made.folder.path.iterdir()] == ["thesis.tex"]


def test_what_killed_processes_left_is_cleared(batch):
    made = batch(40)
    made.folder.make()
    write_plan(made.folder.plan, made.plan())
    made.folder.shards.mkdir()
    for left in (made.folder.path / ".table.parquet.77.partial", made.folder.shards / ".000000.parquet.77.partial"):
        left.write_bytes(b"half")
    made.run()
    assert left_over(made.folder) == []


def test_a_name_that_is_no_unicode_has_rows_and_errors_all_the_same(batch, tmp_path):
    """Such names are bytes to the file system and surrogates to Python."""
    made = batch(40)
    for name in (b"\xff.bin", b"bad\xff.bin"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        Path(path).write_bytes(bytes([200 if b"bad" in name else 1]) * 24)
        made.paths.append(path)
    assert made.run().exit_code == 3
    assert [error["input"] for error in made.errors] == [f"{tmp_path}/bad\\xff.bin"]
    assert made.table["record"].to_pylist() == ["r"] * 8
    made.run(form="tsv")
    assert len((made.folder.path / "table.tsv").read_text().splitlines()) == 9


def test_rows_have_checksums(done):
    for path in (done.folder.shard(0), done.folder.path / "table.parquet"):
        with pytest.raises(OSError, match="CRC"):
            damaged_read(path)


def damaged_read(path):
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(5)
    content[column.data_page_offset + column.total_compressed_size - 6] ^= 4
    pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)
