"""A batch's folder: its plan, its shards and their notes, and what `report` reads of it."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from documents import DEEP, edited
from hypothesis import strategies as st
from mutations import Draw, mutated
from tables import ODD_TEXT, edited_table, odd_parquet, parquet
from target import Target

from seqdomains.errors import printable
from seqdomains.pipelines.batch.folder import BatchFolder, ShardFacts
from seqdomains.pipelines.batch.merge import merge
from seqdomains.pipelines.batch.plan import (
    Plan,
    PlannedInput,
    Skipped,
    Stretch,
    _plan_of,
    differences,
    read_plan,
    shown,
    write_plan,
)
from seqdomains.pipelines.batch.run import _write_run
from seqdomains.pipelines.batch.shard import SHARD_PLACE
from seqdomains.pipelines.batch.summary import summary

KEY = b"seqdomains"
PLAN = Plan(
    {
        "verb": "predict",
        "model": "/models/m",
        "precision": "float32",
        "device": "cpu",
        "window": 4,
        "stride": 4,
        "regions": None,
        "batch_size": 2,
        "shard_size": None,
    },
    (
        PlannedInput("a.fa", "/in/a.fa", 10, 1),
        PlannedInput("b.fa", "/in/b.fa", -1, -1),
        PlannedInput("c.fa", "/in/c.fa", 30, 2, "ab" * 32),
        PlannedInput("d.fa", "/in/d.fa", 7, 3),
    ),
    ((Stretch(0, 0, 2), Stretch(2, 0, 1)), (Stretch(2, 1, 4), Stretch(3, 0, 1))),
    (Skipped(0, "r", "short"), Skipped(1, None, "b.fa: does not exist")),
)
COLUMNS = [
    ("predicted", pa.string()),
    ("embedding", pa.list_(pa.float32(), 2)),
    ("p_a", pa.float32()),
    ("p_b", pa.float32()),
]


def _rows(number: int) -> pa.Table:
    """Return a shard's rows, as `run_shard` writes them."""
    parts = PLAN.shards[number]
    inputs = np.repeat([part.input for part in parts], [part.windows for part in parts]).astype(np.int32)
    starts = np.concatenate([np.arange(part.first, part.first + part.windows) for part in parts]) * 4
    shares = np.linspace(0, 1, len(inputs), dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(shares, 2)), 2)
    columns = [
        inputs,
        [f"chr{number}" for number in inputs],
        starts,
        starts + 4,
        ["a"] * len(inputs),
        vectors,
        shares,
        1 - shares,
    ]
    return pa.table([pa.array(column) for column in columns], schema=pa.schema([*SHARD_PLACE, *COLUMNS]))


def _batch() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = BatchFolder(Path(name))
        write_plan(folder.plan, PLAN)
        folder.shards.mkdir()
        for number in range(len(PLAN.shards)):
            data = parquet(_rows(number))
            folder.shard(number).write_bytes(data)
            facts = ShardFacts(
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                process=1,
                rows=PLAN.windows_of(number),
                windows=PLAN.windows_of(number),
                tokens=4 * PLAN.windows_of(number),
                blank=0,
                halved=1,
                failures=((3, "d.fa: bad \u2028 header", True),) if number else (),
            )
            facts.write(folder.note(number), PLAN)
        outcome = merge(PLAN, folder, name="predictions", form="parquet")
        session = {"windows": 8, "tokens": 32, "shards": 2, "seconds": 0.5}
        _write_run(folder, PLAN, outcome, {"python": "3.11"}, session, seconds=1.0)
        return {str(path.relative_to(name)): path.read_bytes() for path in Path(name).rglob("*") if path.is_file()}


BATCH = _batch()
ALONE = replace(PLAN, shards=PLAN.shards[:1])


def sealed_plan(table: pa.Table) -> pa.Table:
    """Write the plan's identity anew, so that a change gets behind it, where there is a plan at all."""
    with suppress(Exception):
        facts = json.loads(table.schema.metadata[KEY])
        facts["identity"] = _plan_of(facts, table.to_pylist()).identity
        return table.replace_schema_metadata({KEY: json.dumps(facts).encode()})
    return table


