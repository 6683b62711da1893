"""Words of k bases: a logistic regression on their frequencies, and a vote of exact matches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError

# Windows are counted in portions, so that memory does not follow their number.
PORTION = 256


def kmer_indices(codes: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the index in base 4 of the word at each position, -1 where it holds anything but A, C, G, T.

    Parameters
    ----------
    codes : ndarray of integer, shape (..., L)
        A, C, G, T as 0 to 3; any other code is no base.
    k : int
        Length of the word, 1 to 31.

    Returns
    -------
    ndarray of int64, shape (..., max(L - k + 1, 0))

    Examples
    --------
    >>> kmer_indices(np.array([0, 1, 2, 3, 14, 0]), 2).tolist()
    [1, 6, 11, -1, -1]
    """
    count = max(codes.shape[-1] - k + 1, 0)
    index = np.zeros((*codes.shape[:-1], count), np.int64)
    wrong = np.zeros(index.shape, bool)
    for offset in range(k if count else 0):
        part = codes[..., offset : offset + count]
        index = (index << 2) | (part & 3)
        wrong |= part > 3
    index[wrong] = -1
    return index


def reverse_complement_index(index: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the index of each word's reverse complement; -1 stays.

    Examples
    --------
    >>> reverse_complement_index(np.array([0b0001]), 2).tolist()  # AC -> GT
    [11]
    """
    rest = ~index
    turned = np.zeros_like(index)
    for _ in range(k):
        turned = (turned << 2) | (rest & 3)
        rest >>= 2
    return np.where(index < 0, -1, turned)


@cache
def _columns(k: int, canonical: bool) -> tuple[NDArray[np.int64], int]:
    """Return the feature of each word, and the number of features."""
    words = np.arange(4**k)
    if not canonical:
        return words, 4**k
    smaller = np.minimum(words, reverse_complement_index(words, k))
    unique, column = np.unique(smaller, return_inverse=True)
    return column.astype(np.int64), len(unique)


def kmer_frequencies(codes: NDArray[Any], k: int, *, canonical: bool = True) -> NDArray[np.float32]:
    """Return the share of each word among the words of each window.

    Parameters
    ----------
    codes : ndarray of integer, shape (n, L)
        Windows; words with N or padding are left out.
    k : int
        Length of the words.
    canonical : bool
        Count a word and its reverse complement as one.

    Returns
    -------
    ndarray of float32, shape (n, 4**k) or fewer columns if canonical

    Examples
    --------
    >>> kmer_frequencies(np.array([[0, 0, 3, 3, 14]]), 1).tolist()
    [[1.0, 0.0]]
    """
    column, width = _columns(k, canonical)
    result = np.zeros((len(codes), width), np.float32)
    for first in range(0, len(codes), PORTION):
        index = kmer_indices(codes[first : first + PORTION], k)
        row, place = np.nonzero(index >= 0)
        flat = row * width + column[index[row, place]]
        counts = np.bincount(flat, minlength=len(index) * width).reshape(len(index), width)
        result[first : first + PORTION] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return result


class KmerBaseline:
    """Logistic regression on word frequencies: what composition alone tells.

    The regression sees square roots of frequencies, standardised over the training windows.

    Parameters
    ----------
    k : int
        Length of the words.
    canonical : bool
        Count a word and its reverse complement as one.
    regularisation : float
        Inverse strength of the L2 penalty (scikit-learn's C). There are as many words as windows: it must be strong.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> codes = np.where(rng.random((40, 200)) < 0.3 + 0.4 * labels[:, None], 1, 0)
    >>> baseline = KmerBaseline(k=2).fit(codes[:20], labels[:20])
    >>> baseline.score(codes[20:], labels[20:])
    1.0
    """

    def __init__(self, *, k: int = 6, canonical: bool = True, regularisation: float = 1e-3) -> None:
        self.k = k
        self.canonical = canonical
        self.regularisation = regularisation
        self._model: Any = None

    def fit(self, codes: NDArray[Any], labels: NDArray[Any]) -> KmerBaseline:
        """Fit on windows of shape (n, L) and their labels of shape (n,); InputError if these are all the same."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(np.unique(labels)) < 2:
            raise InputError("the k-mer baseline needs windows of at least two classes")
        model = make_pipeline(StandardScaler(), LogisticRegression(C=self.regularisation, max_iter=200, tol=1e-3))
        self._model = model.fit(self._features(codes), labels)
        return self

    def _features(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        return np.sqrt(kmer_frequencies(codes, self.k, canonical=self.canonical))

    def predict_proba(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, classes), in the order of the sorted labels."""
        if self._model is None:
            raise RuntimeError("fit the baseline before asking it")
        return np.asarray(self._model.predict_proba(self._features(codes)))

    def predict(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Return the most probable label of each window, shape (n,)."""
        return np.asarray(self._model.classes_[self.predict_proba(codes).argmax(axis=1)])

    def score(self, codes: NDArray[Any], labels: NDArray[Any]) -> float:
        """Return the share of windows that are labelled rightly."""
        return float((self.predict(codes) == np.asarray(labels)).mean())


class KmerVote:
    """A vote of exact words: each word of a window that references hold votes for their classes.

    Parameters
    ----------
    references : mapping of str to sequence of ndarray
        Sequences of each class as codes.
    k : int
        Length of the words.

    Raises
    ------
    InputError
        If there is no class, or a class without a single word.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> human, gorilla = rng.integers(0, 4, (2, 1_000))
    >>> vote = KmerVote({"human": [human], "gorilla": [gorilla]})
    >>> vote.votes(gorilla[100:140]).tolist()
    [0.0, 26.0]
    """

    def __init__(self, references: Mapping[str, Sequence[NDArray[Any]]], *, k: int = 15) -> None:
        if not references:
            raise InputError("the k-mer vote needs at least one class with sequences")
        self.classes = tuple(references)
        self.k = k
        self._words = [self._distinct(sequences) for sequences in references.values()]
        for name, words in zip(self.classes, self._words, strict=True):
            if len(words) == 0:
                raise InputError(f"the sequences of {name!r} hold no word of {k} bases without N; give longer ones")

    def _distinct(self, sequences: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
        words = np.unique(np.concatenate([np.zeros(0, np.int64), *(kmer_indices(item, self.k) for item in sequences)]))
        words = words[words >= 0]
        return np.union1d(words, reverse_complement_index(words, self.k))

    def votes(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Return the number of a window's words that each class has, shape (classes,)."""
        index = kmer_indices(codes, self.k)
        index = index[index >= 0]
        # The words of each class are sorted: searching them takes 1/100 of the time of numpy's isin, which sorts anew.
        found = [np.searchsorted(words, index) for words in self._words]
        hits = [words[np.minimum(at, len(words) - 1)] == index for words, at in zip(self._words, found, strict=True)]
        return np.array([hit.sum() for hit in hits], np.float64)

    def predict(self, windows: Sequence[NDArray[Any]]) -> Iterator[str | None]:
        """Yield the class with the most votes, None where two or more have as many."""
        for window in windows:
            votes = self.votes(window)
            best = np.flatnonzero(votes == votes.max())
            yield self.classes[best[0]] if len(best) == 1 else None
