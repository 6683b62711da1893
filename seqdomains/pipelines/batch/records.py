"""A shard of whole records, each read from its beginning to its end by a model that carries its state along."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from seqdomains.backbone import MambaLM, SequenceClassifier
from seqdomains.pipelines import likelihood, stream
from seqdomains.pipelines.batch.columns import class_columns, class_fields
from seqdomains.pipelines.batch.plan import Plan, Stretch
from seqdomains.pipelines.batch.shard import Tally, as_planned, watched

# A record's name, and its tokens in pieces of any size.
Pieces = tuple[str, Iterable[NDArray[Any]]]
# Of one record, and what is said of each.
Rows = tuple[str, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


class RecordSource(Protocol):
    """Reads the records of a domain's files."""

    def records(self, path: str, first: int, count: int) -> Iterator[Pieces]:
        """Yield records `first` to `first + count` of a file, in its order."""


class Along(Protocol):
    """What a model says along a record."""

    @property
    def fields(self) -> list[pa.Field]:
        """Columns behind a row's place."""

    def rows(self, records: Iterable[Pieces]) -> Iterator[Rows]:
        """Read records one after the other; what is wrong with them is a BadInputError."""

    def columns(self, values: NDArray[np.float64]) -> list[pa.Array]:
        """Turn values into the columns of `fields`."""


class AlongLikelihood:
    """The log-likelihood of each position given all before it, or its mean over bins; see `likelihood.answers`.

    The last row of a record is NaN where nothing in it counts.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1)).eval()
    >>> along = AlongLikelihood(model, every=2, device=torch.device("cpu"))
    >>> [(name, starts.tolist(), ends.tolist()) for name, starts, ends, _ in along.rows([("r", [np.zeros(5, int)])])]
    [('r', [1, 2, 4], [2, 4, 5])]
    """

    def __init__(
        self,
        model: MambaLM,
        *,
        every: int,
        device: torch.device,
        before: int | None = None,
        codes: int | None = None,
    ) -> None:
        self._model, self._every, self._device = model, every, device
        self._before, self._codes = before, codes

    @property
    def fields(self) -> list[pa.Field]:
        """See `Along`."""
        return [pa.field(likelihood.VALUE, pa.float32())]

    def rows(self, records: Iterable[Pieces]) -> Iterator[Rows]:
        """See `Along`."""
        for parts, values in likelihood.answers(
            self._model, records, self._every, self._device, before=self._before, codes=self._codes
        ):
            yield parts.record, parts.starts, parts.ends, values

    def columns(self, values: NDArray[np.float64]) -> list[pa.Array]:
        """See `Along`."""
        return [pa.array(values[:, 0].astype(np.float32))]


class AlongClasses:
    """The class probabilities of a record's beginnings, each longer by `every` tokens; see `stream.answers`."""

    def __init__(self, model: SequenceClassifier, *, every: int, device: torch.device) -> None:
        self._model, self._every, self._device = model, every, device

    @property
    def fields(self) -> list[pa.Field]:
        """See `Along`."""
        return class_fields(self._model.classes)

    def rows(self, records: Iterable[Pieces]) -> Iterator[Rows]:
        """See `Along`."""
        for spans, shares in stream.answers(self._model, records, self._every, self._device):
            ends = np.array([span.end for span in spans], np.int64)
            yield spans[0].record, np.zeros_like(ends), ends, shares

    def columns(self, values: NDArray[np.float64]) -> list[pa.Array]:
        """See `Along`."""
        return class_columns(self._model.classes, values)


class Records:
    """What is said along each record of a shard.

    Parameters
    ----------
    source : RecordSource
    along : Along
    """

    def __init__(self, source: RecordSource, along: Along) -> None:
        self._source = source
        self._along = along

    @property
    def fields(self) -> list[pa.Field]:
        """See `shard.Computation`."""
        return self._along.fields

    def rows(self, plan: Plan, number: int, tally: Tally) -> Generator[list[pa.Array]]:
        """See `shard.Computation`."""

        def read(place: str, part: Stretch) -> Iterator[Rows]:
            records = as_planned(self._source.records(place, part.first, part.windows), part.windows, what="records")
            return self._along.rows(_counted(records, tally))

        before: tuple[int, str] | None = None
        at = 0
        for input_, (record, starts, ends, values) in watched(plan, number, read, tally):
            count, end = len(starts), int(ends[-1])
            tally.computed(end - at if (input_, record) == before else end)
            before, at = (input_, record), end
            names = pa.array([record]).take(pa.array(np.zeros(count, np.int32)))
            places = [pa.array(np.full(count, input_, np.int32)), names, pa.array(starts), pa.array(ends)]
            yield [*places, *self._along.columns(values)]


def _counted(records: Iterable[Pieces], tally: Tally) -> Iterator[Pieces]:
    """Pass records on and count them and their tokens."""

    def pieces(own: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for piece in own:
            tally.tokens += len(piece)
            yield piece

    for name, own in records:
        yield name, pieces(own)
        tally.units += 1
