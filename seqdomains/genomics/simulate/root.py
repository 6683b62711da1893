"""The common ancestor's chromosome: isochores, CpG depletion and repeats that all descendants share.

Isochores of 100 to 300 kb with a GC content of 35 to 55 % (mean 41 %). Within an isochore bases are independent but for
CpG: most CpGs are turned into TpG or CpA, as methylation has done, to an observed/expected ratio of 0.34, which the
23-fold rate brings down to the published 0.20-0.25 in the living species. Old repeats as dense as in the human genome:
380 Alus, 160 L1 fragments and 100 LTRs per Mb, 4 to 30 substitutions per 100 sites old, over 28 % of the sequence.
"""

from __future__ import annotations

import numpy as np

from seqdomains.genomics.simulate.evolve import Rates, states_of, substitute
from seqdomains.genomics.simulate.families import old_subfamily, reverse_complement, truncated
from seqdomains.genomics.simulate.sequence import Codes, ColumnCounter, Lineage, Pieces, splice

ROOT_CPG_RATIO = 0.34
ISOCHORE = (100_000, 300_000)
GC_RANGE = (0.35, 0.55)
OLD_PER_MB = {"Alu": 380, "L1": 30, "L1M": 130, "LTR": 100}
"""Old copies per Mb. Of the L1 copies a fifth are of the primate lineage that the young ones descend from (L1PA)."""
OLD_AGE = {"Alu": (0.06, 0.16), "L1": (0.04, 0.12), "L1M": (0.12, 0.30), "LTR": (0.10, 0.25)}


def background(rng: np.random.Generator, length: int) -> Codes:
    """Return `length` bases with isochores and few CpGs, without repeats.

    Examples
    --------
    >>> codes = background(np.random.default_rng(0), 200_000)
    >>> count = np.bincount(codes, minlength=4)
    >>> cpg = int(((codes[:-1] == 1) & (codes[1:] == 2)).sum())
    >>> bool(0.31 < cpg * len(codes) / (count[1] * count[2]) < 0.37)
    True
    """
    parts: list[Codes] = []
    done = 0
    while done < length:
        size = min(int(rng.integers(*ISOCHORE)), length - done)
        gc = GC_RANGE[0] + (GC_RANGE[1] - GC_RANGE[0]) * rng.beta(1.2, 2.8)
        parts.append(_isochore(rng, size, gc))
        done += size
    return np.concatenate(parts)


def _isochore(rng: np.random.Generator, size: int, gc: float) -> Codes:
    # Removing a CpG costs one G or C, and lowers what is expected of the rest: solve for the content to begin with.
    start = gc
    for _ in range(20):
        start = gc + (start / 2) ** 2 - ROOT_CPG_RATIO * (gc / 2) ** 2
    codes = np.searchsorted(np.cumsum([(1 - start) / 2, start / 2, start / 2]), rng.random(size)).astype(np.uint8)
    kept = ROOT_CPG_RATIO * (gc / 2) ** 2 / (start / 2) ** 2
    pairs = np.flatnonzero((codes[:-1] == 1) & (codes[1:] == 2))
    pairs = pairs[rng.random(len(pairs)) >= kept]
    to_tpg = rng.random(len(pairs)) < 0.5
    codes[pairs[to_tpg]] = 3
    codes[pairs[~to_tpg] + 1] = 0
    return codes


def root_chromosome(rng: np.random.Generator, length: int, columns: ColumnCounter) -> Lineage:
    """Return an ancestral chromosome of exactly `length` bp, repeats masked."""
    copies: list[Codes] = []
    ages: list[float] = []
    for family, per_mb in OLD_PER_MB.items():
        for _ in range(int(rng.poisson(per_mb * length / 1e6))):
            codes = old_subfamily(family, int(rng.integers(1, 4)))
            codes = truncated(rng, codes, 0.8, 180, 60) if family == "Alu" else codes
            codes = truncated(rng, codes, 0.02, 900, 150) if "L1" in family else codes
            copies.append(reverse_complement(codes) if rng.random() < 0.5 else codes)
            ages.append(rng.uniform(*OLD_AGE[family]))
    order = rng.permutation(len(copies))
    lengths = np.array([len(copies[index]) for index in order], np.int64)
    # A short chromosome may draw more repeats than half of it can hold: the surplus is left out.
    order, lengths = order[np.cumsum(lengths) <= length // 2], lengths[np.cumsum(lengths) <= length // 2]
    total = int(lengths.sum())
    plain = background(rng, length - total)
    rates = Rates.scaled_to(states_of(plain))
    codes = np.concatenate([np.zeros(0, np.uint8), *(copies[index] for index in order)])
    age = np.repeat(np.array(ages)[order], lengths)
    oldest = max(high for _, high in OLD_AGE.values())
    for _ in range(10):
        codes = substitute(codes, oldest / 10, rng, rates=rates, exposure=(age / oldest).astype(np.float32))
    at = np.sort(rng.integers(0, len(plain) + 1, len(order)))
    empty = Lineage(plain, np.zeros(len(plain), bool), np.zeros(len(plain), np.int32), np.zeros(0, np.int64))
    pieces = Pieces(at, lengths, codes, np.ones(total, bool), np.zeros(total, np.int32))
    root = splice(empty, pieces)
    return Lineage(root.codes, root.masked, columns.take(length), root.cuts)
