"""A control that sees the gaps of an assembly and no base: where it tells species apart, so could any model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.alphabet import N


def gap_structure(codes: NDArray[Any]) -> NDArray[np.float32]:
    """Describe the runs of N and masked bases of windows, whatever the bases between them.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, L)

    Returns
    -------
    ndarray of float32, shape (n, 5)
        Share of N, number of runs, length of the longest run, first and last position of N; lengths and positions in
        bp, -1 where there is none.

    Examples
    --------
    >>> from seqdomains.genomics.alphabet import encode
    >>> gap_structure(np.stack([encode("ANNCGTNA"), encode("ACGTACGT")])).tolist()
    [[0.375, 2.0, 2.0, 1.0, 6.0], [0.0, 0.0, 0.0, -1.0, -1.0]]
    """
    gap = np.asarray(codes) >= N
    length = gap.shape[1]
    padded = np.pad(gap, ((0, 0), (1, 1)))
    edges = np.diff(padded.astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    longest = np.zeros(len(gap))
    np.maximum.at(longest, rows, ends - starts)
    any_gap = gap.any(axis=1)
    first = np.where(any_gap, gap.argmax(axis=1), -1)
    last = np.where(any_gap, length - 1 - gap[:, ::-1].argmax(axis=1), -1)
    features = (gap.mean(axis=1), np.bincount(rows, minlength=len(gap)), longest, first, last)
    return np.stack(features, axis=1).astype(np.float32)


class GapClassifier:
    """A decision tree on `gap_structure`.

    Examples
    --------
    >>> from seqdomains.genomics.alphabet import encode
    >>> codes = np.stack([encode("ACGTNNNN"), encode("ACGTACGT")] * 20)
    >>> GapClassifier().fit(codes, np.arange(40) % 2).score(codes, np.arange(40) % 2)
    1.0
    """

    name = "gaps only"

    def fit(self, codes: NDArray[Any], labels: NDArray[Any]) -> GapClassifier:
        """Fit on windows of shape (n, L) and their labels of shape (n,)."""
        from sklearn.tree import DecisionTreeClassifier

        # Leaves of 10 windows: it should learn a rule, not remember windows.
        tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=10, random_state=0)
        self._tree = tree.fit(gap_structure(codes), labels)
        return self

    def score(self, codes: NDArray[Any], labels: NDArray[Any]) -> float:
        """Return the share of windows that are labelled rightly."""
        return float(self._tree.score(gap_structure(codes), labels))
