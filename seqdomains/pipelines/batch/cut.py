"""How a batch's inputs are cut into shards: by windows, or by whole records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from seqdomains.pipelines.batch.plan import Stretch

# A shard's tokens: at most what a GPU reads in seconds and a CPU in a minute, and few enough for 64 shards.
MOST_TOKENS: Final = 1 << 24
LEAST_TOKENS: Final = 1 << 16
_SHARES: Final = 64


def shard_tokens(total: int) -> int:
    """Return how many tokens a shard of a batch over `total` tokens should have.

    Examples
    --------
    >>> [shard_tokens(total) for total in (1000, 64_000_000, 10**12)]
    [65536, 1000000, 16777216]
    """
    return min(MOST_TOKENS, max(LEAST_TOKENS, total // _SHARES))


def cut_shards(inputs: Iterable[tuple[int, int, bool]], *, windows: int) -> tuple[tuple[Stretch, ...], ...]:
    """Cut inputs into shards of `windows` windows.

    Parameters
    ----------
    inputs : iterable of (int, int, bool)
        Each good input's number, its windows, and whether it can be read from its middle; one that cannot lies in one
        shard as a whole.
    windows : int
        Of a shard; one that ends with an input that is not cut may have more.

    Examples
    --------
    >>> [[(part.input, part.first, part.windows) for part in shard] for shard in cut_shards(
    ...     [(0, 3, False), (1, 2, False), (2, 9, True)], windows=4)]
    [[(0, 0, 3), (1, 0, 2)], [(2, 0, 4)], [(2, 4, 4)], [(2, 8, 1)]]
    """
    shards: list[tuple[Stretch, ...]] = []
    held: list[Stretch] = []
    count = 0
    for number, total, divisible in inputs:
        first = 0
        while first < total:
            taken = min(total - first, windows - count) if divisible else total
            held.append(Stretch(number, first, taken))
            first, count = first + taken, count + taken
            if count >= windows:
                shards.append(tuple(held))
                held, count = [], 0
    return (*shards, tuple(held)) if held else tuple(shards)


def cut_records(inputs: Iterable[tuple[int, Sequence[int], bool]], *, tokens: int) -> tuple[tuple[Stretch, ...], ...]:
    """Cut inputs into shards of whole records, each shard of `tokens` tokens or of the record that passes them.

    Parameters
    ----------
    inputs : iterable of (int, sequence of int, bool)
        Each good input's number, its records' lengths, and whether it can be read from its middle; one that cannot
        lies in one shard as a whole.
    tokens : int

    Examples
    --------
    >>> [[(part.input, part.first, part.windows) for part in shard] for shard in cut_records(
    ...     [(0, [5, 1, 1], True), (1, [1, 9], False)], tokens=4)]
    [[(0, 0, 1)], [(0, 1, 2), (1, 0, 2)]]
    """
    shards: list[tuple[Stretch, ...]] = []
    held: list[Stretch] = []
    count = 0
    for number, lengths, divisible in inputs:
        first = 0
        for place, length in enumerate(lengths, start=1):
            count += length
            last = place == len(lengths)
            if last or (divisible and count >= tokens):
                held.append(Stretch(number, first, place - first))
                first = place
                if count >= tokens:
                    shards.append(tuple(held))
                    held, count = [], 0
    return (*shards, tuple(held)) if held else tuple(shards)
