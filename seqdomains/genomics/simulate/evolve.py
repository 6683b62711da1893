"""Substitutions and short indels along one branch.

Substitutions follow HKY85. Between human and chimpanzee a transition/transversion ratio of 2.07 is seen (Liu 2003,
gr.923303); repeated changes of CpGs hide some transitions, so 2.17 are made. Bases in a CpG, on either
strand, mutate 23 times as often by transition and 7 times as often by transversion (Ebersberger 2002,
doi:10.1086/340787). The rates are scaled to the sequence at hand, so that a branch of length t carries t substitutions
per site. Indels: 14 per 100 substitutions, two deletions to one insertion, lengths by a zeta law of exponent 1.65
(Cartwright 2009, MBE 26:473). An insertion repeats the bases before it, as slippage does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.simulate.sequence import Codes, ColumnCounter, Flags, Lineage, Pieces, Positions, splice

TRANSITION_RATIO = 2.17
CPG_TRANSITIONS = 23.0
CPG_TRANSVERSIONS = 7.0
INDELS_PER_SUBSTITUTION = 0.14
DELETIONS_PER_INSERTION = 2.0
INDEL_EXPONENT = 1.65
# The law has no finite mean; cut at 1,000 bp it is 15 bp, which puts the published 3 % of bases in indels.
LONGEST_INDEL = 1_000
# Long branches go in steps, so that bases that become or cease to be CpG change their rate.
LONGEST_STEP = 0.004

EQUILIBRIUM = np.array([0.295, 0.205, 0.205, 0.295])
"""Base frequencies of HKY: the genome's GC content of 41 %."""

TRANSITION = np.array([2, 3, 0, 1], np.uint8)
TRANSVERSIONS = np.array([[1, 3], [0, 2], [1, 3], [0, 2]], np.uint8)


class Fixation(Protocol):
    """Decides which mutations become fixed, where not all do."""

    def substitutions(self, at: Positions, codes: Codes) -> Flags:
        """Say it of each change of the base at `at` to another one."""

    def gaps(self, starts: Positions, ends: Positions) -> Flags:
        """Say it of each deletion from start to end, and of each insertion before start = end."""


@dataclass
class Tally:
    """What happened on a branch."""

    substitutions: int = 0
    transitions: int = 0
    insertions: int = 0
    deletions: int = 0
    indel_lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LONGEST_INDEL + 1, np.int64))

    def add(self, other: Tally) -> None:
        """Add another branch's or chromosome's events."""
        self.substitutions += other.substitutions
        self.transitions += other.transitions
        self.insertions += other.insertions
        self.deletions += other.deletions
        self.indel_lengths = self.indel_lengths + other.indel_lengths


def in_cpg(codes: Codes) -> Flags:
    """Say of each base whether it is the C or the G of a CpG.

    Examples
    --------
    >>> in_cpg(np.array([1, 2, 2, 0, 1], np.uint8)).tolist()
    [True, True, False, False, False]
    """
    pair = (codes[:-1] == 1) & (codes[1:] == 2)
    flags = np.zeros(len(codes), bool)
    flags[:-1] = pair
    flags[1:] |= pair
    return flags


@dataclass(frozen=True)
class Rates:
    """Substitution rates by state (base + 4 if in a CpG), for branch lengths in substitutions per site.

    Parameters
    ----------
    transition : ndarray of float64, shape (8,)
        Rate of the transition.
    transversion : ndarray of float64, shape (8,)
        Rate of both transversions together.
    """

    transition: NDArray[np.float64]
    transversion: NDArray[np.float64]

    @classmethod
    def scaled_to(cls, states: NDArray[np.uint8]) -> Rates:
        """Return the rates that make the mean over `states` one, with the transition ratio above.

        Examples
        --------
        >>> rates = Rates.scaled_to(np.array([0, 1, 2, 3, 5, 6], np.uint8))
        >>> round(float(rates.transition[5] / rates.transition[1]), 6)
        23.0
        """
        counts = np.bincount(states, minlength=8).astype(np.float64)
        transition = np.tile(EQUILIBRIUM[TRANSITION], 2)
        transversion = np.tile(EQUILIBRIUM[TRANSVERSIONS].sum(axis=1), 2)
        transition[4:] *= CPG_TRANSITIONS
        transversion[4:] *= CPG_TRANSVERSIONS
        share = TRANSITION_RATIO / (1 + TRANSITION_RATIO)
        transition *= share * counts.sum() / (counts @ transition)
        transversion *= (1 - share) * counts.sum() / (counts @ transversion)
        return cls(transition, transversion)


def states_of(codes: Codes) -> NDArray[np.uint8]:
    """Return base + 4 for bases in a CpG, base alone for the others."""
    return codes + 4 * in_cpg(codes).astype(np.uint8)


