"""The plan of a batch: every window in one shard, whole on the disk, and told apart from any other plan."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.batch.cut import cut_shards, shard_tokens
from seqdomains.pipelines.batch.plan import Plan, PlannedInput, Skipped, Stretch, differences, read_plan, write_plan
from seqdomains.pipelines.batch.run import Slice

PLAN = Plan(
    {"window": 4, "model": "m", "regions": None},
    (
        PlannedInput("a.fa", "/in/a.fa", 10, 1),
        PlannedInput("b.fa", "/in/b.fa", -1, -1),
        PlannedInput("c.fa", "/in/c.fa", 30, 2, "ab" * 32),
    ),
    ((Stretch(0, 0, 2), Stretch(2, 0, 1)), (Stretch(2, 1, 4),)),
    (Skipped(0, "r", "short"), Skipped(1, None, "b.fa: does not exist")),
)


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=12), st.integers(1, 20), st.integers(0, 3))
def test_shards_hold_every_window_once_and_in_order(sizes, windows, offset):
    inputs = [(number + offset, total, divisible) for number, (total, divisible) in enumerate(sizes)]
    shards = cut_shards(inputs, windows=windows)
    found = [
        (part.input, at) for shard in shards for part in shard for at in range(part.first, part.first + part.windows)
    ]
    assert found == [(number, at) for number, total, _ in inputs for at in range(total)]
    whole = {number for number, _, divisible in inputs if not divisible}
    for shard in shards[:-1]:
        count = sum(part.windows for part in shard)
        assert count >= windows
        assert count == windows or shard[-1].input in whole
        # What went over is one input alone: all before it were not enough.
        assert count - shard[-1].windows < windows
    for number in whole:
        assert sum(part.input == number for shard in shards for part in shard) == 1


@pytest.mark.parametrize("total", [0, 1, 10**6, 10**8, 10**13])
def test_shards_have_a_size_that_a_worker_bears(total):
    assert 1 << 16 <= shard_tokens(total) <= 1 << 24


NAMES = st.one_of(st.text(min_size=1), st.binary(min_size=1).map(os.fsdecode))


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), NAMES, NAMES)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_plan_is_read_as_it_was_written_whatever_its_files_are_called(tmp_path, names, record, reason):
    inputs = tuple(PlannedInput(name, f"/in/{name}", 7, 1) for name in names)
    skipped = tuple(Skipped(number, record, f"{reason} in {names[number]}") for number in range(len(names)))
    plan = Plan({"model": names[0], "share": 0.1}, inputs, ((Stretch(0, 0, 3),),), skipped)
    write_plan(tmp_path / "plan.parquet", plan)
    found = read_plan(tmp_path / "plan.parquet")
    assert (found, found.identity) == (plan, plan.identity)


def test_another_plan_has_another_identity():
    others = [
        replace(PLAN, parameters={**PLAN.parameters, "window": 5}),
        replace(PLAN, inputs=(*PLAN.inputs[:2], replace(PLAN.inputs[2], mtime_ns=3))),
        replace(PLAN, shards=(PLAN.shards[0], (Stretch(2, 1, 3),))),
        replace(PLAN, shards=((*PLAN.shards[0], *PLAN.shards[1]),)),
        replace(PLAN, skipped=PLAN.skipped[:1]),
    ]
    assert len({plan.identity for plan in (PLAN, *others)}) == 1 + len(others)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "plan.parquet"
    write_plan(path, PLAN)
    return path


def test_a_plan_that_was_cut_off_is_refused_by_name(written):
    whole = written.read_bytes()
    for length in range(0, len(whole), 7):
        written.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"plan\.parquet cannot be read as a plan .* remove the folder"):
            read_plan(written)


def test_a_plan_with_a_flipped_bit_is_refused_or_says_the_same(written):
    whole = written.read_bytes()
    refused, wrong = 0, []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        written.write_bytes(damaged)
        try:
            if read_plan(written) != PLAN:
                wrong.append(place)
        except InputError:
            refused += 1
    assert not wrong
    assert refused > len(whole) // 4


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a plan", b"{}"])
def test_no_plan_at_all(tmp_path, content):
    path = tmp_path / "plan.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a plan"):
        read_plan(path)


def test_another_parquet_file_is_no_plan(tmp_path):
    pq.write_table(pa.table({"input": [0]}), tmp_path / "plan.parquet")
    with pytest.raises(InputError, match="cannot be read as a plan"):
        read_plan(tmp_path / "plan.parquet")


def test_differences_name_every_parameter_and_every_input_that_is_new():
    places = [one.place for one in PLAN.inputs]
    assert differences(PLAN, PLAN.parameters, places) == []
    assert differences(PLAN, {"window": 5, "model": "n", "new": 1}, [*places, "/in/d.fa"]) == [
        'model: "n" differs from "m" of the plan',
        "new: 1 differs from null of the plan",
        "window: 5 differs from 4 of the plan",
        "/in/d.fa: is not in the plan",
    ]


def test_inputs_that_were_deleted_since_are_no_difference():
    assert differences(PLAN, PLAN.parameters, [PLAN.inputs[1].place]) == []


def test_an_input_tells_how_it_changed(tmp_path):
    path = tmp_path / "a.fa"
    path.write_bytes(b"ACGT")
    known, hashed = PlannedInput.of(str(path)), PlannedInput.of(str(path), hashed=True)
    assert known.change() == hashed.change() == ""

    os.utime(path, ns=(1, 1))
    assert known.change() == "was written to since the plan was made"
    assert hashed.change() == ""  # the same bytes
    path.write_bytes(b"ACGA")
    os.utime(path, ns=(1, 1))
    assert hashed.change() == "was written to since the plan was made"
    path.write_bytes(b"ACGTA")
    assert known.change() == hashed.change() == "has 5 bytes, and 4 when the plan was made"
    path.unlink()
    assert known.change() == "was deleted, or cannot be read any more"


def test_an_input_that_was_absent_and_came_is_a_change(tmp_path):
    absent = PlannedInput.of(str(tmp_path / "a.fa"))
    assert absent.change() == ""
    (tmp_path / "a.fa").write_bytes(b"ACGT")
    assert absent.change()
    assert "-1" not in absent.change()


@pytest.mark.parametrize("text", ["", "1", "/", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/3/5", "1.0/3", "²/3"])
def test_a_share_is_one_of_several(text):
    with pytest.raises(ConfigError, match="--shard"):
        Slice.parse(text)


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_shares_take_each_shard_once(jobs):
    shares = [Slice(number, jobs) for number in range(1, jobs + 1)]
    assert all(sum(share.takes(shard) for share in shares) == 1 for shard in range(20))


def test_a_plan_that_skips_an_input_it_does_not_have_is_refused(tmp_path):
    path = tmp_path / "plan.parquet"
    write_plan(path, replace(PLAN, skipped=(Skipped(0, None, "bad"),)))
    table = pq.read_table(path)
    metadata = table.schema.metadata
    facts = json.loads(metadata[b"seqdomains"])
    facts["skipped"] = [[99, None, "bad"]]
    pq.write_table(table.replace_schema_metadata({b"seqdomains": json.dumps(facts).encode()}), path)
    with pytest.raises(InputError, match="none of"):
        read_plan(path)
