"""Write what a model says of a user's inputs, one after the other: whole or absent, bad inputs left out and named."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.pipelines.interrupts import StoppedError, stop_on_signals
from seqdomains.pipelines.progress import Paced, progress_display
from seqdomains.pipelines.tables import Table
from seqdomains.task import Span

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Rows = TypeVar("Rows", bound=Sized)
# Spans and the probabilities of their classes, shape (len(spans), n_classes).
Answers = Generator[tuple[list[Span], NDArray[np.float64]]]


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


class BadInputError(Exception):
    """Tells an error of the input from one of the model or the output."""

    def __init__(self, reason: InputError) -> None:
        self.reason = reason
        super().__init__(str(reason))


def reading(source: Iterable[Item]) -> Iterator[Item]:
    """Pass items of an input on; what is wrong with it becomes a BadInputError.

    Examples
    --------
    >>> list(reading([1, 2]))
    [1, 2]
    """
    items = iter(source)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except InputError as error:
            raise BadInputError(error) from error
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise BadInputError(InputError(f"cannot be read to its end: {error}")) from error
        yield item


def write_answers(
    inputs: Iterable[tuple[str, Generator[tuple[Rows, NDArray[np.float64]]]]],
    opened: AbstractContextManager[Table[Rows]],
    *,
    name: str,
    on_error: Literal["skip", "stop"] = "skip",
    total: int | None = None,
    progress: bool = True,
) -> PredictOutcome:
    """Write what is said of each input into a table, row by row.

    Parameters
    ----------
    inputs : iterable of (str, generator)
        Each input's name, and its rows with what is said of them; the generator reads the input through `reading`.
    opened : context manager
        Gives the table: see `seqdomains.pipelines.tables.open_table` and `seqdomains.pipelines.tracks.open_track`.
    name : str
        Of the command, for the progress display.
    on_error, total, progress
        See `seqdomains.pipelines.predict.predict`.

    Raises
    ------
    InputError
        `on_error` is "stop" and an input is bad, no input could be read, or the output cannot be written.
    StoppedError
        SIGTERM or Ctrl-C came; no file was written.
    """
    failures: list[tuple[str, str]] = []
    waiting: list[str] = []
    windows = good_inputs = 0
    try:
        with (
            stop_on_signals("stopping; no file is written") as stop,
            progress_display(name, total=total, enabled=progress) as show,
            opened as table,
        ):
            lines = Paced()
            for source, found in inputs:
                before = windows
                table.begin_input()
                try:
                    with closing(found) as answers:
                        for chunk, probabilities in answers:
                            table.write(chunk, probabilities)
                            windows += len(chunk)
                            show(windows, source, lines.due())
                            if stop.signum is not None:
                                raise StoppedError(stop.signum, "stopped; repeat the command")
                    good_inputs += 1
                    _warn(waiting)
                except BadInputError as bad:
                    if on_error == "stop":
                        raise bad.reason from bad
                    reason = str(bad.reason) if source in str(bad.reason) else f"{source}: {bad.reason}"
                    windows, out = _leave_out(table, before=before, after=windows)
                    failures.append((source, reason))
                    waiting.append(reason + out)
            if failures and not good_inputs:
                # One error in place of a warning and the same again.
                raise InputError(waiting[0] if len(waiting) == 1 else "no input can be read:\n" + "\n".join(waiting))
            _warn(waiting)
    except BrokenPipeError:
        silence_stdout()
        return PredictOutcome(windows, tuple(failures), reader_left=True)
    return PredictOutcome(windows, tuple(failures))


def _leave_out(table: Table[Rows], *, before: int, after: int) -> tuple[int, str]:
    """Take a bad input's rows back where that is possible; returns how many rows stand, and a word on those of it."""
    dropped = table.drop_input()
    stands = before if dropped or after == before else after
    return stands, "" if stands == before else f" ({after - before} windows before the error are out already)"


def _warn(waiting: list[str]) -> None:
    for reason in waiting:
        _log.warning("skipped: %s", reason)
    waiting.clear()


def silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail too."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
