"""metrics.jsonl: one JSON object per logged step, no step twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from seqdomains.errors import InputError
from seqdomains.files import atomic_file, parse_json


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the logged steps in order; a last line that a killed process left unfinished is passed over.

    Parameters
    ----------
    path : Path
        A metrics.jsonl; a missing one counts as empty.

    Raises
    ------
    InputError
        A line before the last is no JSON object with a step.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            row["step"] = int(row["step"])
        except (ValueError, OverflowError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: no JSON object with a step: {line[:80]!r}") from error
        rows.append(row)
    return rows


class MetricsLog:
    """Append to metrics.jsonl from a given step on; what was logged after that step is dropped first.

    Parameters
    ----------
    path : Path
        The file; made where it is missing.
    step : int
        Step of the checkpoint that the run goes on from.

    Raises
    ------
    InputError
        The file cannot be read or written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> with MetricsLog(path, step=0) as log:
    ...     log.append({"step": 1, "loss": 2.0})
    ...     log.append({"step": 2, "loss": 1.5})
    >>> with MetricsLog(path, step=1) as log:
    ...     log.append({"step": 2, "loss": 1.25})
    >>> read_metrics(path)
    [{'step': 1, 'loss': 2.0}, {'step': 2, 'loss': 1.25}]
    """

    def __init__(self, path: Path, *, step: int) -> None:
        self._path = path
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        with self._writing():
            with atomic_file(path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            # unbuffered: a line is with the system when `append` returns
            self._handle = path.open("ab", buffering=0)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._handle.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one object."""
        with self._writing():
            self._handle.write(json.dumps(row).encode() + b"\n")

    def sync(self) -> None:
        """Flush to the disk; a checkpoint that stands on these lines is written after it."""
        with self._writing():
            os.fsync(self._handle.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror or error}") from error


class Meter:
    """Mean loss and speed since the last logged step; what outlives a session is part of a checkpoint.

    Parameters
    ----------
    seconds : float
        Training time of the sessions before, s.
    loss_sum, losses : float, int
        Sum and number of the losses since the last logged step.

    Examples
    --------
    >>> meter = Meter()
    >>> meter.add(2.0, tokens=100)
    >>> meter.add(1.0, tokens=100)
    >>> meter.loss
    1.5
    >>> sorted(meter.state())
    ['loss_sum', 'losses', 'seconds']
    """

    def __init__(self, *, seconds: float = 0.0, loss_sum: float = 0.0, losses: int = 0) -> None:
        self._seconds_before = seconds
        self._loss_sum = loss_sum
        self._losses = losses
        self._tokens = 0
        self._began = self._interval_began = self._now = time.perf_counter()

    def add(self, loss: float, tokens: int) -> None:
        """Count one step."""
        self._loss_sum += loss
        self._losses += 1
        self._tokens += tokens
        self._now = time.perf_counter()

    def begin_interval(self) -> None:
        """Forget the losses and tokens that have been logged."""
        self._loss_sum, self._losses, self._tokens = 0.0, 0, 0
        self._interval_began = self._now

    @property
    def loss(self) -> float:
        """Mean loss since the last logged step."""
        return self._loss_sum / max(1, self._losses)

    @property
    def tokens_per_s(self) -> float:
        """Tokens read per second since the last logged step of this session."""
        return self._tokens / max(self._now - self._interval_began, 1e-9)

    @property
    def session_seconds(self) -> float:
        """Training time of this session, s."""
        return self._now - self._began

    @property
    def seconds(self) -> float:
        """Training time of all sessions, s."""
        return self._seconds_before + self.session_seconds

    def state(self) -> dict[str, Any]:
        """Return the arguments of a meter that goes on from here."""
        return {"seconds": self.seconds, "loss_sum": self._loss_sum, "losses": self._losses}