def substitute(
    codes: Codes,
    length: float,
    rng: np.random.Generator,
    *,
    rates: Rates | None = None,
    exposure: NDArray[np.float32] | None = None,
    background: Flags | None = None,
    tally: Tally | None = None,
    fixation: Fixation | None = None,
) -> Codes:
    """Return a copy of `codes` after a step of `length` substitutions per site, at most one per site.

    Parameters
    ----------
    codes : ndarray of uint8, shape (L,)
        A, C, G, T as 0 to 3.
    length : float
        Length of the step, in substitutions per site.
    rng : Generator
        Source of chance.
    rates : Rates, optional
        Rates by state; by default scaled to `codes`, or to its part where `background` holds.
    exposure : ndarray of float32, shape (L,), optional
        Share of the step during which the base was there.
    background : ndarray of bool, shape (L,), optional
        Bases that are counted: an insertion rich in CpG changes neither the rates nor the tally.
    tally : Tally, optional
        Receives the numbers of events.
    fixation : Fixation, optional
        Which changes become fixed; all do without it.
    """
    states = states_of(codes)
    if rates is None:
        rates = Rates.scaled_to(states if background is None else states[background])
    total = rates.transition + rates.transversion
    chance = (1 - np.exp(-total * length)).astype(np.float32)[states]
    if exposure is not None:
        chance *= exposure
    hit = np.flatnonzero(rng.random(len(codes), dtype=np.float32) < chance)
    state, base = states[hit], codes[hit]
    is_transition = rng.random(len(hit)) * total[state] < rates.transition[state]
    pair = TRANSVERSIONS[base]
    weight = EQUILIBRIUM[pair]
    second = rng.random(len(hit)) * weight.sum(axis=1) >= weight[:, 0]
    new = np.where(is_transition, TRANSITION[base], np.where(second, pair[:, 1], pair[:, 0]))
    if fixation is not None:
        fixed = fixation.substitutions(hit, new)
        hit, new, is_transition = hit[fixed], new[fixed], is_transition[fixed]
    changed = codes.copy()
    changed[hit] = new
    if tally is not None:
        counted = np.ones(len(hit), bool) if background is None else background[hit]
        tally.substitutions += int(counted.sum())
        tally.transitions += int((is_transition & counted).sum())
    return changed


def _zeta_law() -> NDArray[np.float64]:
    weights = np.arange(1, LONGEST_INDEL + 1, dtype=np.float64) ** -INDEL_EXPONENT
    cumulative = np.cumsum(weights)
    return np.asarray(cumulative / cumulative[-1])


ZETA_LAW = _zeta_law()


def indels(
    lineage: Lineage,
    length: float,
    rng: np.random.Generator,
    columns: ColumnCounter,
    *,
    exposure: NDArray[np.float32] | None = None,
    background: Flags | None = None,
    tally: Tally | None = None,
    fixation: Fixation | None = None,
) -> Lineage:
    """Return `lineage` after the insertions and deletions of a step; arguments as of `substitute`."""
    size = len(lineage)
    at = np.sort(rng.integers(1, size, rng.poisson(INDELS_PER_SUBSTITUTION * length * size)))
    if exposure is not None:
        at = at[rng.random(len(at)) < exposure[at]]
    lengths = 1 + np.searchsorted(ZETA_LAW, rng.random(len(at)), side="right").astype(np.int64)
    is_insertion = rng.random(len(at)) * (1 + DELETIONS_PER_INSERTION) < 1
    if fixation is not None:
        fixed = fixation.gaps(at, at + np.where(is_insertion, 0, lengths))
        at, lengths, is_insertion = at[fixed], lengths[fixed], is_insertion[fixed]
    if tally is not None:
        counted = np.ones(len(at), bool) if background is None else background[at]
        tally.insertions += int((is_insertion & counted).sum())
        tally.deletions += int((~is_insertion & counted).sum())
        tally.indel_lengths += np.bincount(lengths[counted], minlength=LONGEST_INDEL + 1)
    keep = np.ones(size, bool)
    for start, extent in zip(at[~is_insertion].tolist(), lengths[~is_insertion].tolist(), strict=True):
        keep[start : start + extent] = False
    at, lengths = at[is_insertion], lengths[is_insertion]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    # An insertion near the left end may be longer than what stands before it: it repeats what there is.
    origin = np.repeat(at, lengths) - 1 - (np.repeat(lengths, lengths) - 1 - within) % np.repeat(at, lengths)
    masked = np.repeat(lineage.masked[at - 1], lengths)
    pieces = Pieces(at, lengths, lineage.codes[origin], masked, columns.take(len(origin)))
    return splice(lineage, pieces, keep=keep)


def steps_of(length: float) -> Iterator[tuple[float, float, float]]:
    """Cut a branch into equal steps: yield the length of each, and its begin and end as shares of the branch."""
    count = max(1, math.ceil(length / LONGEST_STEP))
    for index in range(count):
        yield length / count, index / count, (index + 1) / count
