"""Motif instances under purifying selection: planted in the ancestor, and kept by what selection rejects on the way.

A mutation whose bearers leave fewer offspring rarely becomes fixed: beside that of a neutral one its chance is
S / (exp(S) - 1), where S = 4 N s for a selection coefficient s against it in N individuals (Kimura 1962,
doi:10.1093/genetics/47.6.713). One minus that is the probability of rejection here: S = 4.5 gives 0.95. A substitution
that puts a base in an instance where its motif has another one, and an indel or a marker that changes an instance's
length, are drawn as if they were neutral and then rejected with that probability, by a stream of random numbers of
their own.

The motifs that stand in the settings are drawn, binding sites of no protein: two parts of 7 to 9 bp, in three of
the four with 6 to 8 bp of any bases between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seqdomains.genomics.simulate.evolve import Rates, states_of, substitute
from seqdomains.genomics.simulate.sequence import Codes, Flags, Lineage, Positions

MOTIFS: Final[Mapping[str, str]] = {
    "A": "AAKTGACAYCAGCCGC",
    "B": "CCAATGACYNNNNNNMGAAATG",
    "C": "GCGGCWCCNNNNNNNCSAGGAC",
    "D": "RGAAGCAANNNNNNNNMCCGAGAC",
}
# Which bases a letter stands for, A, C, G and T as bits 0 to 3 (Cornish-Bowden 1985, doi:10.1093/nar/13.9.3021).
_BASES_OF: Final[Mapping[str, int]] = {
    letter: sum(1 << "ACGT".index(base) for base in bases)
    for letter, bases in {
        **{base: base for base in "ACGT"}, "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
        "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
    }.items()
}  # fmt: skip
NO_LETTER: Final = 0b1111  # N allows all
# Of the bits of a code: A and T, C and G change places on the other strand.
_OTHER_STRAND: Final = np.array([sum(1 << (3 - bit) for bit in range(4) if code >> bit & 1) for code in range(16)])
_LENGTHS: Final = (6, 60)
_LEAST_KNOWN: Final = 5
_MOST_OF_ALL: Final = 0.1
_STEPS: Final = 10


class ConstraintConfig(BaseModel):
    """Motifs whose instances selection keeps.

    Parameters
    ----------
    motifs : mapping of str to str
        IUPAC letters by name. Bases that a letter allows are alike to selection; under N any base is, though none may
        be lost or added.
    per_mb : float
        Instances of each motif per Mb of the ancestor, on either strand; those that fall in a repeat are left out.
    rejection : float
        Probability that a mutation which harms an instance does not become fixed.
    age : float
        Substitutions per neutral site that instances have behind them in the ancestor: what selection let through in
        that time has changed them already (0.3 is assumed, the age of the oldest repeats).

    Examples
    --------
    >>> ConstraintConfig(motifs={"box": "TATAWAWR"}).rejection
    0.95
    >>> ConstraintConfig(motifs={"box": "TAZA"})
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for ConstraintConfig
    motifs
      Value error, box: 'Z' is no IUPAC letter (ACGT RYSWKM BDHV N) ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    motifs: Annotated[Mapping[str, str], Field(min_length=1)] = MOTIFS
    per_mb: Annotated[float, Field(gt=0)] = 50.0
    rejection: Annotated[float, Field(ge=0, le=1)] = 0.95
    age: Annotated[float, Field(ge=0, le=1)] = 0.3

    @field_validator("motifs")
    @classmethod
    def _readable(cls, value: Mapping[str, str]) -> dict[str, str]:
        for name, letters in value.items():
            if not name or not all(letter.isalnum() or letter in "_.-" for letter in name):
                raise ValueError(f"{name!r}: a motif's name has letters, digits and _.- alone")
            if strange := sorted(set(letters) - set(_BASES_OF)):
                raise ValueError(f"{name}: {strange[0]!r} is no IUPAC letter (ACGT RYSWKM BDHV N)")
            if not _LENGTHS[0] <= len(letters) <= _LENGTHS[1]:
                raise ValueError(f"{name}: {len(letters)} bp, expected {_LENGTHS[0]} to {_LENGTHS[1]}")
            if sum(letter != "N" for letter in letters) < _LEAST_KNOWN:
                raise ValueError(f"{name}: expected {_LEAST_KNOWN} letters other than N, or there is little to keep")
        return dict(value)

    @model_validator(mode="after")
    def _sparse(self) -> Self:
        together = sum(map(len, self.motifs.values()))
        if self.per_mb * together > _MOST_OF_ALL * 1e6:
            raise ValueError(
                f"per_mb {self.per_mb:g}: motifs of {together} bp together may have at most "
                f"{_MOST_OF_ALL * 1e6 / together:.0f} instances each per Mb, which are {_MOST_OF_ALL:.0%} of it"
            )
        return self


