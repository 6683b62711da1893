"""Leaving in order: the first SIGTERM or Ctrl-C asks a loop to stop at its next edge, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from seqdomains.errors import SeqdomainsError


class StoppedError(SeqdomainsError):
    """A signal ended the work in order; the exit code is 128 + the signal's number (130 Ctrl-C, 143 SIGTERM).

    Parameters
    ----------
    signum : int
        The signal that came.
    message : str
        What was saved and how to go on.

    Examples
    --------
    >>> StoppedError(signal.SIGTERM, "the checkpoint of step 3 is saved").exit_code
    143
    """

    def __init__(self, signum: int, message: str) -> None:
        self.signum = int(signum)
        self.exit_code = 128 + self.signum
        super().__init__(message)


@dataclass
class StopRequest:
    """Says whether a signal came: `signum` is None until then."""

    signum: int | None = None


@contextmanager
def stop_on_signals(
    notice: str = "stopping after this step and saving", *, patient: bool = False
) -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request that the loop reads at its edges; the handlers before are put back.

    Python delivers signals to the main thread alone; called from another thread this changes nothing.

    Parameters
    ----------
    notice : str
        What the user is told when the first signal comes.
    patient : bool
        Whether SIGTERM changes nothing once a stop was asked for: torchrun passes on what its processes were sent
        already, and sends it to all when one has left.

    Yields
    ------
    StopRequest
        Its `signum` is set by the first signal. A second signal raises SystemExit with 128 + its number.

    Examples
    --------
    >>> with stop_on_signals() as stop:
    ...     signal.raise_signal(signal.SIGINT)
    ...     stop.signum == signal.SIGINT
    True
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop.signum is not None:
            if patient and signum == signal.SIGTERM:
                return
            raise SystemExit(128 + signum)
        stop.signum = signum
        # os.write: a handler may run in the middle of a buffered write, where logging would re-enter the stream
        os.write(2, f"\n{notice}; a second signal leaves at once\n".encode())

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
