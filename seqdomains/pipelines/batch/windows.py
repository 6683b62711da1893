"""A shard of windows: read in order, computed in batches of one length, one of them under way while others are read."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqdomains.pipelines.answers import reading
from seqdomains.pipelines.batch.plan import Plan
from seqdomains.pipelines.batch.shard import Tally, as_planned, watched
from seqdomains.pipelines.batch.verbs import Launched, Runner
from seqdomains.pipelines.gather import gather
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.task import Span

Chunk = list[tuple[int, Span]]
# Places in a chunk of windows of one length, and what was launched for them.
Groups = list[tuple[list[int], Launched]]


class WindowSource(Protocol):
    """Reads the windows of a domain's files."""

    def spans(self, path: str, first: int, windows: int) -> Iterator[Span]:
        """Yield windows `first` to `first + windows` of a file, in its order."""

    def blank(self, span: Span) -> bool:
        """Whether a window says too little for its answer to mean anything."""


class Windows:
    """What a verb says of each window of a shard.

    Parameters
    ----------
    source : WindowSource
    runner : Runner
        Computes batches of them.
    """

    def __init__(self, source: WindowSource, runner: Runner) -> None:
        self._source = source
        self._runner = runner

    @property
    def fields(self) -> list[pa.Field]:
        """See `shard.Computation`."""
        return self._runner.verb.fields

    def rows(self, plan: Plan, number: int, tally: Tally) -> Generator[list[pa.Array]]:
        """See `shard.Computation`."""
        halved = self._runner.halved
        spans = watched(
            plan,
            number,
            lambda place, part: reading(
                as_planned(self._source.spans(place, part.first, part.windows), part.windows, what="windows")
            ),
            tally,
        )
        gathered = gather(spans, batch_size=self._runner.batch_size, tokens=lambda one: len(one[1].tokens))
        with prefetched(gathered) as chunks:
            for chunk, answers in _answered(chunks, self._runner):
                tally.units += len(chunk)
                tokens = sum(len(span.tokens) for _, span in chunk)
                tally.tokens += tokens
                tally.computed(tokens)
                tally.blank += sum(self._source.blank(span) for _, span in chunk)
                tally.halved = self._runner.halved - halved
                yield _columns(chunk, answers, self._runner)


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
