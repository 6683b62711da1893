"""What a classifier of positions says along a record: a row for each position, or for each stretch of one class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from seqdomains.backbone import FrameClassifier, InferenceState
from seqdomains.pipelines.answers import reading
from seqdomains.pipelines.batch.columns import LABEL, class_columns, class_fields
from seqdomains.pipelines.batch.records import Pieces, Rows
from seqdomains.pipelines.batch.verbs import ON_CPU
from seqdomains.pipelines.frames import frame_shares
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.stream import in_chunks

# A record's name, the position of the first row, its class probabilities, and whether the record ends behind them.
Shares = tuple[str, int, NDArray[np.float64], bool]


class AlongFrames:
    """The class probabilities of each position; see `records.Along`.

    Parameters
    ----------
    model : FrameClassifier
        In evaluation mode.
    device : torch.device
        Where it lies.
    precision : {"float32", "bfloat16"}
        See `verbs.Runner`.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = FrameClassifier(MambaConfig(d_model=16, n_layer=1), classes=("background", "speech")).eval()
    >>> along = AlongFrames(model, device=torch.device("cpu"))
    >>> [(name, starts.tolist(), ends.tolist()) for name, starts, ends, _ in along.rows([("r", [np.zeros(3, int)])])]
    [('r', [0, 1, 2], [1, 2, 3])]
    """

    def __init__(
        self,
        model: FrameClassifier,
        *,
        device: torch.device,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self._model, self._device, self._half = model, device, precision == "bfloat16"

    @property
    def fields(self) -> list[pa.Field]:
        """See `Along`."""
        return class_fields(self._model.classes)

    def rows(self, records: Iterable[Pieces]) -> Iterator[Rows]:
        """See `Along`."""
        for record, first, shares, _ in self._shares(records):
            starts = np.arange(first, first + len(shares), dtype=np.int64)
            yield record, starts, starts + 1, shares

    def columns(self, values: NDArray[np.float64]) -> list[pa.Array]:
        """See `Along`."""
        return class_columns(self._model.classes, values)

    def _shares(self, records: Iterable[Pieces]) -> Iterator[Shares]:
        state: InferenceState | None = None
        first = 0
        with prefetched(reading(in_chunks(records)), depth=2) as chunks:
            for record, tokens, ended in chunks:
                for part, last in _parts(tokens, self._device):
                    with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                        shares, state = frame_shares(self._model, torch.from_numpy(part)[None], state, self._device)
                    yield record, first, shares[0], last and ended
                    first += len(part)
                if ended:
                    state, first = None, 0


@dataclass
class _Open:
    """A stretch of one class that has not ended yet."""

    place: int
    start: int
    total: float


@dataclass
class _Closed:
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    values: list[tuple[float, float]] = field(default_factory=list)

    def take(self, one: _Open | None, end: int) -> None:
        """Keep a stretch that has ended, unless it is background."""
        if one is not None and one.place:
            self.starts.append(one.start)
            self.ends.append(end)
            self.values.append((one.place, one.total / (end - one.start)))


class AlongSegments(AlongFrames):
    """The stretches whose positions are most likely of one class, but for the background, with its mean probability.

    What is held does not grow with a record: one stretch is open at a time.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = FrameClassifier(MambaConfig(d_model=16, n_layer=1), classes=("background", "speech")).eval()
    >>> with torch.no_grad():
    ...     _ = model.head.bias.copy_(torch.tensor([-9.0, 9.0]))
    >>> along = AlongSegments(model, device=torch.device("cpu"))
    >>> ((name, starts, ends, values),) = along.rows([("r", [np.zeros(3, int), np.zeros(2, int)])])
    >>> name, starts.tolist(), ends.tolist(), along.columns(values)[0].to_pylist()
    ('r', [0], [5], ['speech'])
    """

    @property
    def fields(self) -> list[pa.Field]:
        """See `Along`."""
        return [pa.field(LABEL, pa.string()), pa.field("probability", pa.float32())]

    def rows(self, records: Iterable[Pieces]) -> Iterator[Rows]:
        """See `Along`."""
        running: _Open | None = None
        for record, first, shares, ended in self._shares(records):
            closed = _Closed()
            places = shares.argmax(axis=1)
            borders = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
            for start, end in pairwise(borders):
                place = int(places[start])
                total = float(shares[start:end, place].sum())
                if running is not None and running.place == place:
                    running.total += total
                else:
                    closed.take(running, first + start)
                    running = _Open(place, first + start, total)
            if ended:
                closed.take(running, first + len(places))
                running = None
            if closed.starts:
                starts, ends = np.array(closed.starts, np.int64), np.array(closed.ends, np.int64)
                yield record, starts, ends, np.array(closed.values)

    def columns(self, values: NDArray[np.float64]) -> list[pa.Array]:
        """See `Along`."""
        names = np.array(self._model.classes, dtype=object)[values[:, 0].astype(np.int64)]
        return [pa.array(names, pa.string()), pa.array(values[:, 1].astype(np.float32))]


def _parts(tokens: NDArray[Any], device: torch.device) -> Iterator[tuple[NDArray[Any], bool]]:
    """Cut a chunk into what a device takes at once; the last part says so."""
    at_once = ON_CPU if device.type == "cpu" else len(tokens)
    for first in range(0, len(tokens), at_once):
        yield np.ascontiguousarray(tokens[first : first + at_once]), first + at_once >= len(tokens)
