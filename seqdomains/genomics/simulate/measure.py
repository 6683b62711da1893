"""What a simulation realised: distances, transition ratio, composition, counted on the true alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.simulate.evolve import LONGEST_INDEL, Tally, in_cpg
from seqdomains.genomics.simulate.sequence import Lineage

ABSENT = 255


@dataclass
class PairCounts:
    """Aligned columns of two species."""

    aligned: int = 0
    differing: int = 0
    transitions: int = 0
    cpg: int = 0
    """Columns that are in a CpG in at least one of the two."""
    cpg_differing: int = 0

    def as_json(self) -> dict[str, float]:
        """Return the distances; `kimura` corrects for several changes at one site (Kimura 1980)."""
        transitions = self.transitions / self.aligned
        transversions = (self.differing - self.transitions) / self.aligned
        kimura = -0.5 * math.log((1 - 2 * transitions - transversions) * math.sqrt(1 - 2 * transversions))
        return {
            "aligned": self.aligned,
            "differing": self.differing / self.aligned,
            "kimura": kimura,
            "transition_ratio": transitions / transversions if transversions else math.inf,
            "cpg_differing": self.cpg_differing / self.cpg if self.cpg else math.nan,
        }


@dataclass
class Measures:
    """Counts that add up over chromosomes."""

    pairs: dict[str, PairCounts] = field(default_factory=dict)
    bases: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Per species: A, C, G, T outside markers and caps."""
    cpg: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    length: dict[str, int] = field(default_factory=dict)
    marker_bases: dict[str, int] = field(default_factory=dict)

    def add(self, other: Measures) -> None:
        """Add another chromosome's counts."""
        for pair, counts in other.pairs.items():
            mine = self.pairs.setdefault(pair, PairCounts())
            for name in vars(counts):
                setattr(mine, name, getattr(mine, name) + getattr(counts, name))
        for species in other.bases:
            self.bases[species] = self.bases.get(species, np.zeros(4, np.int64)) + other.bases[species]
            for name in ("cpg", "masked", "length", "marker_bases"):
                mine_by, theirs = getattr(self, name), getattr(other, name)
                mine_by[species] = mine_by.get(species, 0) + theirs[species]

    def composition(self, species: str) -> dict[str, float]:
        """Return GC content and CpG observed/expected outside markers and caps, and the share of masked bases."""
        counts = self.bases[species]
        total = int(counts.sum())
        return {
            "length": self.length[species],
            "gc": float(counts[1] + counts[2]) / total,
            "cpg_ratio": self.cpg[species] * total / float(counts[1] * counts[2]),
            "masked": self.masked[species] / self.length[species],
            "marker_bases": self.marker_bases[species],
        }


def measure(lineages: Mapping[str, Lineage], owner: NDArray[np.int32]) -> Measures:
    """Count over the species of one chromosome, before caps.

    Parameters
    ----------
    lineages : mapping of str to Lineage
        Species by name.
    owner : ndarray of int32
        Index of the marker that brought each alignment column, -1 for none.
    """
    result = Measures()
    bases, context = {}, {}
    for name, lineage in lineages.items():
        plain = owner[lineage.column] < 0
        cpg = in_cpg(lineage.codes)
        result.bases[name] = np.bincount(lineage.codes[plain], minlength=4).astype(np.int64)
        result.cpg[name] = int((cpg & plain & (lineage.codes == 1)).sum())
        result.masked[name] = int(lineage.masked.sum())
        result.length[name] = len(lineage)
        result.marker_bases[name] = int((~plain).sum())
        at = lineage.column[plain]
        bases[name] = np.full(len(owner), ABSENT, np.uint8)
        bases[name][at] = lineage.codes[plain]
        context[name] = np.zeros(len(owner), bool)
        context[name][at] = cpg[plain]
    for first, second in combinations(lineages, 2):
        both = (bases[first] != ABSENT) & (bases[second] != ABSENT)
        differ = both & (bases[first] != bases[second])
        # A and G are 0 and 2, C and T 1 and 3: two different bases of one parity are a transition.
        transition = differ & ((bases[first] ^ bases[second]) == 2)
        cpg = both & (context[first] | context[second])
        result.pairs[f"{first}-{second}"] = PairCounts(
            aligned=int(both.sum()),
            differing=int(differ.sum()),
            transitions=int(transition.sum()),
            cpg=int(cpg.sum()),
            cpg_differing=int((cpg & differ).sum()),
        )
    return result


def indel_exponent(histogram: NDArray[np.int64]) -> float:
    """Return the maximum-likelihood exponent of a zeta law cut at the longest indel, from counts by length."""
    lengths = np.arange(1, LONGEST_INDEL + 1)
    counts = histogram[1:]
    if counts.sum() == 0:
        return math.nan
    grid = np.arange(1.05, 3.0, 0.005)
    logs = np.log(lengths)
    fit = [-s * (counts @ logs) - counts.sum() * math.log((lengths**-s).sum()) for s in grid]
    return float(grid[int(np.argmax(fit))])


def tally_json(tally: Tally) -> dict[str, Any]:
    """Return the events of all branches as ratios."""
    events = tally.insertions + tally.deletions
    return {
        "substitutions": tally.substitutions,
        "transition_ratio": tally.transitions / max(tally.substitutions - tally.transitions, 1),
        "indels_per_100_substitutions": 100 * events / max(tally.substitutions, 1),
        "deletions_per_insertion": tally.deletions / max(tally.insertions, 1),
        "indel_exponent": indel_exponent(tally.indel_lengths),
    }
