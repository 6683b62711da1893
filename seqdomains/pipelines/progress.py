"""How far a pipeline is: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_log = logging.getLogger(__name__)

Show = Callable[[int, str, bool], None]
# Seconds between two lines where there is no terminal and nothing else to tell.
_QUIET = 30.0


@contextmanager
def progress_display(label: str, *, total: int | None, start: int = 0, enabled: bool = True) -> Iterator[Show]:
    """Give a function ``show(done, text, milestone)`` that tells the user how far the work is.

    On a terminal a bar moves with each call. Elsewhere each milestone is one log line on stderr, so that a log file
    of a cluster stays readable.

    Parameters
    ----------
    label : str
        What is done, such as ``train``.
    total : int or None
        Units of work in all; None where that is not known.
    start : int
        Units that were done before.
    enabled : bool
        False shows nothing.

    Examples
    --------
    >>> with progress_display("train", total=10, enabled=False) as show:
    ...     show(1, "loss 0.5", True)
    """
    if not enabled:
        yield lambda done, text, milestone: None
        return
    if not sys.stderr.isatty():

        def log_line(done: int, text: str, milestone: bool) -> None:
            if milestone:
                _log.info("%s %s%s  %s", label, done, "" if total is None else f"/{total}", text)

        yield log_line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=start, text="")
        yield lambda done, text, milestone: bar.update(task, completed=done, text=text)


class Paced:
    """Says when the next line is due, so that a log of a long piece of work shows that it goes on and stays short.

    Parameters
    ----------
    seconds : float
        From one to the next; the first one comes so long after the beginning.

    Examples
    --------
    >>> Paced(seconds=3600).due(), Paced(seconds=0).due()
    (False, True)
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = _QUIET if seconds is None else seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is; then the next one is counted from now."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Count from now, since something else was told."""
        self._last = time.monotonic()


def duration(seconds: float) -> str:
    """Return a time span as people say it.

    Examples
    --------
    >>> duration(8.2), duration(250), duration(7260)
    ('8 s', '4 min 10 s', '2 h 1 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
