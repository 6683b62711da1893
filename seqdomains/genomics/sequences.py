"""Windows by record and start: from codes held in memory, or through a FASTA index where the files are large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.alphabet import N
from seqdomains.genomics.faidx import FastaFile


class SequenceStore(Protocol):
    """Records that windows are read from."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each record in bp."""

    @property
    def may_hold_n(self) -> bool:
        """Whether a window can contain N or masked bases."""

    def windows(self, records: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """Read windows of `length` bp that lie within their records: codes of shape (len(records), length)."""

    def soft_masks(self, records: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Tell which bases of the same windows are in lower case."""


class EncodedSequences:
    """Records held in memory, one byte per base.

    Parameters
    ----------
    records : sequence of ndarray of uint8
        Codes of each record.
    masks : sequence of ndarray of uint8, optional
        Soft mask of each, 8 bases in a byte (`numpy.packbits`); none means that all is in upper case.

    Examples
    --------
    >>> from seqdomains.genomics.alphabet import decode, encode
    >>> store = EncodedSequences([encode("ACGTACGT"), encode("TTTGGG")])
    >>> [decode(row) for row in store.windows(np.array([0, 1]), np.array([4, 1]), 4)]
    ['ACGT', 'TTGG']
    """

    def __init__(self, records: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]] | None = None) -> None:
        self.codes: NDArray[np.uint8] = np.concatenate(records) if records else np.empty(0, dtype=np.uint8)
        self.lengths: NDArray[np.int64] = np.array([record.size for record in records], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self.may_hold_n = bool((self.codes >= N).any())
        self._masks = masks

    def windows(self, records: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """Read windows; see `SequenceStore`."""
        firsts = self.offsets[records] + starts
        # Row by row a copy costs about 1 us; below 1 kb a gather over a strided view is cheaper than that.
        if length < 1024:
            return np.asarray(np.lib.stride_tricks.sliding_window_view(self.codes, length)[firsts])
        rows = np.empty((len(firsts), length), dtype=np.uint8)
        for row, first in zip(rows, firsts.tolist(), strict=True):
            row[:] = self.codes[first : first + length]
        return rows

    def soft_masks(self, records: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Read soft masks; see `SequenceStore`."""
        rows = np.zeros((len(records), length), dtype=np.bool_)
        if self._masks is not None:
            for row, record, first in zip(rows, records.tolist(), starts.tolist(), strict=True):
                bits = np.unpackbits(self._masks[record][first // 8 : (first + length + 7) // 8])
                row[:] = bits[first % 8 : first % 8 + length]
        return rows


class IndexedSequences:
    """Records read by position from indexed FASTA files; safe in forked workers and threads.

    Parameters
    ----------
    records : sequence of (FastaFile, str)
        File and name of each record.
    """

    may_hold_n = True

    def __init__(self, records: Sequence[tuple[FastaFile, str]]) -> None:
        self.records = tuple(records)
        self.lengths: NDArray[np.int64] = np.array([file.length(name) for file, name in records], dtype=np.int64)

    def windows(self, records: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """Read windows; see `SequenceStore`."""
        rows = np.empty((len(records), length), dtype=np.uint8)
        for row, record, start in zip(rows, records.tolist(), starts.tolist(), strict=True):
            file, name = self.records[record]
            row[:] = file.codes(name, start, start + length)
        return rows

    def soft_masks(self, records: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Read soft masks; see `SequenceStore`."""
        rows = np.empty((len(records), length), dtype=np.bool_)
        for row, record, start in zip(rows, records.tolist(), starts.tolist(), strict=True):
            file, name = self.records[record]
            row[:] = file.soft_mask(name, start, start + length)
        return rows