@st.composite
def _plan(draw: Draw) -> bytes:
    data = BATCH["plan.parquet"]
    kind = draw(st.sampled_from(("bytes", "table", "facts", "names", "parameters")))
    if kind == "bytes":
        return draw(mutated(data, grow=draw(st.booleans())))
    table = draw(edited_table(data)) if kind == "table" else pq.read_table(io.BytesIO(data), use_threads=False)
    facts = json.loads(table.schema.metadata[KEY])
    if kind == "names":
        where, at = draw(st.sampled_from((("inputs", 0), ("inputs", 1), ("skipped", 1), ("skipped", 2))))
        facts[where][0][at] = draw(st.sampled_from(ODD_TEXT) | st.text(max_size=5))
    elif kind == "parameters":
        facts["parameters"] = draw(edited(facts["parameters"]))
    elif kind == "facts":
        facts = draw(edited(facts))
    text = json.dumps(facts).encode()
    text = draw(st.just(text) | mutated(text, most=2)) if kind == "facts" else text
    return draw(odd_parquet(sealed_plan(table.replace_schema_metadata({KEY: text})), data))


def _read_plan(folder: Path) -> None:
    plan = read_plan(folder / "plan.parquet")
    differences(plan, PLAN.parameters, [one.place for one in PLAN.inputs])
    assert plan.windows >= 0
    for one in plan.inputs:
        shown(one.path)
        # Without the hash: a plan names the files whose bytes are compared with it.
        replace(one, sha256="").change()


def sealed_note(facts: dict[str, object]) -> bytes:
    """Write a shard's note with the hash that belongs to it."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return json.dumps({"facts": facts, "sha256": digest}).encode()


def _noted(stem: str, data: bytes, plan: Plan = PLAN) -> dict[str, bytes]:
    """Return a shard of these bytes with a note that agrees, and the plan where it is another."""
    facts = json.loads(BATCH[f"{stem}.json"])["facts"]
    facts |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "plan": plan.identity}
    files = {f"{stem}.parquet": data, f"{stem}.json": sealed_note(facts)}
    return files if plan is PLAN else files | {"plan.parquet": _written(plan)}


@st.composite
def _shard(draw: Draw) -> dict[str, bytes]:
    stem = f"shards/{draw(st.sampled_from(('000000', '000001')))}"
    note, shard = f"{stem}.json", f"{stem}.parquet"
    kind = draw(st.sampled_from(("rows", "rows", "rows", "bytes", "facts", "note", "shard")))
    if kind == "note":
        return {note: draw(mutated(BATCH[note]))}
    if kind == "facts":
        return {note: sealed_note(draw(edited(json.loads(BATCH[note])["facts"])))}
    if kind == "shard":
        return {shard: draw(mutated(BATCH[shard]))}
    data = draw(
        mutated(BATCH[shard], grow=draw(st.booleans()))
        if kind == "bytes"
        else edited_table(BATCH[shard]).flatmap(lambda table: odd_parquet(table, BATCH[shard]))
    )
    # Alone, no other shard has the columns that it should have.
    return _noted(stem, data, draw(st.sampled_from((PLAN, ALONE))) if stem.endswith("0") else PLAN)


def _read_shards(folder: Path) -> None:
    batch = BatchFolder(folder)
    plan = read_plan(batch.plan)
    for form in ("parquet", "tsv", "bedgraph"):
        merge(plan, batch, name="predictions", form=form)


@st.composite
def _reported(draw: Draw) -> dict[str, bytes]:
    name = draw(st.sampled_from(("run.json", "run.json", "errors.jsonl", "plan.parquet", f"{_FIRST}.json")))
    if name == "plan.parquet":
        return {name: draw(_plan())}
    if name != "run.json" or draw(st.integers(0, 3)) == 0:
        return {name: draw(mutated(BATCH[name]))}
    return {name: json.dumps(draw(edited(json.loads(BATCH[name])))).encode()}


def _report(folder: Path) -> None:
    text = summary(BatchFolder(folder))
    # People print it.
    assert all(line == printable(line) for line in text.splitlines()), text


def _table_of(name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(BATCH[name]), use_threads=False)


def _facts_of() -> dict[str, Any]:
    return json.loads(_table_of("plan.parquet").schema.metadata[KEY])


def _with_facts(content: bytes) -> bytes:
    return parquet(sealed_plan(_table_of("plan.parquet").replace_schema_metadata({KEY: content})))


def _nested(depth: int) -> bytes:
    """Return the plan's facts with a parameter that is nested so deep."""
    facts = _facts_of()
    facts["parameters"]["regions"] = "HERE"
    return json.dumps(facts).encode().replace(b'"HERE"', b"[" * depth + b"]" * depth)


def _called(text: str) -> bytes:
    """Return the plan's facts with an input of that name."""
    facts = _facts_of()
    facts["inputs"][0] = [text, text]
    return json.dumps(facts).encode()


def _written(plan: Plan) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "plan.parquet"
        write_plan(path, plan)
        return path.read_bytes()


