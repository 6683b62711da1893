"""What the bases before a base tell of it: the interpolated Markov model that language models of DNA stand beside."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seqdomains.kernels.compilation import kernel

Codes = NDArray[np.uint8]

BASES: Final = 4
# Counts that the distribution of the order below is worth beside those of a context: where the choice begins, in which
# steps it goes on, how far, and for what share of the cost; and about how many positions it looks at.
_FIRST_WORTH: Final = 64.0
_STEPS: Final = (8.0, 2.0, 2.0, 2.0**0.5)
_SMALLEST: Final = 2.0**-7
_LARGEST: Final = 2.0**20
_WORTH_IT: Final = 1e-6
_TRIED: Final = 1 << 17


class MarkovModel:
    """The probability of a base given the `order` bases before it, each order interpolated with the one below.

    The probability of b in a context that was counted n times, m times before b, is (m + w p) / (n + w), where p is
    that of the order below, in the end 1/4. The worth w of each order, and the order itself, are those that cost least
    on a part of the training data that was not counted yet (deleted interpolation: Jelinek and Mercer 1980; for DNA
    Salzberg et al. 1998, doi:10.1093/nar/26.2.544). Of an N, or of the beginning, nothing is known: contexts end there.

    Parameters
    ----------
    most : int
        The highest order that may be chosen. 4^(most + 2) bytes of counts are held, and half of that again.
    both_strands : bool
        Whether what is counted is counted on the other strand too.

    Examples
    --------
    >>> model = MarkovModel(most=3, both_strands=False)
    >>> rng = np.random.default_rng(0)
    >>> codes = np.repeat(rng.integers(4, size=2000), 2).astype(np.uint8)
    >>> model.add(codes)
    >>> model.choose([np.repeat(rng.integers(4, size=500), 2).astype(np.uint8)])
    >>> model.order, model.name
    (3, 'order-3 interpolated Markov model')
    >>> unseen = np.repeat(rng.integers(4, size=500), 2).astype(np.uint8)[None]
    >>> round(float(model.bits(unseen, np.ones_like(unseen, bool))[0]) / 1000, 1)
    1.1
    """

    def __init__(self, *, most: int, both_strands: bool = True) -> None:
        self.most = self.order = most
        self.both_strands = both_strands
        self.worths: tuple[float, ...] = (1.0,) * (most + 1)
        self._counts = np.zeros(BASES ** (most + 1), np.uint32)
        self._tables: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]] | None = None

    @property
    def name(self) -> str:
        """What it is called beside a result."""
        return f"order-{self.order} interpolated Markov model{', both strands' if self.both_strands else ''}"

    def add(self, codes: Codes) -> None:
        """Count a stretch of bases, shape (length,); words that hold another code than A, C, G and T do not count."""
        _count(codes, self.most + 1, self.both_strands, self._counts)
        self._tables = None

    def choose(self, stretches: Iterable[Codes]) -> None:
        """Choose the worths and the order that make stretches, which were not counted, cost least.

        The worths of all orders are moved in turn, in steps that get shorter, as long as the highest order gains: taken
        one by one from below they would be 0.02 to 0.03 bits a base worse (ENCODE region ENm002, 1.6 Mb).
        """
        parts = [_Asked(codes[None], codes[None] < BASES) for codes in stretches]
        every = max(1, sum(part.count for part in parts) // _TRIED)
        counts = []
        for order in range(self.most + 1):
            found = [self._counted(part, order) for part in parts]
            words, contexts = (np.concatenate(one)[::every] for one in zip(*found, strict=True))
            counts.append((words, contexts))
        worths = [_FIRST_WORTH] * len(counts)
        least = _costs(counts, worths)[-1]
        for step in _STEPS:
            for order, factor in product(range(len(counts)), (step, 1 / step)):
                while _SMALLEST < worths[order] * factor < _LARGEST:
                    tried = [*worths[:order], worths[order] * factor, *worths[order + 1 :]]
                    cost = _costs(counts, tried)[-1]
                    if cost >= least * (1 - _WORTH_IT):
                        break
                    worths, least = tried, cost
        self.worths, self.order = tuple(worths), int(np.argmin(_costs(counts, worths)))

    def bits(self, codes: Codes, asked: NDArray[np.bool_], *, order: int | None = None) -> NDArray[np.float64]:
        """Return what bases cost, each given those before it in its window.

        Parameters
        ----------
        codes : ndarray of uint8, shape (windows, length)
        asked : ndarray of bool, shape (windows, length)
            Which of them; other codes than A, C, G and T are not asked.
        order : int, optional
            That which was chosen, if not given; 0 are the frequencies of the bases.

        Returns
        -------
        ndarray of float64, shape (windows,)
        """
        part = _Asked(codes, asked & (codes < BASES))
        chances = np.full(part.count, 1 / BASES)
        for level in range((self.order if order is None else order) + 1):
            chances = _interpolated(chances, *self._counted(part, level), self.worths[level])
        return np.bincount(part.rows, weights=-np.log2(chances), minlength=len(codes)).astype(np.float64)

    def _counted(self, part: _Asked, order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how often the word of this order that ends at each position was counted, and its context."""
        if self._tables is None:
            tables = [self._counts]
            for _ in range(self.most):
                tables.append(tables[-1].reshape(BASES, -1).sum(0, dtype=np.uint32))
            self._tables = [(one, one.reshape(-1, BASES).sum(1, dtype=np.uint32)) for one in reversed(tables)]
        words, contexts = self._tables[order]
        known, word = part.words(order)
        found = np.zeros(part.count), np.zeros(part.count)
        found[0][known], found[1][known] = words[word], contexts[word // BASES]
        return found


class _Asked:
    """Positions that are asked, and the words that end there."""

    def __init__(self, codes: Codes, asked: NDArray[np.bool_]) -> None:
        self.rows, self._columns = np.nonzero(asked)
        self.count = len(self.rows)
        self._codes = codes
        places = np.arange(codes.shape[1])
        unknown = np.maximum.accumulate(np.where(codes < BASES, -1, places), axis=1)
        before = np.concatenate([np.full((len(codes), 1), -1), unknown[:, :-1]], axis=1)
        self._context = self._columns - 1 - before[self.rows, self._columns]

    def words(self, order: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which positions have `order` bases before them, and the words that end at those."""
        known = self._context >= order
        rows, columns = self.rows[known], self._columns[known]
        word = np.zeros(len(rows), np.int64)
        for back in range(order, -1, -1):
            word = word * BASES + self._codes[rows, columns - back]
        return known, word


def _interpolated(
    chances: NDArray[np.float64], words: NDArray[np.float64], contexts: NDArray[np.float64], worth: float
) -> NDArray[np.float64]:
    # Where there is no context both counts are 0, and the chance stays as it is.
    return (words + worth * chances) / (contexts + worth)


def _costs(counts: list[tuple[NDArray[np.float64], NDArray[np.float64]]], worths: list[float]) -> list[float]:
    """Return what positions cost under each order, in bits."""
    chances, costs = np.full(len(counts[0][0]), 1 / BASES), []
    for (words, contexts), worth in zip(counts, worths, strict=True):
        chances = _interpolated(chances, words, contexts, worth)
        costs.append(-float(np.log2(chances).sum()))
    return costs


@kernel
def _count(codes: Any, length: Any, both_strands: Any, counts: Any) -> None:
    """Count the words of `length` bases, and those of the other strand."""
    word, other, clean = 0, 0, 0
    most = (1 << (2 * length)) - 1
    for code in codes:
        if code > 3:
            clean = 0
            continue
        word = ((word << 2) | int(code)) & most
        other = (other >> 2) | ((3 - int(code)) << (2 * (length - 1)))
        clean += 1
        if clean >= length:
            counts[word] += 1
            if both_strands:
                counts[other] += 1
