"""How far a batch is: what is read of a long record counts before it ends, and a log gets few lines."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.errors import InputError
from seqdomains.pipelines.batch.pace import Done, Pace
from seqdomains.pipelines.batch.plan import Plan, PlannedInput, Stretch, read_plan, write_plan
from seqdomains.pipelines.batch.records import AlongClasses, Records
from seqdomains.pipelines.batch.shard import Tally
from seqdomains.pipelines.batch.verbs import Predict, Runner
from seqdomains.pipelines.batch.whole import Whole
from seqdomains.pipelines.progress import Paced
from seqdomains.pipelines.stream import CHUNK

CPU = torch.device("cpu")


def plan(*tokens, **parameters):
    shards = tuple((Stretch(number, 0, 1),) for number in range(len(tokens)))
    inputs = tuple(PlannedInput(f"{number}.wav", f"/{number}.wav", 1, 1) for number in range(len(tokens)))
    return Plan({"whole": True, **parameters}, inputs, shards, (), tokens=tokens)


@pytest.fixture
def clock(monkeypatch):
    """A time that tests set."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_what_is_read_of_a_long_record_counts_before_it_ends(clock):
    pace = Pace(plan(360_000, per_second=100), [0], [0], tokens_name="positions")
    clock[0] += 60
    pace.heard(0, 90_000)
    assert pace.text() == "0 of 1 files, 15 min 0 s of 1 h 0 min, 0.0015 M positions/s, 3 min 0 s left"
    # A worker died, and another one took its shard.
    pace.heard(0, 45_000)
    assert "7 min 30 s of 1 h 0 min" in pace.text()
    pace.took(Done(0, 1, 360_000, 0))
    assert pace.text().startswith("1 of 1 files, 1 h 0 min of 1 h 0 min, ")
    assert pace.text().endswith(", 0 s left")
    assert (pace.done, pace.tokens, pace.finished) == (1, 360_000, 1)


def test_shards_that_were_done_before_say_nothing_of_the_speed(clock):
    pace = Pace(plan(3_000_000, 1_000_000), [0, 1], [1], tokens_name="bases")
    assert (pace.total, pace.done) == (2, 1)
    clock[0] += 10
    pace.heard(1, 500_000)
    assert pace.text() == "0 of 1 files, 3.5 of 4 M bases, 0.05 M bases/s, 10 s left"
    pace.took(Done(1, 1, 1_000_000, 1))
    assert pace.text().endswith(", 1 left out")


def test_a_plan_that_does_not_say_how_long_records_are_gives_no_time_left(clock):
    pace = Pace(Plan({"whole": True}, (), ((Stretch(0, 0, 1),),), ()), [0], [0], tokens_name="bases")
    clock[0] += 10
    pace.heard(0, 500_000)
    assert pace.text() == "0 of 1 files, 0.05 M bases/s"


def test_a_log_gets_few_lines(clock):
    pace = Pace(plan(360_000, per_second=100), [0], [0], tokens_name="positions")
    shown = []
    pace.show = lambda done, text, milestone: shown.append(milestone)
    for second in range(3000):
        clock[0] += 0.03
        pace.heard(0, 30 * second)
    assert 500 < len(shown) < 1000
    assert sum(shown) == 2


def test_lines_without_a_terminal_are_due_every_half_minute(clock):
    lines = Paced()
    due = []
    for second in range(200):
        clock[0] += 1
        if lines.due():
            due.append(second)
    assert due == [29, 59, 89, 119, 149, 179]


def test_a_plan_keeps_how_long_its_shards_are(tmp_path):
    made = plan(10, 20)
    write_plan(tmp_path / "plan.parquet", made)
    assert read_plan(tmp_path / "plan.parquet") == made
    assert [made.tokens_of(0), made.tokens_of(1)] == [10, 20]
    assert made.identity == Plan(made.parameters, made.inputs, made.shards, ()).identity


@pytest.mark.parametrize(
    ("tokens", "words"), [([10], "1 numbers of tokens for 2"), ([10, "x"], "tokens are no numbers")]
)
def test_tokens_that_do_not_fit_are_refused(tmp_path, tokens, words):
    write_plan(tmp_path / "plan.parquet", plan(10, 20))
    table = pq.read_table(tmp_path / "plan.parquet")
    facts = json.loads(table.schema.metadata[b"seqdomains"]) | {"tokens": tokens}
    changed = table.replace_schema_metadata({b"seqdomains": json.dumps(facts).encode()})
    pq.write_table(changed, tmp_path / "plan.parquet", write_page_checksum=True)
    with pytest.raises(InputError, match=words):
        read_plan(tmp_path / "plan.parquet")


def test_a_long_record_is_told_of_chunk_by_chunk(tmp_path):
    class Source:
        def records(self, path, first, count):
            yield "r", (np.full(CHUNK // 2, number % 4, np.uint8) for number in range(6))

    (tmp_path / "a").write_bytes(b"x")
    model = SequenceClassifier(MambaConfig(d_model=4, n_layer=1), classes=("a", "b")).eval()
    runner = Runner(Predict(model), device=CPU, batch_size=4, precision="float32")
    inputs = (PlannedInput.of(str(tmp_path / "a")),)
    heard = []
    tally = Tally(told=heard.append)
    given = Plan({"whole": True}, inputs, ((Stretch(0, 0, 1),),), ())
    rows = list(Whole(Source(), runner, tokens=CHUNK).rows(given, 0, tally))
    assert len(rows) == 1
    assert heard == [CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert tally.tokens == 3 * CHUNK


def test_a_long_stream_is_told_of_as_its_rows_come(tmp_path):
    class Source:
        def records(self, path, first, count):
            yield "r", [np.zeros(5, np.uint8)]
            yield "s", [np.zeros(CHUNK + 8, np.uint8)]

    (tmp_path / "a").write_bytes(b"x")
    model = SequenceClassifier(MambaConfig(d_model=4, n_layer=1), classes=("a", "b")).eval()
    heard = []
    tally = Tally(told=heard.append)
    given = Plan({"verb": "stream"}, (PlannedInput.of(str(tmp_path / "a")),), ((Stretch(0, 0, 2),),), ())
    rows = list(Records(Source(), AlongClasses(model, every=4, device=CPU)).rows(given, 0, tally))
    assert len(rows) >= 3
    # A row speaks of its end; a chunk's last ones wait for the next.
    assert heard[-1] == tally.tokens == CHUNK + 13
    assert heard == sorted(heard)
    assert any(5 < one <= CHUNK + 5 for one in heard)
