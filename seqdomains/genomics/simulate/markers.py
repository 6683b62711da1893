"""Lineage-specific insertions: how many, of which families, where and when.

Rates are genome-wide counts per Mb and branch: private to human 3.2, chimpanzee 0.5, bonobo 0.5, shared by the two Pan
species 1.2, gorilla 1.3, orangutan 2.2. They are split by family after the published counts: human 7,082 Alu, 1,814 L1,
970 SVA, 82 ERV and chimpanzee since the human split 2,340, 1,979, 400, 279 (CSAC 2005, nature04072); gorilla 1,075 Alu
(McLain 2013), the rest in the chimpanzee's proportions; orangutan 250 Alu (Locke 2011, nature09687), the rest L1.
Chimpanzee ERVs are PtERV1, which integrated 3 to 4 million years ago: they lie on the Pan stem, none on the two younger
branches, and on the gorilla's branch independently (Yohn 2005).

An insertion happens at a uniform time on its branch and takes its share of the branch's mutations from then on. It
duplicates 7 to 20 bp of its target (4 to 6 for an ERV) and lands on either strand. It does not land inside an insertion
of the same step of the branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.simulate.evolve import Fixation
from seqdomains.genomics.simulate.families import (
    draw_copy,
    reverse_complement,
    subfamily_name,
    subfamily_parts,
)
from seqdomains.genomics.simulate.sequence import Codes, ColumnCounter, Lineage, Pieces, splice

GENOME_MB = 3_100

RATE_PER_MB = {"human": 3.2, "chimpanzee": 0.5, "bonobo": 0.5, "pan": 1.2, "gorilla": 1.3, "orangutan": 2.2}
"""Insertions per Mb that became fixed on each branch, at density 1."""

_PAN_COUNTS = {"Alu": 2_340, "L1": 1_979, "SVA": 400}
_PT_ERV = 279
_GORILLA_ALU = 1_075
_GORILLA_REST = RATE_PER_MB["gorilla"] * GENOME_MB - _GORILLA_ALU
_PAN_REST = _PAN_COUNTS["L1"] + _PAN_COUNTS["SVA"] + _PT_ERV
_ORANG_ALU = 250

FAMILY_COUNTS: dict[str, dict[str, float]] = {
    "human": {"Alu": 7_082, "L1": 1_814, "SVA": 970, "HERVK": 82},
    "chimpanzee": dict(_PAN_COUNTS),
    "bonobo": dict(_PAN_COUNTS),
    # All PtERV1 of the chimpanzee are on the stem: 279 of the stem's copies, the other families as on the whole path.
    "pan": {
        family: count * (1 - _PT_ERV / (RATE_PER_MB["pan"] * GENOME_MB)) / sum(_PAN_COUNTS.values())
        for family, count in _PAN_COUNTS.items()
    }
    | {"PtERV1": _PT_ERV / (RATE_PER_MB["pan"] * GENOME_MB)},
    "gorilla": {
        "Alu": _GORILLA_ALU,
        "L1": _GORILLA_REST * _PAN_COUNTS["L1"] / _PAN_REST,
        "SVA": _GORILLA_REST * _PAN_COUNTS["SVA"] / _PAN_REST,
        "PtERV1": _GORILLA_REST * _PT_ERV / _PAN_REST,
    },
    "orangutan": {"Alu": _ORANG_ALU, "L1": RATE_PER_MB["orangutan"] * GENOME_MB - _ORANG_ALU},
}
"""Families of each branch's insertions, in proportion."""


@dataclass(frozen=True)
class Insertion:
    """One marker: what went in, and the alignment columns of its bases (without the target-site duplication)."""

    branch: str
    family: str
    subfamily: str
    strand: str
    codes: Codes
    first_column: int


def family_shares(branch: str) -> dict[str, float]:
    """Return the families of a branch's insertions with their shares.

    Examples
    --------
    >>> {family: round(share, 3) for family, share in family_shares("human").items()}
    {'Alu': 0.712, 'L1': 0.182, 'SVA': 0.098, 'HERVK': 0.008}
    """
    counts = FAMILY_COUNTS[branch]
    total = sum(counts.values())
    return {family: count / total for family, count in counts.items()}


def insert_markers(
    lineage: Lineage,
    branch: str,
    times: NDArray[np.float64],
    end: float,
    rng: np.random.Generator,
    columns: ColumnCounter,
    *,
    fixation: Fixation | None = None,
) -> tuple[Lineage, NDArray[np.float32], list[Insertion]]:
    """Put fresh copies into a chromosome during one step of a branch.

    Parameters
    ----------
    lineage : Lineage
        The chromosome at the begin of the step.
    branch : str
        Whose subfamilies are active.
    times : ndarray of float64, shape (n,)
        Times of the insertions within the step, from 0 to `end`.
    end : float
        Length of the step in the unit of `times`.
    rng : Generator
        Source of chance.
    columns : ColumnCounter
        Gives each new base its alignment column.
    fixation : Fixation, optional
        Which insertions become fixed; all do without it.

    Returns
    -------
    lineage : Lineage
        The chromosome with its insertions.
    exposure : ndarray of float32, shape (L,)
        Share of the step during which each base is there.
    insertions : list of Insertion
        What went in, from left to right.
    """
    at = np.sort(rng.integers(20, len(lineage) + 1, len(times)))
    if fixation is not None:
        fixed = fixation.gaps(at, at)
        at, times = at[fixed], times[fixed]
    if len(at) == 0:
        return lineage, np.ones(len(lineage), np.float32), []
    shares = family_shares(branch)
    families = rng.choice(list(shares), len(times), p=list(shares.values()))
    insertions: list[Insertion] = []
    contents: list[Codes] = []
    flags = []
    taken: list[NDArray[np.int32]] = []
    for position, name in zip(at.tolist(), families.tolist(), strict=True):
        copy = draw_copy(rng, subfamily_parts(branch, name), name)
        forward = bool(rng.random() < 0.5)
        copy = copy if forward else reverse_complement(copy)
        duplicated = int(rng.integers(4, 7)) if "ERV" in name else int(rng.integers(7, 21))
        fresh = columns.take(len(copy) + duplicated)
        strand = "+" if forward else "-"
        insertions.append(Insertion(branch, name, subfamily_name(branch, name), strand, copy, int(fresh[0])))
        contents += [copy, lineage.codes[position - duplicated : position]]
        flags += [np.ones(len(copy), bool), lineage.masked[position - duplicated : position]]
        taken.append(fresh)
    lengths = np.array([len(item) for item in taken], np.int64)
    first_new = columns.total - int(lengths.sum())
    pieces = Pieces(at, lengths, np.concatenate(contents), np.concatenate(flags), np.concatenate(taken))
    grown = splice(lineage, pieces)
    exposure = np.ones(len(grown), np.float32)
    exposure[grown.column >= first_new] = np.repeat(1 - times / end, lengths).astype(np.float32)
    return grown, exposure, insertions
