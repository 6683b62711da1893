"""Read a user's files as a whole before anything is predicted, so that everything that is wrong with them is known."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import GapPolicy
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import reads_once, source_name
from seqdomains.genomics.records import is_genbank, stream_records

_log = logging.getLogger(__name__)
_LARGE = 1 << 24  # bytes


def survey(
    paths: Sequence[Path | str],
    *,
    policy: GapPolicy,
    processes: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[tuple[Path | str, dict[str, int] | None]], list[tuple[str, InputError]]]:
    """Read files as a whole, so that everything that is wrong with them is found.

    Parameters
    ----------
    paths, policy, progress
        See `plan_spans`.
    processes : int
        That read files at the same time.

    Returns
    -------
    surveys : list of (Path or str, dict of str to int, or None)
        The good files with their records' lengths; None where a file can be read only once, and is not.
    failures : list of (str, InputError)

    Raises
    ------
    InputError
        None is good.
    """
    surveys: list[tuple[Path | str, dict[str, int] | None]] = []
    failures: list[tuple[str, InputError]] = []
    look = partial(_look, policy=policy, indexed=processes > 1)
    found: list[dict[str, int] | InputError | None] = []
    if processes > 1:
        try:
            with _pool(processes) as pool:
                for one in pool.map(look, paths):
                    found.append(one)
                    progress(len(found))
        except BrokenProcessPool:
            _log.warning("a process that looked at inputs was killed, for its memory perhaps; one process goes on")
    for path in paths[len(found) :]:
        found.append(look(path))
        progress(len(found))
    for path, one in zip(paths, found, strict=True):
        if isinstance(one, InputError):
            failures.append((source_name(path), one))
        else:
            surveys.append((path, one))
    if not surveys:
        raise none_of(failures)
    return surveys, failures


def _look(path: Path | str, policy: GapPolicy, *, indexed: bool) -> dict[str, int] | InputError | None:
    """Read a file's record lengths; `indexed` makes the index of a large one too, which whoever cuts it will need."""
    try:
        if reads_once(path):
            return None
        lengths = record_lengths(Path(path), policy)
        if indexed and Path(path).stat().st_size >= _LARGE and not is_genbank(path):
            with suppress(InputError):
                FastaFile(Path(path), policy=policy, validated=True)
    except InputError as error:
        return error
    return lengths


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Give processes that end with this one, however it ends; Ctrl-C is this one's to answer."""
    # A fork after CUDA or OpenMP has started can hang.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        yield pool
    except BaseException:
        # Nobody waits for what they read; a wait that a second Ctrl-C breaks would never end.
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def record_lengths(path: Path, policy: GapPolicy) -> dict[str, int]:
    """Read a whole file for its records' lengths; everything that is wrong with it is found here."""
    return {record.name: sum(len(piece) for piece in record.pieces) for record in stream_records(path, policy=policy)}


def none_of(failures: Sequence[tuple[str, InputError]]) -> InputError:
    """Return what is said where no file can be read."""
    if len(failures) == 1:
        return failures[0][1]
    return InputError("no input can be read:\n" + "\n".join(str(error) for _, error in failures))
