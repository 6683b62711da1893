"""Windows that are looked at together, so that those of equal length meet in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

Item = TypeVar("Item")

# How far that goes: in batches, and in tokens.
BATCHES: Final = 4
TOKENS: Final = 1 << 26


def gather(items: Iterable[Item], *, batch_size: int, tokens: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield lists of `BATCHES` batches, or of fewer windows where they are long, but never of less than one batch.

    Parameters
    ----------
    items : iterable
        Windows, in order.
    batch_size : int
        Windows of a batch.
    tokens : callable
        How many tokens a window has.

    Examples
    --------
    >>> [len(chunk) for chunk in gather("abcdefghijk", batch_size=2, tokens=len)]
    [8, 3]
    """
    chunk: list[Item] = []
    count = 0
    for item in items:
        chunk.append(item)
        count += tokens(item)
        if len(chunk) >= batch_size and (count >= TOKENS or len(chunk) >= BATCHES * batch_size):
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk
