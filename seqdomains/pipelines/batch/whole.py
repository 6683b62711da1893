"""A shard of whole records: short ones padded and computed together, long ones with the model's state carried along."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.pipelines.answers import BadInputError, reading
from seqdomains.pipelines.batch.plan import Plan, Stretch
from seqdomains.pipelines.batch.records import Pieces, RecordSource
from seqdomains.pipelines.batch.shard import Tally, as_planned, watched
from seqdomains.pipelines.batch.verbs import Runner
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.stream import CHUNK, in_chunks

# Batches whose records are put in order of length together, so that little is padded.
_POOLED = 8


@dataclass(frozen=True)
class _Read:
    """A record that was read: its tokens where it is short, else what was found of it."""

    record: str
    length: int
    blank: bool
    tokens: NDArray[Any] | None
    found: NDArray[Any] | None = None


class Whole:
    """What a verb says of each record as a whole.

    Parameters
    ----------
    source : RecordSource
    runner : Runner
        Computes batches of them, none with positions.
    tokens : int
        Of a batch, with what is padded.
    """

    def __init__(self, source: RecordSource, runner: Runner, *, tokens: int) -> None:
        self._source = source
        self._runner = runner
        self._tokens = tokens

    @property
    def fields(self) -> list[pa.Field]:
        """See `shard.Computation`."""
        return self._runner.verb.fields

    def rows(self, plan: Plan, number: int, tally: Tally) -> Generator[list[pa.Array]]:
        """See `shard.Computation`."""
        halved = self._runner.halved

        def read(place: str, part: Stretch) -> Iterator[_Read]:
            records = as_planned(self._source.records(place, part.first, part.windows), part.windows, what="records")
            return (self._read(record, tally) for record in reading(records))

        held: list[tuple[int, _Read]] = []
        waiting = 0
        for item in watched(plan, number, read, tally):
            held.append(item)
            waiting += item[1].length if item[1].found is None else 0
            tally.units += 1
            tally.tokens += item[1].length
            tally.blank += item[1].blank
            if waiting >= _POOLED * self._tokens:
                yield self._columns(held)
                held, waiting = [], 0
        if held:
            yield self._columns(held)
        tally.halved = self._runner.halved - halved

    def _read(self, given: Pieces, tally: Tally) -> _Read:
        record, pieces = given
        held: list[NDArray[Any]] = []
        counted = _Counted(reading(pieces))
        rest = iter(counted)
        for piece in rest:
            held.append(piece)
            if counted.length > CHUNK:
                break
        else:
            if not counted.length:
                raise BadInputError(InputError(f"{record} holds nothing, of which nothing can be said"))
            tally.computed(counted.length)
            return _Read(record, counted.length, counted.blank, np.concatenate(held))
        if not self._runner.verb.causal:
            raise BadInputError(
                InputError(
                    f"{record} is longer than {CHUNK} tokens, and a model that reads both sides of a position takes it "
                    "whole: give --window"
                )
            )
        with prefetched(in_chunks([(record, chain(held, rest))]), depth=2) as chunks:
            found = self._runner.along(_told(chunks, tally))[0]
        return _Read(record, counted.length, counted.blank, None, found)

    def _columns(self, held: list[tuple[int, _Read]]) -> list[pa.Array]:
        found: list[NDArray[Any] | None] = [one.found for _, one in held]
        short = sorted(
            ((one.length, place, one.tokens) for place, (_, one) in enumerate(held) if one.tokens is not None),
            key=lambda one: one[:2],
        )
        first = 0
        while first < len(short):
            last = first + 1
            while last < len(short) and (last + 1 - first) * short[last][0] <= self._tokens:
                last += 1
            group = short[first:last]
            answers = self._runner.fetch(self._runner.launch([tokens for *_, tokens in group]))
            for (_, place, _), answer in zip(group, answers, strict=True):
                found[place] = answer
            first = last
        return [
            pa.array(np.array([number for number, _ in held], np.int32)),
            pa.array([one.record for _, one in held], pa.string()),
            pa.array(np.zeros(len(held), np.int64)),
            pa.array(np.array([one.length for _, one in held], np.int64)),
            *self._runner.verb.columns(np.stack([row for row in found if row is not None])),
        ]


def _told(chunks: Iterable[tuple[str, NDArray[Any], bool]], tally: Tally) -> Iterator[NDArray[Any]]:
    """Pass chunks on, and tell of each when the next one is asked for: it is computed then."""
    for _, tokens, _ in chunks:
        yield tokens
        tally.computed(len(tokens))


class _Counted:
    """Pieces, how many tokens they were, and whether these were the same throughout."""

    def __init__(self, pieces: Iterable[NDArray[Any]]) -> None:
        self._pieces = pieces
        self.length = 0
        self.blank = True

    def __iter__(self) -> Iterator[NDArray[Any]]:
        first: NDArray[Any] | None = None
        for piece in self._pieces:
            if len(piece) and self.blank:
                first = piece[:1] if first is None else first
                self.blank = bool((piece == first).all())
            self.length += len(piece)
            yield piece
