"""From finished shards to what the user reads: one table in input order, the errors, and what the run was."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import atomic_file
from seqdomains.pipelines import likelihood
from seqdomains.pipelines.batch import verbs
from seqdomains.pipelines.batch.columns import TEXTS
from seqdomains.pipelines.batch.folder import BatchFolder, ShardFacts
from seqdomains.pipelines.batch.plan import Plan, shown
from seqdomains.pipelines.batch.shard import SHARD_PLACE
from seqdomains.pipelines.tracks import Stretches, open_track

Format = Literal["parquet", "tsv", "h5ad", "bedgraph", "bigwig"]
# Of rows whose place is a time, s.
_PLACE_IN_TIME: Final = [
    ("file", pa.string()),
    ("channel", pa.string()),
    ("start", pa.float64()),
    ("end", pa.float64()),
]
# Rows of a row group and of a piece that is held: the same whatever the shards are.
_ROWS = 1 << 16


@dataclass(frozen=True)
class BatchOutcome:
    """What became of a batch.

    Parameters
    ----------
    table : Path
        All rows, in input order.
    rows : int
        In the table.
    windows, tokens, blank : int
        That were computed; `blank` are windows that say too little for their answer to mean anything.
    inputs_left_out, records_left_out : int
        That have no row; errors.jsonl names each.
    halved : int
        How often a batch was halved because the memory ran out.
    """

    table: Path
    rows: int
    windows: int
    tokens: int
    blank: int
    inputs_left_out: int
    records_left_out: int
    halved: int

    @property
    def skipped(self) -> int:
        """How many lines errors.jsonl has."""
        return self.inputs_left_out + self.records_left_out

    @property
    def exit_code(self) -> int:
        """0, or 3 where something was skipped."""
        return 3 if self.skipped else 0


def merge(plan: Plan, folder: BatchFolder, *, name: str, form: Format) -> BatchOutcome:
    """Write the table and errors.jsonl from finished shards.

    Parameters
    ----------
    plan : Plan
    folder : BatchFolder
        Has the file of every shard.
    name : str
        Of the table, without a suffix.
    form : {"parquet", "tsv", "h5ad", "bedgraph", "bigwig"}

    Raises
    ------
    InputError
        No input could be read, a shard is damaged, or a file cannot be written.
    """
    facts = [_facts(plan, folder, number) for number in range(len(plan.shards))]
    failures: dict[int, str] = {}
    for one in facts:
        for number, reason, _ in one.failures:
            failures.setdefault(number, reason)
    left_out = [(one.input, one.record, one.reason) for one in plan.skipped]
    left_out += [(number, None, failures[number]) for number in sorted(failures)]
    errors = [
        {"input": shown(plan.inputs[number].path), "record": record, "reason": reason}
        for number, record, reason in left_out
    ]
    table = folder.path / f"{name}.{form}"
    planned = {part.input for shard in plan.shards for part in shard}
    try:
        with atomic_file(folder.errors) as partial:
            partial.write_text("".join(json.dumps(error) + "\n" for error in errors), encoding="utf-8")
        if not planned - set(failures):
            why = f"{folder.errors} says why, first: {errors[0]['reason']}" if errors else f"{folder.plan} has no shard"
            raise InputError(f"no input could be read; {why}")
        rows = _Rows(plan, folder, facts, dropped=set(failures))
        if form in ("bedgraph", "bigwig"):
            _write_track(table, rows)
        else:
            with atomic_file(table) as partial:
                {"parquet": _write_parquet, "tsv": _write_tsv, "h5ad": _write_h5ad}[form](partial, rows)
    except OSError as error:
        raise InputError(
            f"cannot write into {folder.path}: {error.strerror or error}; mend that and repeat the command: all shards "
            "are done"
        ) from error
    return BatchOutcome(
        table=table,
        rows=rows.count,
        windows=sum(one.windows for one in facts),
        tokens=sum(one.tokens for one in facts),
        blank=sum(one.blank for one in facts),
        inputs_left_out=len({number for number, record, _ in left_out if record is None}),
        records_left_out=sum(record is not None for _, record, _ in left_out),
        halved=sum(one.halved for one in facts),
    )


def _facts(plan: Plan, folder: BatchFolder, number: int) -> ShardFacts:
    facts = folder.facts(number, plan)
    if facts is None:
        raise InputError(f"{folder.shard(number)} is missing or damaged; repeat the command, which computes it again")
    return facts


class _Rows:
    """The rows of all shards in input order, without those of inputs that were left out; file names as text."""

    def __init__(self, plan: Plan, folder: BatchFolder, facts: list[ShardFacts], *, dropped: set[int]) -> None:
        folder.check(0, facts[0])  # before its columns are believed
        self._plan = plan
        self._facts = facts
        self._folder = folder
        self._kept = np.array([number not in dropped for number in range(len(plan.inputs))])
        self._names = np.array([shown(one.path) for one in plan.inputs], dtype=object)
        with _removed_if_damaged(folder.shard(0)), folder.shard(0).open("rb") as handle:
            self._values = _values(pq.read_schema(handle))
        self._per_second, self._lead = _per_second(plan), _lead(plan)
        self.schema = pa.schema([*(verbs.PLACE if self._per_second is None else _PLACE_IN_TIME), *self._values])
        self.count = 0

    def __iter__(self) -> Iterator[pa.Table]:
        return self.tables()

    def tables(self, *, blank: bool = False) -> Iterator[pa.Table]:
        """Yield tables of `_ROWS` rows; the last may be shorter. Likelihoods that are NaN stand in `blank` ones alone.

        Such a row says where a record ends.
        """
        self.count = 0
        held: list[pa.Table] = []
        count = 0
        for number in range(len(self._plan.shards)):
            for batch in self._batches(number, blank=blank):
                held.append(batch)
                count += len(batch)
                while count >= _ROWS:
                    whole = pa.concat_tables(held)
                    self.count += _ROWS
                    yield whole.slice(0, _ROWS)
                    held, count = [whole.slice(_ROWS)], count - _ROWS
        if count:
            self.count += count
            yield pa.concat_tables(held)

    def _batches(self, number: int, *, blank: bool) -> Iterator[pa.Table]:
        path = self._folder.shard(number)
        self._folder.check(number, self._facts[number])
        with _removed_if_damaged(path), path.open("rb") as handle:
            file = pq.ParquetFile(handle, page_checksum_verification=True)
            if _values(file.schema_arrow) != self._values:
                raise ValueError("its columns are not those of the shards before it")
            for batch in file.iter_batches(_ROWS):
                if any(_lacks(column) for column in batch.columns):
                    raise ValueError("a row has no value in one of its columns")
                inputs = batch.column(0).to_numpy()
                if len(inputs) and not 0 <= inputs.min() <= inputs.max() < len(self._names):
                    raise ValueError("a row is of an input that the plan does not have")
                kept = self._kept[inputs]
                if not blank and self._values[0].name == likelihood.VALUE:
                    kept &= ~np.isnan(batch.column(len(SHARD_PLACE)).to_numpy())
                columns = [pa.array(self._names[inputs], pa.string()), *batch.columns[1:]]
                if self._per_second is not None:
                    columns[2:4] = [pa.array(self._seconds(column.to_numpy())) for column in columns[2:4]]
                table = pa.Table.from_arrays(columns, schema=self.schema)
                yield table if kept.all() else table.filter(pa.array(kept))

    def _seconds(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(positions > 0, positions / (self._per_second or 1) + self._lead, 0.0)


def _lead(plan: Plan) -> float:
    """Return by how much the border between two positions is later than their number says, s."""
    found = plan.parameters.get("lead", 0.0)
    if not isinstance(found, int | float) or not 0 <= found < np.inf:
        raise InputError(f"the plan has a lead of {found!r} s, expected a number from 0 on; take another folder")
    return float(found)


def _per_second(plan: Plan) -> float | None:
    """Return how many tokens are a second, where places are times; None where they count tokens."""
    found = plan.parameters.get("per_second")
    if found is None:
        return None
    if not isinstance(found, int | float) or not 0 < found < np.inf:
        raise InputError(f"the plan has {found!r} tokens a second, expected a number above 0; take another folder")
    return float(found)


def _values(schema: pa.Schema) -> list[pa.Field]:
    """Return the columns behind a row's place; a ValueError where they are none that a verb gives."""
    places, values = list(schema)[: len(SHARD_PLACE)], list(schema)[len(SHARD_PLACE) :]
    if places != list(pa.schema(SHARD_PLACE)) or len({*schema.names, "file"}) <= len(schema) or not values:
        raise ValueError("its columns are not those of a shard")
    for field in values:
        kind = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
        if kind != (pa.string() if field.name in TEXTS else pa.float32()):
            raise ValueError(f"its column {field.name} is of {field.type}")
    return values


