"""One shard: read its part of the inputs, compute it, and leave a file that is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from seqdomains.errors import InputError
from seqdomains.files import atomic_file, sha256
from seqdomains.pipelines.answers import BadInputError
from seqdomains.pipelines.batch.folder import BatchFolder, ShardFacts
from seqdomains.pipelines.batch.plan import Plan, Stretch

_ROW_GROUP = 1 << 16
# Rows of a shard's file: which input in place of its name.
SHARD_PLACE: Final = [("input", pa.int32()), ("record", pa.string()), ("start", pa.int64()), ("end", pa.int64())]

Item = TypeVar("Item")


class ChangedError(InputError):
    """An input is not what was planned; it may be so again."""


@dataclass(frozen=True)
class Failure:
    """Why an input was left out, and whether that may pass: the file was not there, or not what was planned."""

    reason: str
    passing: bool


@dataclass
class Tally:
    """What a shard has done so far.

    Parameters
    ----------
    units, tokens, blank, halved : int
        Windows, or records of a stream, and the rest; see `merge.BatchOutcome`.
    failures : dict of int to Failure
        Inputs that could not be read to the end of their stretch.
    told : callable
        Takes how many tokens are computed so far, the beginning of a long record among them.
    """

    units: int = 0
    tokens: int = 0
    blank: int = 0
    halved: int = 0
    failures: dict[int, Failure] = field(default_factory=dict)
    told: Callable[[int], None] = lambda tokens: None
    _computed: int = 0

    def computed(self, tokens: int) -> None:
        """Tell that so many more tokens are computed, or all but."""
        self._computed += tokens
        self.told(self._computed)


class Computation(Protocol):
    """What is computed of a shard: `windows.Windows` or `records.Records`."""

    @property
    def fields(self) -> list[pa.Field]:
        """Columns behind a row's place."""

    def rows(self, plan: Plan, number: int, tally: Tally) -> Generator[list[pa.Array]]:
        """Yield the columns of a shard's rows, `SHARD_PLACE` first, and keep the tally."""


def run_shard(
    plan: Plan,
    folder: BatchFolder,
    number: int,
    computation: Computation,
    *,
    told: Callable[[int], None] = lambda tokens: None,
) -> Tally:
    """Compute a shard and write its file.

    An input that is not what was planned, or cannot be read, is left out, which the shard's note says; the rows of it
    that were computed before stand in the file and are left out of the table. `told` hears how many tokens are
    computed.

    Raises
    ------
    InputError
        The file cannot be written, or the model's answer is not finite.
    """
    tally, rows = Tally(told=told), 0
    schema = pa.schema([*SHARD_PLACE, *computation.fields])
    try:
        with (
            atomic_file(folder.shard(number)) as partial,
            partial.open("wb") as handle,
            pq.ParquetWriter(handle, schema, compression="zstd", write_page_checksum=True) as writer,
            closing(computation.rows(plan, number, tally)) as found,
        ):
            held: list[pa.RecordBatch] = []
            waiting = 0
            for columns in found:
                held.append(pa.record_batch(columns, schema=schema))
                rows, waiting = rows + len(held[-1]), waiting + len(held[-1])
                if waiting >= _ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(held))
                    held, waiting = [], 0
            if held:
                writer.write_table(pa.Table.from_batches(held))
            writer.close()
            handle.flush()
            facts = ShardFacts(
                size=partial.stat().st_size,
                sha256=sha256(partial),
                process=os.getpid(),
                rows=rows,
                windows=tally.units,
                tokens=tally.tokens,
                blank=tally.blank,
                halved=tally.halved,
                failures=tuple((key, one.reason, one.passing) for key, one in sorted(tally.failures.items())),
            )
            # Before the shard stands under its name: one without a note is computed again.
            facts.write(folder.note(number), plan)
    except OSError as error:
        raise InputError(
            f"cannot write {folder.shard(number)}: {error.strerror or error}; mend that and repeat the command, which "
            "goes on behind the shards that are done"
        ) from error
    return tally


def watched(
    plan: Plan, number: int, read: Callable[[str, Stretch], Iterator[Item]], tally: Tally
) -> Iterator[tuple[int, Item]]:
    """Yield what is read of each stretch of a shard with its input's number; an input that is bad goes to the tally.

    Parameters
    ----------
    plan : Plan
    number : int
        The shard.
    read : callable
        Takes an input's place and a stretch of it; what is wrong with the input is a BadInputError.
    tally : Tally
    """
    for stretch in plan.shards[number]:
        planned = plan.inputs[stretch.input]
        try:
            _refuse_changed(planned.change())
            for item in read(planned.place, stretch):
                yield stretch.input, item
            # What was changed while it was read may have been read in two versions.
            _refuse_changed(planned.change())
        except BadInputError as bad:
            reason = str(bad.reason).replace(planned.place, planned.path)
            passing = isinstance(bad.reason, ChangedError) or isinstance(bad.__cause__, OSError)
            named = reason if planned.path in reason else f"{planned.path}: {reason}"
            tally.failures[stretch.input] = Failure(named, passing)


def _refuse_changed(change: str) -> None:
    if change:
        raise BadInputError(ChangedError(change))


def as_planned(items: Iterable[Item], count: int, *, what: str) -> Iterator[Item]:
    """Pass items on.

    Raises
    ------
    ChangedError
        At their end, where they were not as many as planned.

    Examples
    --------
    >>> list(as_planned("ab", 2, what="windows"))
    ['a', 'b']
    """
    found = 0
    for item in items:
        found += 1
        yield item
    if found != count:
        raise ChangedError(
            f"gave {found} {what} where {count} were planned; it was changed, or its index is not its own"
        )
