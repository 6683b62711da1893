"""A chromosome on its way down the tree: bases, soft mask, alignment columns and block boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Positions = NDArray[np.int64]
Base = TypeVar("Base", bound=np.generic)


@dataclass(frozen=True)
class Lineage:
    """One chromosome of one ancestor or species.

    Parameters
    ----------
    codes : ndarray of uint8, shape (L,)
        A, C, G, T as 0 to 3.
    masked : ndarray of bool, shape (L,)
        Whether the base lies in a repeat (lower case in FASTA).
    column : ndarray of int32, shape (L,)
        Alignment column. Bases of two lineages are homologous where their columns are equal.
    cuts : ndarray of int64
        Positions of block boundaries, carried through indels.
    """

    codes: Codes
    masked: Flags
    column: NDArray[np.int32]
    cuts: Positions

    def __len__(self) -> int:
        return len(self.codes)


class ColumnCounter:
    """Hands out alignment columns that no other base of the chromosome has."""

    def __init__(self) -> None:
        self.total = 0

    def take(self, count: int) -> NDArray[np.int32]:
        """Return `count` fresh columns."""
        first = self.total
        self.total += count
        return np.arange(first, self.total, dtype=np.int32)


@dataclass(frozen=True)
class Pieces:
    """Bases to put in: piece i goes before position `at[i]` and takes the next `lengths[i]` of the joined arrays.

    `at` is in ascending order.
    """

    at: Positions
    lengths: Positions
    codes: Codes
    masked: Flags
    column: NDArray[np.int32]


def splice(lineage: Lineage, pieces: Pieces, *, keep: Flags | None = None) -> Lineage:
    """Remove the bases where `keep` is false and put `pieces` in, at positions counted before the removal.

    Examples
    --------
    >>> def arrays(text):
    ...     codes = np.array(["ACGT".index(base) for base in text], np.uint8)
    ...     return codes, np.zeros(len(text), bool), np.arange(len(text), dtype=np.int32)
    >>> before = Lineage(*arrays("AAAATTTT"), cuts=np.array([4]))
    >>> pieces = Pieces(np.array([1, 8]), np.array([2, 1]), *arrays("CCG"))
    >>> after = splice(before, pieces, keep=np.array([1, 1, 1, 0, 1, 1, 1, 1], bool))
    >>> "".join("ACGT"[code] for code in after.codes), after.cuts.tolist()
    ('ACCAATTTTG', [5])
    """
    length = len(lineage)
    added = int(pieces.lengths.sum())
    before = np.cumsum(pieces.lengths) - pieces.lengths
    if keep is None:
        kept_before, cuts, kept = pieces.at, lineage.cuts, length
    else:
        kept_count = np.zeros(length + 1, np.int64)
        np.cumsum(keep, out=kept_count[1:])
        kept_before, cuts, kept = kept_count[pieces.at], kept_count[lineage.cuts], int(kept_count[-1])
    new = np.zeros(kept + added, bool)
    new[np.repeat(kept_before, pieces.lengths) + np.arange(added)] = True
    old = ~new
    joined = np.append(before, added)[np.searchsorted(pieces.at, lineage.cuts, side="left")]

    def merge(ours: NDArray[Base], theirs: NDArray[Base]) -> NDArray[Base]:
        merged = np.empty(kept + added, ours.dtype)
        merged[old] = ours if keep is None else ours[keep]
        merged[new] = theirs
        return merged

    return Lineage(
        codes=merge(lineage.codes, pieces.codes),
        masked=merge(lineage.masked, pieces.masked),
        column=merge(lineage.column, pieces.column),
        cuts=cuts + joined,
    )


def mosaic(first: Lineage, second: Lineage, use_first: Flags) -> Lineage:
    """Join the blocks of two lineages that were cut at the same places: block i from `first` where `use_first[i]`."""
    bounds = [np.concatenate(([0], item.cuts, [len(item)])) for item in (first, second)]
    chosen = [
        (source, slice(int(edges[block]), int(edges[block + 1])))
        for block, wanted in enumerate(use_first)
        for source, edges in ((first, bounds[0]) if wanted else (second, bounds[1]),)
    ]
    return Lineage(
        codes=np.concatenate([source.codes[part] for source, part in chosen]),
        masked=np.concatenate([source.masked[part] for source, part in chosen]),
        column=np.concatenate([source.column[part] for source, part in chosen]),
        cuts=np.zeros(0, np.int64),
    )