@dataclass(frozen=True)
class Instance:
    """A motif as it was planted: its first alignment column, its letters from left to right, and the strand."""

    motif: str
    strand: str
    first_column: int
    allowed: NDArray[np.uint8]


@dataclass(frozen=True)
class Selection:
    """What selection keeps of one chromosome.

    Parameters
    ----------
    instances : tuple of Instance
        From left to right in the ancestor.
    rejection : float
        See `ConstraintConfig`.
    owner : ndarray of int32
        Number of the instance that each of the ancestor's columns is part of, -1 for none.
    allowed : ndarray of uint8
        Bases that each of these columns may have, as bits.
    rejected : Counter
        How many substitutions and how many gaps, which are indels and markers, were rejected.
    """

    instances: tuple[Instance, ...]
    rejection: float
    owner: NDArray[np.int32]
    allowed: NDArray[np.uint8]
    rejected: Counter[str] = field(default_factory=Counter)

    def on(self, lineage: Lineage, rng: np.random.Generator) -> Ward:
        """Return what decides about the mutations of a lineage."""
        return Ward(self, lineage, rng)

    def owner_of(self, columns: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the number of the instance that each column is part of; columns that came later are of none."""
        known = columns < len(self.owner)
        return np.where(known, self.owner[np.where(known, columns, 0)], -1).astype(np.int32)

    def allowed_in(self, columns: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return the bases that each column may have, as bits."""
        known = columns < len(self.owner)
        return np.where(known, self.allowed[np.where(known, columns, 0)], NO_LETTER).astype(np.uint8)


class Ward:
    """Decides which mutations of one lineage become fixed.

    Parameters
    ----------
    selection : Selection
    lineage : Lineage
        As it is before the mutations.
    rng : Generator
        Source of chance.
    """

    def __init__(self, selection: Selection, lineage: Lineage, rng: np.random.Generator) -> None:
        self._selection = selection
        self._column = lineage.column
        self._rng = rng

    def substitutions(self, at: Positions, codes: Codes) -> Flags:
        """Say of each change of the base at `at` to another one whether it becomes fixed."""
        allowed = self._selection.allowed_in(self._column[at])
        return self._decide((allowed >> codes) & 1 == 0, "substitutions")

    def gaps(self, starts: Positions, ends: Positions) -> Flags:
        """Say of each deletion from start to end, or insertion before start = end, whether it becomes fixed."""
        owner = self._selection.owner_of(self._column)
        inside = np.concatenate([[0], np.cumsum(owner >= 0)])
        last = np.minimum(ends, len(owner))
        deleted = inside[last] > inside[starts]
        # Before the first base or behind the last one an insertion changes no instance's length.
        between = (starts > 0) & (starts < len(owner))
        left, right = owner[np.maximum(starts - 1, 0)], owner[np.minimum(starts, len(owner) - 1)]
        split = between & (left == right) & (left >= 0)
        return self._decide(np.where(ends > starts, deleted, split), "gaps")

    def _decide(self, harmful: NDArray[np.bool_], kind: str) -> Flags:
        rejected = np.zeros(len(harmful), bool)
        rejected[harmful] = self._rng.random(int(harmful.sum())) < self._selection.rejection
        self._selection.rejected[kind] += int(rejected.sum())
        return ~rejected


def plant(root: Lineage, config: ConstraintConfig, rng: np.random.Generator) -> tuple[Lineage, Selection]:
    """Write instances over an ancestral chromosome, outside its repeats, and let them grow old.

    Parameters
    ----------
    root : Lineage
        Its columns are 0, 1, 2, ...
    config : ConstraintConfig
    rng : Generator
        Source of chance.

    Returns
    -------
    lineage : Lineage
        As long as before.
    selection : Selection
        What is to be kept.

    Examples
    --------
    >>> from seqdomains.genomics.simulate.root import root_chromosome
    >>> from seqdomains.genomics.simulate.sequence import ColumnCounter
    >>> rng = np.random.default_rng(0)
    >>> root = root_chromosome(rng, 50_000, ColumnCounter())
    >>> planted, selection = plant(root, ConstraintConfig(motifs={"box": "TATAWAWRCC"}, rejection=1, per_mb=200), rng)
    >>> one = selection.instances[0]
    >>> "".join("ACGT"[code] for code in planted.codes[one.first_column :][:10]), one.strand
    ('TATAAATGCC', '+')
    """
    names = list(config.motifs)
    drawn = rng.permutation(np.repeat(np.arange(len(names)), rng.poisson(config.per_mb * len(root) / 1e6, len(names))))
    lengths = np.array([len(config.motifs[names[number]]) for number in drawn], np.int64)
    # Starts that are drawn as if instances had no length, and are then pushed apart, never overlap.
    starts = np.sort(rng.integers(0, len(root) - int(lengths.sum()) + 1, len(drawn))) + np.cumsum(lengths) - lengths
    masked = np.concatenate([[0], np.cumsum(root.masked)])
    codes = root.codes.copy()
    instances: list[Instance] = []
    owner = np.full(len(root), -1, np.int32)
    allowed = np.full(len(root), NO_LETTER, np.uint8)
    for number, start, length in zip(drawn.tolist(), starts.tolist(), lengths.tolist(), strict=True):
        letters = np.array([_BASES_OF[letter] for letter in config.motifs[names[number]]], np.uint8)
        forward = bool(rng.random() < 0.5)
        letters = letters if forward else _OTHER_STRAND[letters[::-1]].astype(np.uint8)
        places = slice(start, start + length)
        draws = rng.random((length, 4))
        if masked[places.stop] > masked[start]:
            continue
        # Where any base may stand the one that is there stays, so that flanks and gaps are of one composition.
        may = (letters[:, None] >> np.arange(4)) & 1
        chosen = np.argmax(np.where(may == 1, draws, -1), axis=1).astype(np.uint8)
        codes[places] = np.where(letters == NO_LETTER, codes[places], chosen)
        owner[places], allowed[places] = len(instances), letters
        instances.append(Instance(names[number], "+" if forward else "-", start, letters))
    planted = Lineage(codes, root.masked, root.column, root.cuts)
    selection = Selection(tuple(instances), config.rejection, owner, allowed)
    return _aged(planted, selection, config.age, rng), selection


def _aged(lineage: Lineage, selection: Selection, age: float, rng: np.random.Generator) -> Lineage:
    """Let the time before the ancestor act on the instances; the rest of the chromosome is as old as it is made."""
    rates = Rates.scaled_to(states_of(lineage.codes))
    exposure = (selection.owner >= 0).astype(np.float32)
    for _ in range(_STEPS):
        ward = selection.on(lineage, rng)
        codes = substitute(lineage.codes, age / _STEPS, rng, rates=rates, exposure=exposure, fixation=ward)
        lineage = Lineage(codes, lineage.masked, lineage.column, lineage.cuts)
    return lineage
