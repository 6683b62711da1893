"""Classify the windows of a user's files: one row per window, in input order, in constant memory."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seqdomains.errors import InputError
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.inference import Classifier
from seqdomains.pipelines.interrupts import StoppedError, stop_on_signals
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.progress import progress_display
from seqdomains.pipelines.tables import STDOUT, Table, open_table
from seqdomains.task import Span

_log = logging.getLogger(__name__)

# Spans that are read ahead so that those of equal length meet in a batch: in batches, and in tokens.
_BATCHES_AHEAD = 4
_TOKENS_AHEAD = 1 << 26


@dataclass(frozen=True)
class PredictOutcome:
    """What `predict` did.

    Parameters
    ----------
    windows : int
        Rows that were written.
    failures : tuple of (str, str)
        Inputs that could not be read to their end, with the reason.
    reader_left : bool
        Whether whoever read the output closed it early, as ``head`` does.

    Examples
    --------
    >>> PredictOutcome(10, failures=(("b.fa", "truncated"),)).exit_code
    3
    """

    windows: int
    failures: tuple[tuple[str, str], ...] = ()
    reader_left: bool = False

    @property
    def exit_code(self) -> int:
        """0, or 3 where inputs were skipped."""
        return 3 if self.failures else 0


def predict(
    model: nn.Module,
    classes: Sequence[str],
    inputs: Iterable[tuple[str, Iterable[Span]]],
    output: Path | str = STDOUT,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    on_error: Literal["skip", "stop"] = "skip",
    total: int | None = None,
    progress: bool = True,
) -> PredictOutcome:
    r"""Write the class probabilities of every span.

    Parameters
    ----------
    model : Module
        Called as ``model(tokens)``, in fp32; gives logits of shape (B, n_classes).
    classes : sequence of str
        Names in the order of the logits.
    inputs : iterable of (str, iterable of Span)
        Each input's name and spans; read one after the other, in a thread.
    output : Path or str
        See `seqdomains.pipelines.tables.open_table`; ``-`` is stdout.
    batch_size : int
        Windows at once; halved when the memory runs out. Spans of equal length share a batch.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    on_error : {"skip", "stop"}
        Whether a bad input is left out, with a warning and `PredictOutcome.failures`, or ends the prediction. A file
        has no row of an input that was left out; on stdout the rows before the error are out already.
    total : int, optional
        Number of spans, for the progress bar.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    PredictOutcome
        Number of rows, and what was skipped.

    Raises
    ------
    InputError
        `on_error` is "stop" and an input is bad, no input could be read, or the output cannot be written.
    StoppedError
        SIGTERM or Ctrl-C came; no file was written.

    Examples
    --------
    >>> class Counter(nn.Module):
    ...     def forward(self, tokens, lengths=None):
    ...         return torch.stack([(tokens == code).sum(1).float() for code in (0, 1)], dim=1)
    >>> spans = [Span("r", 0, 3, np.array([0, 0, 1])), Span("r", 3, 5, np.array([1, 1]))]
    >>> outcome = predict(
    ...     Counter(), ("zeros", "ones"), [("toy", spans)], progress=False
    ... )  # doctest: +NORMALIZE_WHITESPACE
    #record	start	end	predicted	p_zeros	p_ones
    r	0	3	zeros	0.731059	0.268941
    r	3	5	ones	0.119203	0.880797
    >>> outcome.windows
    2
    """
    device = torch.device(device)
    failures: list[tuple[str, str]] = []
    waiting: list[str] = []
    windows = good_inputs = 0
    try:
        with (
            stop_on_signals("stopping; no file is written") as stop,
            deterministic(),
            borrowed(model, device=device, training=False),
            progress_display("predict", total=total, enabled=progress) as show,
            open_table(output, classes) as table,
        ):
            classifier = Classifier(model, device=device, batch_size=batch_size)
            for name, spans in inputs:
                before = windows
                table.begin_input()
                try:
                    with closing(_answers(classifier, spans, batch_size)) as answers:
                        for chunk, probabilities in answers:
                            table.write(chunk, probabilities)
                            windows += len(chunk)
                            show(windows, name, False)
                            if stop.signum is not None:
                                raise StoppedError(stop.signum, "the prediction was stopped; repeat the command")
                    good_inputs += 1
                    _warn(waiting)
                except _BadInputError as bad:
                    if on_error == "stop":
                        raise bad.reason from bad
                    reason = str(bad.reason) if name in str(bad.reason) else f"{name}: {bad.reason}"
                    windows, out = _leave_out(table, before=before, after=windows)
                    failures.append((name, reason))
                    waiting.append(reason + out)
            if failures and not good_inputs:
                # One error in place of a warning and the same again.
                raise InputError(waiting[0] if len(waiting) == 1 else "no input can be read:\n" + "\n".join(waiting))
            _warn(waiting)
    except BrokenPipeError:
        _silence_stdout()
        return PredictOutcome(windows, tuple(failures), reader_left=True)
    return PredictOutcome(windows, tuple(failures))


class _BadInputError(Exception):
    """Tells an error of the input from one of the model or the output."""

    def __init__(self, reason: InputError) -> None:
        self.reason = reason
        super().__init__(str(reason))


def _answers(
    classifier: Classifier, spans: Iterable[Span], batch_size: int
) -> Generator[tuple[list[Span], NDArray[np.float64]]]:
    """Yield spans in order with their probabilities; those of equal length are computed together."""
    with prefetched(_chunks(spans, batch_size), depth=1) as chunks:
        for chunk in chunks:
            places: dict[int, list[int]] = {}
            for place, span in enumerate(chunk):
                places.setdefault(len(span.tokens), []).append(place)
            found: dict[int, NDArray[np.float64]] = {}
            for alike in places.values():
                tokens = torch.from_numpy(np.stack([chunk[place].tokens for place in alike]))
                found |= zip(alike, classifier.probabilities(tokens), strict=True)
            yield chunk, np.stack([found[place] for place in range(len(chunk))])


def _chunks(spans: Iterable[Span], batch_size: int) -> Iterator[list[Span]]:
    """Gather spans that are looked at together; an input that cannot be read raises _BadInputError."""
    chunk: list[Span] = []
    tokens = 0
    source = iter(spans)
    while True:
        try:
            span = next(source, None)
        except InputError as error:
            raise _BadInputError(error) from error
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise _BadInputError(InputError(f"cannot be read to its end: {error}")) from error
        if span is None:
            break
        chunk.append(span)
        tokens += len(span.tokens)
        enough = tokens >= _TOKENS_AHEAD or len(chunk) >= _BATCHES_AHEAD * batch_size
        if enough and len(chunk) >= batch_size:
            yield chunk
            chunk, tokens = [], 0
    if chunk:
        yield chunk


def _leave_out(table: Table, *, before: int, after: int) -> tuple[int, str]:
    """Take a bad input's rows back where that is possible; returns how many rows stand, and a word on those of it."""
    dropped = table.drop_input()
    stands = before if dropped or after == before else after
    return stands, "" if stands == before else f" ({after - before} windows before the error are out already)"


def _warn(waiting: list[str]) -> None:
    for reason in waiting:
        _log.warning("skipped: %s", reason)
    waiting.clear()


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail too."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
