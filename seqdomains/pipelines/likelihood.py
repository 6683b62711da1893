"""How likely a next-token model finds each position of a record of any length, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager
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

    What it says is what one pass over the whole sequence would say, to rounding, however it was cut. The first token
    has none before it and gets no answer.

    Parameters
    ----------
    model : MambaLM
        In evaluation mode.
    device : torch.device
        Where it lies.

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

    def __init__(self, model: MambaLM, *, device: torch.device) -> None:
        self._model = model
        self._device = device
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
        ndarray of float64, shape (L,), or (L - 1,) at the beginning
            Natural logarithms.

        Raises
        ------
        InputError
            A logit is not finite.
        """
        if not len(tokens):
            return np.zeros(0)
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
        Positions of a bin. The first bin of a record leaves its first position out, which has nothing before it.
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
        found = ((name, answers(model, records, every, device)) for name, records in inputs)
        return write_answers(found, opened, name="stream", on_error=on_error, progress=progress)


def answers(
    model: MambaLM,
    records: Iterable[tuple[str, Iterable[NDArray[Any]]]],
    every: int,
    device: torch.device,
) -> Generator[tuple[Stretches, NDArray[np.float64]]]:
    """Yield bins in order; one that a chunk's border cuts waits for its other part.

    The model is in evaluation mode on the device; what is wrong with the records is a BadInputError.
    """
    running = RunningLikelihood(model, device=device)
    held, first = np.zeros(0), 1  # values of positions from `first` on that have not gone out
    with prefetched(reading(in_chunks(records)), depth=2) as chunks:
        for record, tokens, ended in chunks:
            held = np.concatenate([held, running.read(tokens)])
            end = first + len(held)
            borders = np.arange(first // every + 1, end // every + 1) * every
            if ended and (not len(borders) or borders[-1] < end):
                borders = np.append(borders, end)
            if len(borders) and len(held):
                starts = np.concatenate([[first], borders[:-1]])
                sums = np.add.reduceat(held, starts - first)
                if borders[-1] < end:
                    sums[-1] = held[starts[-1] - first : borders[-1] - first].sum()
                yield Stretches(record, starts, borders), (sums / (borders - starts))[:, None]
                held, first = held[borders[-1] - first :], int(borders[-1])
            if ended:
                running = RunningLikelihood(model, device=device)
                held, first = np.zeros(0), 1
