"""How likely a next-token model finds records of any length, or their stretches, read in one direction or in both."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from seqdomains.backbone import MambaLM
from seqdomains.pipelines.answers import PredictOutcome, reading, write_answers
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.likelihood import RunningLikelihood
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.stream import in_chunks
from seqdomains.pipelines.tables import Table
from seqdomains.pipelines.tracks import Stretches


@dataclass(frozen=True)
class BothWays:
    """A record that can be read in either direction.

    Parameters
    ----------
    name : str
    forward : iterable of ndarray
        Its tokens in pieces.
    reverse : iterable of ndarray, or None
        Those of what stands for it in the other direction, from the record's end; None where that is not read.
    length : int or None
        Tokens in all; None where it is not known before they are read, which `reverse` needs.
    """

    name: str
    forward: Iterable[NDArray[Any]]
    reverse: Iterable[NDArray[Any]] | None = None
    length: int | None = None


def record_likelihoods(
    model: MambaLM,
    inputs: Iterable[tuple[str, Iterable[BothWays]]],
    opened: AbstractContextManager[Table[Stretches]],
    *,
    before: int,
    codes: int,
    every: int | None = None,
    device: torch.device | str = "cpu",
    on_error: Literal["skip", "stop"] = "skip",
    progress: bool = True,
) -> PredictOutcome:
    """Write how many tokens of each record count, their log-likelihood, each given all before it, and bits per token.

    Memory does not grow with a record's length; where both directions are read it holds two numbers for each row.

    Parameters
    ----------
    model : MambaLM
        In fp32.
    inputs : iterable of (str, iterable of BothWays)
        Each input's name and records.
    opened : context manager
        Gives the table. Values: the tokens that count, the log-likelihood (natural logarithm) and the bits per token,
        means over both directions where a record has them, and then the log-likelihood of each direction.
    before : int
        Code that the model reads before a record, so that its first token counts too.
    codes : int
        Tokens below that count; others are read.
    every : int, optional
        Tokens of a row's stretch; the whole record if not given.
    device, on_error, progress
        See `seqdomains.pipelines.stream.stream`.

    Raises
    ------
    InputError, StoppedError
        As `seqdomains.pipelines.predict.predict`.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> from seqdomains.pipelines.tracks import open_values
    >>> model = MambaLM(MambaConfig(d_model=8, n_layer=1))
    >>> with torch.no_grad():
    ...     _ = model.backbone.embedding.weight.zero_()
    >>> record = BothWays("r", [np.array([0, 1]), np.array([2, 9])])
    >>> _ = record_likelihoods(
    ...     model, [("toy", [record])], open_values("-", ("n", "log", "bits")), before=9, codes=4, progress=False
    ... )  # doctest: +NORMALIZE_WHITESPACE, +ELLIPSIS
    #record	start	end	n	log	bits
    r	0	4	3	-8.31776... 4.0000000...
    """
    model.config.require_causal("a likelihood", instead="Give a model that was trained on each next token.")
    device = torch.device(device)
    with deterministic(), borrowed(model, device=device, training=False):
        rows = _Rows(model, before, codes, every, device)
        found = ((name, rows.of(records)) for name, records in inputs)
        return write_answers(found, opened, name="likelihood", on_error=on_error, progress=progress)


@dataclass(frozen=True)
class _Bin:
    start: int
    end: int
    counted: int
    nats: float


@dataclass(frozen=True)
class _Rows:
    model: MambaLM
    before: int
    codes: int
    every: int | None
    device: torch.device

    def of(self, records: Iterable[BothWays]) -> Generator[tuple[Stretches, NDArray[np.float64]]]:
        for record in reading(records):
            if record.reverse is None:
                for one in self._bins(record.forward, first=self.every):
                    yield _row(record.name, [one])
                continue
            if record.length is None:
                raise ValueError(f"record {record.name!r}: reading it in reverse needs its length")
            every = self.every or record.length
            # Stretches begin at multiples of `every` from the record's beginning, so its end may have a shorter one.
            rest = record.length - (record.length - 1) // every * every
            reverse = list(self._bins(record.reverse, first=rest))[::-1]
            for one, other in zip(self._bins(record.forward, first=self.every), reverse, strict=True):
                yield _row(record.name, [one, other])

    def _bins(self, pieces: Iterable[NDArray[Any]], *, first: int | None) -> Iterator[_Bin]:
        """Add up stretches of a record as it is read; the first has `first` tokens."""
        running = RunningLikelihood(self.model, device=self.device, before=self.before)
        start = at = 0
        end = first or math.inf
        counted, nats = 0, 0.0
        with prefetched(reading(in_chunks([("", pieces)])), depth=2) as chunks:
            for _, tokens, _ in chunks:
                values = running.read(tokens)
                asked = tokens < self.codes
                done = 0
                while done < len(values):
                    part = slice(done, int(min(len(values), done + end - at)))
                    counted += int(asked[part].sum())
                    nats += float(values[part][asked[part]].sum())
                    at += part.stop - done
                    done = part.stop
                    if at == end:
                        yield _Bin(start, at, counted, nats)
                        start, counted, nats = at, 0, 0.0
                        end = at + (self.every or math.inf)
        if at > start:
            yield _Bin(start, at, counted, nats)


def _row(name: str, bins: Sequence[_Bin]) -> tuple[Stretches, NDArray[np.float64]]:
    """Return a stretch with its values; the first bin is that of the forward direction."""
    one = bins[0]
    nats = sum(each.nats for each in bins) / len(bins)
    bits = -nats / math.log(2) / one.counted if one.counted else math.nan
    directions = [each.nats for each in bins] if len(bins) > 1 else []
    return Stretches(name, np.array([one.start]), np.array([one.end])), np.array(
        [[one.counted, nats, bits, *directions]]
    )
