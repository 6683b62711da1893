"""One background thread that prepares the next items while the device works on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failure:
    error: BaseException


@dataclass(frozen=True)
class _End(Generic[Item]):
    """Marks that the source is exhausted."""


@contextmanager
def prefetched(source: Iterable[Item], *, depth: int = 2) -> Iterator[Iterator[Item]]:
    """Iterate over `source` in a thread, at most `depth` items ahead, in order.

    A thread and no forked process: a fork after OpenMP or CUDA has started can hang. An error in the source is raised
    in the caller where the item would have come. On leaving, the thread is stopped and joined.

    Parameters
    ----------
    source : iterable
        Read by the thread alone.
    depth : int
        Items that wait at most.

    Yields
    ------
    iterator
        The items of `source`.

    Examples
    --------
    >>> with prefetched(n * n for n in range(4)) as squares:
    ...     list(squares)
    [0, 1, 4, 9]
    """
    waiting: queue.Queue[Item | _Failure | _End[Item]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Item | _Failure | _End[Item]) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for item in source:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            put(_Failure(error))
        else:
            put(_End())

    def consume() -> Iterator[Item]:
        while True:
            item = waiting.get()
            if isinstance(item, _Failure):
                raise item.error
            if isinstance(item, _End):
                return
            yield item

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        thread.join()
