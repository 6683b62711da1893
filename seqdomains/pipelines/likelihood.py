"""How likely a next-token model finds each position of a record of any length, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, closing
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.backbone import InferenceState, MambaLM
from seqdomains.errors import InputError
from seqdomains.pipelines.answers import PredictOutcome, reading, write_answers
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.stream import in_chunks
from seqdomains.pipelines.tables import Table
from seqdomains.pipelines.tracks import Stretches

# What a track, or a column of a table, is called.
VALUE: Final = "log_likelihood"


class RunningLikelihood:
    """Reads one sequence chunk by chunk and tells the log-likelihood of each token given all before it.

    What it says is what one pass over the whole sequence would say, to rounding, however it was cut. Without `before`
    the first token has none before it and gets no answer.

    Parameters
    ----------
    model : MambaLM
        In evaluation mode.
    device : torch.device
        Where it lies.
    before : int, optional
        Code that the model reads before the sequence, so that its first token gets an answer too.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=2)).eval()
    >>> tokens = torch.randint(4, (1, 100))
    >>> running = RunningLikelihood(model, device=torch.device("cpu"))
    >>> found = np.concatenate([running.read(part[0].numpy()) for part in tokens.split(33, dim=1)])
    >>> with torch.no_grad():
    ...     whole = model(tokens).log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]
    >>> bool(np.allclose(found, whole, atol=1e-5))
    True
    """

    def __init__(self, model: MambaLM, *, device: torch.device, before: int | None = None) -> None:
        self._model = model
        self._device = device
        self._before = before
        self._state: InferenceState | None = None
        self._last: Tensor | None = None

    def read(self, tokens: NDArray[Any]) -> NDArray[np.float64]:
        """Read on.

        Parameters
        ----------
        tokens : ndarray of an integer dtype, shape (L,)
            The next tokens.

        Returns
        -------
        ndarray of float64, shape (L,), or (L - 1,) at the beginning without `before`
            Natural logarithms.

        Raises
        ------
        InputError
            A logit is not finite.
        """
        if not len(tokens):
            return np.zeros(0)
        if self._state is None and self._before is not None:
            tokens = np.concatenate([np.array([self._before], tokens.dtype), tokens])
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(tokens))[None].to(self._device)
            logits, self._state = self._model(batch, state=self._state, return_state=True)
            before = logits[0, :-1]
            targets = batch[0].long()
            if self._last is None:
                targets = targets[1:]
            else:
                before = torch.cat([self._last[None], before])
            self._last = logits[0, -1].clone()
            found: NDArray[np.float64] = (
                before.log_softmax(-1).gather(1, targets[:, None])[:, 0].to("cpu", torch.float64).numpy()
            )
        if not np.isfinite(found).all():
            raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
        return found


def stream_likelihood(
    model: MambaLM,
    inputs: Iterable[tuple[str, Iterable[tuple[str, Iterable[NDArray[Any]]]]]],
    opened: AbstractContextManager[Table[Stretches]],
    *,
    every: int = 1,
    before: int | None = None,
    codes: int | None = None,
    device: torch.device | str = "cpu",
    on_error: Literal["skip", "stop"] = "skip",
    progress: bool = True,
) -> PredictOutcome:
    """Write the log-likelihood of each position given all before it, or its mean over bins.

    Parameters
    ----------
    model : MambaLM
        In fp32.
    inputs : iterable of (str, iterable of (str, iterable of ndarray))
        See `seqdomains.pipelines.stream.stream`.
    opened : context manager
        See `seqdomains.pipelines.tracks.open_track`.
    every : int
        Positions of a bin, of which those that count make the mean; a bin without any is left out.
    before : int, optional
        See `RunningLikelihood`. Without it the first bin of a record leaves its first position out.
    codes : int, optional
        Tokens below that count; others are read. All count if not given.
    device, on_error, progress
        See `seqdomains.pipelines.stream.stream`.

    Raises
    ------
    InputError, StoppedError
        As `seqdomains.pipelines.predict.predict`.
    """
    model.config.require_causal("a stream", instead="Give a model that was trained on each next token.")
    device = torch.device(device)
    with deterministic(), borrowed(model, device=device, training=False):
        found = (
            (name, _with_values(answers(model, records, every, device, before=before, codes=codes)))
            for name, records in inputs
        )
        return write_answers(found, opened, name="stream", on_error=on_error, progress=progress)


def _with_values(
    found: Generator[tuple[Stretches, NDArray[np.float64]]],
) -> Generator[tuple[Stretches, NDArray[np.float64]]]:
    with closing(found):
        for parts, values in found:
            known = ~np.isnan(values[:, 0])
            if known.any():
                yield Stretches(parts.record, parts.starts[known], parts.ends[known]), values[known]


def answers(
    model: MambaLM,
    records: Iterable[tuple[str, Iterable[NDArray[Any]]]],
    every: int,
    device: torch.device,
    *,
    before: int | None = None,
    codes: int | None = None,
) -> Generator[tuple[Stretches, NDArray[np.float64]]]:
    """Yield bins in order; one that a chunk's border cuts waits for its other part.

    Of bins in which no position counts only a record's last is there, with NaN: it says how long the record is. The
    model is in evaluation mode on the device; what is wrong with the records is a BadInputError.
    """
    begin = 1 if before is None else 0
    running = RunningLikelihood(model, device=device, before=before)
    # Of positions from `first` on that have not gone out: values, 0 where they do not count, and whether they do.
    held, counted, first = np.zeros(0), np.zeros(0, np.int64), begin
    with prefetched(reading(in_chunks(records)), depth=2) as chunks:
        for record, tokens, ended in chunks:
            found = running.read(tokens)
            counts = np.ones(len(found), np.int64)
            if codes is not None:
                counts[tokens[len(tokens) - len(found) :] >= codes] = 0
            held = np.concatenate([held, np.where(counts, found, 0)])
            counted = np.concatenate([counted, counts])
            end = first + len(held)
            borders = np.arange(first // every + 1, end // every + 1) * every
            if ended and (not len(borders) or borders[-1] < end):
                borders = np.append(borders, end)
            if len(borders) and len(held):
                starts = np.concatenate([[first], borders[:-1]])
                out = int(borders[-1]) - first
                sums, counts = (np.add.reduceat(one[:out], starts - first) for one in (held, counted))
                told = counts > 0
                told[-1] |= ended
                if told.any():
                    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
                    yield Stretches(record, starts[told], borders[told]), means[told, None]
                held, counted, first = held[out:], counted[out:], int(borders[-1])
            if ended:
                running = RunningLikelihood(model, device=device, before=before)
                held, counted, first = np.zeros(0), np.zeros(0, np.int64), begin