def _typed(name: str, kind: pa.DataType) -> bytes:
    """Return the plan with a column of another type."""
    table = _table_of("plan.parquet")
    at = table.column_names.index(name)
    return parquet(sealed_plan(table.set_column(at, name, table.column(at).cast(kind))))


def _repeated(rows: int, hashed: str) -> bytes:
    """Return a plan with one row so often, in some KiB."""
    table = _table_of("plan.parquet")
    columns = [pa.nulls(rows, kind) for kind in table.schema.types]
    for name in ("input", "size", "mtime_ns"):
        at = table.column_names.index(name)
        columns[at] = pa.repeat(0, rows).cast(table.schema.types[at])
    columns[table.column_names.index("sha256")] = pa.DictionaryArray.from_arrays(
        pa.repeat(0, rows).cast(pa.int32()), pa.array([hashed])
    )
    out = io.BytesIO()
    with pq.ParquetWriter(out, pa.table(columns, table.column_names).schema, store_schema=False) as writer:
        writer.write_table(pa.table(columns, table.column_names))
        writer.add_key_value_metadata(table.schema.metadata)
    return out.getvalue()


_FIRST = "shards/000000"
_ROWS = _rows(0)
_EMPTY_PLANS = (
    _written(replace(PLAN, inputs=(), shards=(), skipped=())),
    _written(replace(PLAN, shards=(), skipped=())),
)
_PLANS = (
    *_EMPTY_PLANS,
    *(_with_facts(content) for content in (*DEEP, b"null", b"[]", b"{}", b"\xff", b"9" * 5000)),
    *(_with_facts(_nested(depth)) for depth in range(900, 1000, 5)),
    *(_with_facts(_called(text)) for text in ODD_TEXT),
    *(_typed(name, pa.string()) for name in ("size", "mtime_ns", "first", "input")),
    _written(replace(PLAN, parameters={})),
    _written(replace(PLAN, parameters={**PLAN.parameters, "model": "\x1b[31m", "device": "x" * 100_000})),
    _written(replace(PLAN, parameters={**PLAN.parameters, "verb": ["x"]})),
    _written(replace(PLAN, shards=(PLAN.shards[0], *((Stretch(2, at, 1),) for at in range(1, 40_000))))),
    _repeated(1 << 22, ""),
    _repeated(1 << 14, "x" * (1 << 20)),
)

TARGETS = (
    Target(
        "batch plan",
        _plan().map(lambda data: {"plan.parquet": data}),
        _read_plan,
        where=r"IN/plan\.parquet",
        valid=BATCH,
        worst=tuple({"plan.parquet": data} for data in _PLANS),
    ),
    Target(
        "batch shards",
        _shard(),
        _read_shards,
        where=r"IN/(shards|errors|plan)\b|^record .* stands in ",
        valid=BATCH,
        base=BATCH,
        worst=(
            *({"plan.parquet": data} for data in _EMPTY_PLANS),
            *({f"{_FIRST}.json": content} for content in DEEP),
            *(_noted(_FIRST, content) for content in (b"", b"PAR1", bytes(1000))),
            *(
                _noted(_FIRST, parquet(table), plan)
                for plan in (PLAN, ALONE)
                for table in (
                    _ROWS.slice(0, 0),
                    _ROWS.append_column("start", _ROWS["start"]),
                    _ROWS.append_column("p_a", _ROWS["p_a"]),
                    _ROWS.append_column("p_c", _ROWS["predicted"]),
                    _ROWS.select([*_ROWS.column_names[:4], "p_a", "embedding"]),
                    _ROWS.select([*_ROWS.column_names[:4], "predicted"]),
                    _ROWS.select(_ROWS.column_names[:4]),
                    *(
                        _ROWS.set_column(at, name, pa.nulls(len(_ROWS), _ROWS.schema.types[at]))
                        for at, name in enumerate(_ROWS.column_names)
                    ),
                )
            ),
        ),
    ),
    Target(
        "batch report",
        _reported(),
        _report,
        where=r"IN/(plan|run|errors)\.",
        valid=BATCH,
        base=BATCH,
        worst=(
            *({"plan.parquet": data} for data in _PLANS),
            *({name: content} for name in ("run.json", "errors.jsonl", f"{_FIRST}.json") for content in DEEP),
            *(
                {"errors.jsonl": content}
                for content in (b"\n" * (4 << 20), b'{"reason": ["x"]}\n', b'{"reason": "\\u001b[31m"}')
            ),
            *(
                {"run.json": BATCH["run.json"].replace(b'"seconds": 0.5', b'"seconds": ' + number)}
                for number in (b"null", b"NaN", b"1e999", b"-1", b'"1"', b"9" * 4000)
            ),
        ),
    ),
)
