"""Parts of records, such as those to train on and those held out: what is common to two sets, and what is left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.alphabet import N
from seqdomains.genomics.sequences import SequenceStore

# Bases that are looked through at once.
_PIECE = 1 << 22


@dataclass(frozen=True)
class Areas:
    """Parts of numbered records that do not overlap, in order: 0-based half-open, in bp.

    Parameters
    ----------
    records, starts, ends : ndarray of int64, shape (areas,)

    Examples
    --------
    >>> areas = Areas.of([(0, 5, 9), (0, 0, 6), (1, 3, 3)])
    >>> list(areas.rows()), areas.bases
    ([(0, 0, 9)], 9)
    """

    records: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int]]) -> Areas:
        """Join rows of record, start and end that overlap or touch, and put them in order; empty ones are left out."""
        joined: list[list[int]] = []
        for record, start, end in sorted(row for row in rows if row[1] < row[2]):
            if joined and joined[-1][0] == record and start <= joined[-1][2]:
                joined[-1][2] = max(joined[-1][2], end)
            else:
                joined.append([record, start, end])
        table = np.array(joined, dtype=np.int64).reshape(-1, 3)
        return cls(table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy())

    @classmethod
    def whole(cls, lengths: NDArray[np.int64]) -> Areas:
        """Return whole records.

        Examples
        --------
        >>> Areas.whole(np.array([7, 3])).bases
        10
        """
        return cls.of((record, 0, length) for record, length in enumerate(lengths.tolist()))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each, in bp."""
        return self.ends - self.starts

    @property
    def bases(self) -> int:
        """Length of all, in bp."""
        return int(self.lengths.sum())

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """Yield record, start and end of each."""
        yield from zip(self.records.tolist(), self.starts.tolist(), self.ends.tolist(), strict=True)

    def within(self, others: Areas) -> Areas:
        """Return what is in both.

        Examples
        --------
        >>> list(Areas.of([(0, 0, 9)]).within(Areas.of([(0, 2, 4), (0, 7, 12), (1, 0, 5)])).rows())
        [(0, 2, 4), (0, 7, 9)]
        """
        return Areas.of(
            (record, max(start, first), min(end, last))
            for record, start, end in self.rows()
            for first, last in others._near(record, start, end)
        )

    def without(self, others: Areas, *, gap: int = 0) -> Areas:
        """Return what is not within `gap` bp of the others.

        Examples
        --------
        >>> list(Areas.of([(0, 0, 20)]).without(Areas.of([(0, 8, 10)]), gap=3).rows())
        [(0, 0, 5), (0, 13, 20)]
        """
        left = []
        for record, start, end in self.rows():
            at = start
            for first, last in others._near(record, start - gap, end + gap):
                left.append((record, at, min(end, first - gap)))
                at = max(at, last + gap)
            left.append((record, at, end))
        return Areas.of(left)

    def ends_of_records(self, share: float) -> Areas:
        """Return of each record what lies in the last share of the way from its first base to its last.

        Examples
        --------
        >>> list(Areas.of([(0, 0, 10), (0, 90, 100), (1, 5, 8)]).ends_of_records(0.5).rows())
        [(0, 90, 100), (1, 6, 8)]
        """
        extents: dict[int, tuple[int, int]] = {}
        for record, start, end in self.rows():
            extents[record] = (extents.get(record, (start, end))[0], end)
        rows = ((record, end - math.ceil(share * (end - start)), end) for record, (start, end) in extents.items())
        return self.within(Areas.of(rows))

    def _near(self, record: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield those of a record that have a base between start and end."""
        first, last = np.searchsorted(self.records, [record, record + 1])
        low = first + int(np.searchsorted(self.ends[first:last], start, side="right"))
        high = first + int(np.searchsorted(self.starts[first:last], end))
        yield from zip(self.starts[low:high].tolist(), self.ends[low:high].tolist(), strict=True)


def runs_of_n(sequences: SequenceStore, *, longer_than: int) -> Areas:
    """Return the runs of N and masked bases that are longer than some.

    Examples
    --------
    >>> from seqdomains.genomics.alphabet import encode
    >>> from seqdomains.genomics.sequences import EncodedSequences
    >>> list(runs_of_n(EncodedSequences([encode("NNACNGNNN"), encode("NN")]), longer_than=1).rows())
    [(0, 0, 2), (0, 6, 9), (1, 0, 2)]
    """
    found: list[tuple[int, int, int]] = []
    if not sequences.may_hold_n:
        return Areas.of(found)
    for record, length in enumerate(sequences.lengths.tolist()):
        for first in range(0, length, _PIECE):
            piece = sequences.windows(np.array([record]), np.array([first]), min(_PIECE, length - first))[0]
            borders = np.flatnonzero(np.diff(np.concatenate([[False], piece >= N, [False]]).astype(np.int8)))
            found += [(record, first + start, first + end) for start, end in borders.reshape(-1, 2).tolist()]
    # Joined first: a run may lie across two pieces.
    return Areas.of(row for row in Areas.of(found).rows() if row[2] - row[1] > longer_than)
