"""One shard: read its windows, compute them, and leave a file that is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.files import atomic_file, sha256
from seqdomains.pipelines.answers import BadInputError, reading
from seqdomains.pipelines.batch.folder import BatchFolder, ShardFacts
from seqdomains.pipelines.batch.plan import Plan, Stretch
from seqdomains.pipelines.batch.verbs import Launched, Runner
from seqdomains.pipelines.gather import gather
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.task import Span

_ROW_GROUP = 1 << 16
# Rows of a shard's file: which input in place of its name.
SHARD_PLACE = [("input", pa.int32()), ("record", pa.string()), ("start", pa.int64()), ("end", pa.int64())]


class Source(Protocol):
    """Reads a domain's files."""

    def spans(self, path: str, first: int, windows: int) -> Iterator[Span]:
        """Yield windows `first` to `first + windows` of a file, in its order."""

    def blank(self, span: Span) -> bool:
        """Whether a window says too little for its answer to mean anything."""


@dataclass(frozen=True)
class ShardOutcome:
    """What became of a shard.

    Parameters
    ----------
    windows, tokens : int
        That were computed.
    failures : tuple of (int, str)
        Inputs that could not be read to the end of their stretch, with the reason.
    """

    windows: int
    tokens: int
    failures: tuple[tuple[int, str], ...] = ()


def run_shard(plan: Plan, folder: BatchFolder, number: int, source: Source, runner: Runner) -> ShardOutcome:
    """Compute a shard and write its file.

    An input that is not what was planned, or cannot be read, is left out, which the shard's note says; the rows of it
    that were computed before stand in the file and are left out of the table.

    Raises
    ------
    InputError
        The file cannot be written, or the model's answer is not finite.
    """
    halved = runner.halved
    failures: dict[int, Failure] = {}
    rows = windows = tokens = blank = 0
    schema = pa.schema([*SHARD_PLACE, *runner.verb.fields])
    found = _windows(plan, number, source, failures)
    gathered = gather(found, batch_size=runner.batch_size, tokens=lambda one: len(one[1].tokens))
    try:
        with (
            atomic_file(folder.shard(number)) as partial,
            partial.open("wb") as handle,
            pq.ParquetWriter(handle, schema, compression="zstd", write_page_checksum=True) as writer,
            prefetched(gathered) as chunks,
        ):
            held: list[pa.RecordBatch] = []
            for chunk, answers in _answered(chunks, runner):
                held.append(pa.record_batch(_columns(chunk, answers, runner), schema=schema))
                rows += len(held[-1])
                windows += len(chunk)
                tokens += sum(len(span.tokens) for _, span in chunk)
                blank += sum(source.blank(span) for _, span in chunk)
                if sum(len(batch) for batch in held) >= _ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(held))
                    held = []
            if held:
                writer.write_table(pa.Table.from_batches(held))
            writer.close()
            handle.flush()
            facts = ShardFacts(
                size=partial.stat().st_size,
                sha256=sha256(partial),
                process=os.getpid(),
                rows=rows,
                windows=windows,
                tokens=tokens,
                blank=blank,
                halved=runner.halved - halved,
                failures=tuple((key, one.reason, one.passing) for key, one in sorted(failures.items())),
            )
            # Before the shard stands under its name: one without a note is computed again.
            facts.write(folder.note(number), plan)
    except OSError as error:
        raise InputError(
            f"cannot write {folder.shard(number)}: {error.strerror or error}; mend that and repeat the command, which "
            "goes on behind the shards that are done"
        ) from error
    return ShardOutcome(windows, tokens, tuple((key, one.reason) for key, one in sorted(failures.items())))


@dataclass(frozen=True)
class Failure:
    """Why an input was left out, and whether that may pass: the file was not there, or not what was planned."""

    reason: str
    passing: bool


def _windows(plan: Plan, number: int, source: Source, failures: dict[int, Failure]) -> Iterator[tuple[int, Span]]:
    for stretch in plan.shards[number]:
        path, place = plan.inputs[stretch.input].path, plan.inputs[stretch.input].place
        try:
            if change := plan.inputs[stretch.input].change():
                raise BadInputError(InputError(change))
            count = 0
            for span in reading(source.spans(place, stretch.first, stretch.windows)):
                yield stretch.input, span
                count += 1
            # What was changed while it was read may have been read in two versions.
            if change := plan.inputs[stretch.input].change() or _miscounted(count, stretch):
                raise BadInputError(InputError(change))
        except BadInputError as bad:
            reason = str(bad.reason).replace(place, path)
            passing = bad.__cause__ is None or isinstance(bad.__cause__, OSError)
            failures[stretch.input] = Failure(reason if path in reason else f"{path}: {reason}", passing)


def _miscounted(count: int, stretch: Stretch) -> str:
    if count == stretch.windows:
        return ""
    return f"gave {count} windows where {stretch.windows} were planned; it was changed, or its index is not its own"


Chunk = list[tuple[int, Span]]
# Places in a chunk of windows of one length, and what was launched for them.
Groups = list[tuple[list[int], Launched]]


def _answered(chunks: Iterator[Chunk], runner: Runner) -> Iterator[tuple[Chunk, dict[int, NDArray[Any]]]]:
    """Yield chunks with the answer of each window; one chunk is under way while the one before is taken in."""
    waiting: tuple[Chunk, Groups] | None = None
    for chunk in chunks:
        places: dict[int, list[int]] = {}
        for place, (_, span) in enumerate(chunk):
            places.setdefault(len(span.tokens), []).append(place)
        launched = [(alike, runner.launch([chunk[place][1].tokens for place in alike])) for alike in places.values()]
        if waiting is not None:
            yield _taken(*waiting, runner)
        waiting = chunk, launched
    if waiting is not None:
        yield _taken(*waiting, runner)


def _taken(chunk: Chunk, launched: Groups, runner: Runner) -> tuple[Chunk, dict[int, NDArray[Any]]]:
    answers: dict[int, NDArray[Any]] = {}
    for alike, rows in launched:
        answers |= zip(alike, runner.fetch(rows), strict=True)
    return chunk, answers


def _columns(chunk: Chunk, answers: dict[int, NDArray[Any]], runner: Runner) -> list[pa.Array]:
    rows = [answers[place] for place in range(len(chunk))]
    inputs = np.array([number for number, _ in chunk], np.int32)
    records = pa.array([span.record for _, span in chunk], pa.string())
    starts = np.array([span.start for _, span in chunk], np.int64)
    ends = np.array([span.end for _, span in chunk], np.int64)
    if not runner.verb.positions:
        return [pa.array(inputs), records, pa.array(starts), pa.array(ends), *runner.verb.columns(np.stack(rows))]
    counts = ends - starts
    each = np.repeat(np.arange(len(chunk)), counts)
    within = np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = starts[each] + within
    values = runner.verb.columns(np.concatenate(rows))
    return [pa.array(inputs[each]), records.take(pa.array(each)), pa.array(at), pa.array(at + 1), *values]