def _lacks(column: pa.Array) -> bool:
    """Whether a place in a column is empty."""
    inside = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    return bool(column.null_count or inside.null_count)


@contextmanager
def _removed_if_damaged(path: Path) -> Iterator[None]:
    """Make what Arrow finds wrong with a shard an error; its file goes, or a repeated command would find it again."""
    try:
        yield
    except (OSError, ValueError, TypeError, IndexError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        path.unlink(missing_ok=True)
        raise InputError(
            f"{path} was damaged ({error}) and is removed; repeat the command, which computes it again"
        ) from error


def _write_parquet(path: Path, rows: _Rows) -> None:
    with (
        path.open("wb") as handle,
        pq.ParquetWriter(handle, rows.schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in rows:
            writer.write_table(table, row_group_size=_ROWS)


def _write_tsv(path: Path, rows: _Rows) -> None:
    """Write the columns of `predict` with 6 digits, as without a folder, behind the file."""
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write("#" + "\t".join(rows.schema.names) + "\n")
        for table in rows:
            for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
                handle.write("\t".join(f"{one:.6f}" if isinstance(one, float) else str(one) for one in row) + "\n")


def _write_h5ad(path: Path, rows: _Rows) -> None:
    """Write embeddings as AnnData: X has a row for each window, obs its place. All rows are held."""
    anndata = require_anndata()
    if rows.schema.names[-1] != "embedding" or not pa.types.is_fixed_size_list(rows.schema.types[-1]):
        raise InputError(f"{path.parent / 'shards'} holds no embeddings; repeat the command with --format parquet")
    whole = pa.concat_tables(list(rows))
    width = whole.schema.field("embedding").type.list_size
    values = pa.concat_arrays(whole.column("embedding").chunks).flatten().to_numpy().reshape(-1, width)
    places = whole.select(list(range(len(verbs.PLACE)))).to_pandas()
    places.index = places.index.astype(str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata.AnnData(X=values, obs=places).write_h5ad(path)


def _write_track(path: Path, rows: _Rows) -> None:
    """Write values along records; the rows are read twice, since bigWig takes the records' lengths first."""
    if rows.schema.types[-1] != pa.float32():
        raise InputError(
            f"{path.parent / 'shards'} holds no values for a track; repeat the command with --format parquet"
        )
    lengths: dict[str, int] = {}
    files: dict[str, str] = {}
    for table in rows.tables(blank=True):
        ends = table.group_by(["file", "record"], use_threads=False).aggregate([("end", "max")])
        for file, record, end in zip(*(ends[name].to_pylist() for name in ("file", "record", "end_max")), strict=True):
            if files.setdefault(record, file) != file:
                raise InputError(
                    f"record {record!r} stands in {files[record]} and in {file}, and a track takes a name once; repeat "
                    "the command with --format parquet, all shards are done"
                )
            lengths[record] = max(end, lengths.get(record, 0))
    if not lengths:
        raise InputError(f"{path.parent / 'shards'} holds no value for a track")
    value = rows.schema.names[-1]
    with open_track(path, value=value, lengths=lengths) as track:
        for table in rows:
            records = table["record"].combine_chunks().dictionary_encode()
            borders = np.flatnonzero(np.diff(records.indices.to_numpy())) + 1
            places = [0, *borders.tolist(), len(table)]
            starts, ends, values = (table[name].to_numpy() for name in ("start", "end", value))
            for first, last in pairwise(places):
                name = records[first].as_py()
                track.write(Stretches(name, starts[first:last], ends[first:last]), values[first:last, None])


def require_anndata() -> Any:
    """Import anndata, which the extra of that name installs.

    Raises
    ------
    ConfigError
        It is not there.
    """
    try:
        import anndata
    except ImportError as error:
        raise ConfigError(
            f"--format h5ad needs anndata, which cannot be imported ({error}): pip install 'seqdomains[anndata]'"
        ) from error
    return anndata
