"""One chromosome from the common ancestor to the species, with the truth about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.simulate.config import SimulationConfig
from seqdomains.genomics.simulate.constraint import NO_LETTER, Selection, Ward, plant
from seqdomains.genomics.simulate.evolve import Tally, indels, steps_of, substitute
from seqdomains.genomics.simulate.markers import RATE_PER_MB, Insertion, insert_markers
from seqdomains.genomics.simulate.measure import Measures, measure
from seqdomains.genomics.simulate.root import root_chromosome
from seqdomains.genomics.simulate.satellites import cap, cap_lengths
from seqdomains.genomics.simulate.sequence import Codes, ColumnCounter, Flags, Lineage, mosaic
from seqdomains.genomics.simulate.tree import MEAN_BLOCK, PATHS, PUBLISHED_LENGTHS, block_lengths, discordance, made

STAGES = (
    "root", "african", "blocks", "sisters", "alone", "human", "pan", "chimpanzee", "bonobo", "gorilla", "orangutan",
    "caps of chimpanzee", "caps of bonobo", "caps of gorilla", "caps of human", "caps of orangutan",
)  # fmt: skip
"""Each stage has a stream of random numbers of its own, so that no species depends on which others are simulated."""
SELECTION = 1
"""What selection decides in a stage has another stream, so that what it keeps is drawn like all else."""


@dataclass(frozen=True)
class MarkerRow:
    """A marker as it stands in a species' genome, 0-based half-open.

    `identity` is the share of its bases that are still those of its insertion.
    """

    start: int
    end: int
    branch: str
    family: str
    subfamily: str
    strand: str
    identity: float

    @property
    def name(self) -> str:
        """Branch, family and subfamily, as in the BED file."""
        return f"{self.branch}/{self.family}/{self.subfamily}"


@dataclass(frozen=True)
class ConstrainedRow:
    """An instance of a constrained motif as it stands in a species' genome, 0-based half-open.

    `intact` is the share of the motif's letters other than N that have a base which they allow.
    """

    start: int
    end: int
    motif: str
    strand: str
    intact: float


@dataclass(frozen=True)
class SpeciesChromosome:
    """Bases, soft mask, markers and constrained instances of one species' chromosome."""

    codes: Codes
    masked: Flags
    markers: tuple[MarkerRow, ...]
    constrained: tuple[ConstrainedRow, ...] = ()


@dataclass
class Chromosome:
    """One simulated chromosome of all the species."""

    hsa: int
    species: dict[str, SpeciesChromosome]
    insertions: dict[str, dict[str, int]]
    """Markers put in, by branch and family, before any was deleted again."""
    exposed_mb: dict[str, float]
    """Sequence in Mb into which each branch's markers went."""
    tally: Tally
    measures: Measures
    rejected: dict[str, int]
    """Mutations that purifying selection rejected, by kind."""


@dataclass
class _Evolution:
    config: SimulationConfig
    hsa: int
    columns: ColumnCounter = field(default_factory=ColumnCounter)
    insertions: list[Insertion] = field(default_factory=list)
    exposed_mb: dict[str, float] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    selection: Selection | None = None

    def rng(self, stage: str, *kind: int) -> np.random.Generator:
        key = (self.hsa, STAGES.index(stage), *kind)
        return np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=key))

    def descend(self, lineage: Lineage, length: float, stage: str) -> Lineage:
        """Evolve a chromosome along one branch, with the branch's markers where it has any."""
        rng = self.rng(stage)
        fates = self.rng(stage, SELECTION)
        rate = RATE_PER_MB.get(stage, 0.0) * self.config.density
        self.exposed_mb[stage] = len(lineage) / 1e6
        times = np.sort(rng.random(rng.poisson(rate * len(lineage) / 1e6)))
        for step, begin, end in steps_of(made(stage, length)):
            now = times[(times >= begin) & (times < end)] - begin
            rng.shuffle(now)
            ward = self._ward(lineage, fates)
            lineage, exposure, fresh = insert_markers(
                lineage, stage, now, end - begin, rng, self.columns, fixation=ward
            )
            self.insertions += fresh
            ward = self._ward(lineage, fates)
            background = ~self.in_marker(lineage)
            codes = substitute(
                lineage.codes, step, rng, exposure=exposure, background=background, tally=self.tally, fixation=ward
            )
            lineage = Lineage(codes, lineage.masked, lineage.column, lineage.cuts)
            lineage = indels(
                lineage,
                step,
                rng,
                self.columns,
                exposure=exposure,
                background=background,
                tally=self.tally,
                fixation=ward,
            )
        return lineage

    def _ward(self, lineage: Lineage, rng: np.random.Generator) -> Ward | None:
        return None if self.selection is None else self.selection.on(lineage, rng)

    def marker_of_column(self) -> NDArray[np.int32]:
        """Return for each alignment column the index of its marker, -1 where there is none."""
        owner = np.full(self.columns.total, -1, np.int32)
        for index, item in enumerate(self.insertions):
            owner[item.first_column : item.first_column + len(item.codes)] = index
        return owner

    def in_marker(self, lineage: Lineage) -> Flags:
        """Say of each base whether it came with a marker."""
        return np.asarray(self.marker_of_column()[lineage.column] >= 0)


def _evolve_tree(evolution: _Evolution, wanted: frozenset[str]) -> dict[str, Lineage]:
    """Evolve the ancestor into the wanted species; branches that lead to none of them are left out."""
    edges = block_lengths(discordance())
    length = PUBLISHED_LENGTHS
    root = root_chromosome(evolution.rng("root"), evolution.config.chromosome_length, evolution.columns)
    if evolution.config.constraint is not None:
        root, evolution.selection = plant(root, evolution.config.constraint, evolution.rng("root", SELECTION))
    found: dict[str, Lineage] = {}
    if "orangutan" in wanted:
        found["orangutan"] = evolution.descend(root, length["orangutan"], "orangutan")
    if wanted <= {"orangutan"}:
        return found
    ancestor = evolution.descend(root, edges.african, "african")
    del root
    rng = evolution.rng("blocks")
    cuts = np.cumsum(rng.geometric(1 / MEAN_BLOCK, 2 * len(ancestor) // MEAN_BLOCK + 50))
    ancestor = Lineage(ancestor.codes, ancestor.masked, ancestor.column, cuts[cuts < len(ancestor)])
    share = discordance()
    # 0: human with Pan; 1: human with gorilla; 2: Pan with gorilla. The third in each block evolves alone.
    topology = rng.choice(3, len(ancestor.cuts) + 1, p=(1 - share, share / 2, share / 2))
    sisters = evolution.descend(ancestor, edges.internal, "sisters")
    alone = evolution.descend(ancestor, edges.internal, "alone")
    if "human" in wanted:
        found["human"] = evolution.descend(mosaic(sisters, alone, topology != 2), edges.human, "human")
    if "gorilla" in wanted:
        found["gorilla"] = evolution.descend(mosaic(sisters, alone, topology != 0), edges.gorilla, "gorilla")
    if wanted & {"chimpanzee", "bonobo"}:
        pan = evolution.descend(mosaic(sisters, alone, topology != 1), edges.pan, "pan")
        for name in ("chimpanzee", "bonobo"):
            if name in wanted:
                found[name] = evolution.descend(pan, length[name], name)
    return found


def _marker_rows(evolution: _Evolution, lineage: Lineage, offset: int) -> list[MarkerRow]:
    """Find the markers of a species by their alignment columns; `offset` is the length of the cap before them."""
    owner = evolution.marker_of_column()
    inserted = np.zeros(evolution.columns.total, np.uint8)
    for item in evolution.insertions:
        inserted[item.first_column : item.first_column + len(item.codes)] = item.codes
    tag = owner[lineage.column]
    at = np.flatnonzero(tag >= 0)
    index = tag[at]
    count = len(evolution.insertions)
    first, last = np.full(count, -1), np.full(count, -1)
    # Of several values for one place the last one stays: walked backwards that is the first position.
    first[index[::-1]] = at[::-1]
    last[index] = at
    same = np.bincount(index, weights=lineage.codes[at] == inserted[lineage.column[at]], minlength=count)
    bases = np.maximum(np.bincount(index, minlength=count), 1)
    return [
        MarkerRow(
            start=int(first[number]) + offset,
            end=int(last[number]) + 1 + offset,
            branch=evolution.insertions[number].branch,
            family=evolution.insertions[number].family,
            subfamily=evolution.insertions[number].subfamily,
            strand=evolution.insertions[number].strand,
            identity=float(same[number] / bases[number]),
        )
        for number in np.flatnonzero(first >= 0).tolist()
    ]


def _constrained_rows(selection: Selection, lineage: Lineage, offset: int) -> list[ConstrainedRow]:
    """Find the instances of a species by their alignment columns, those that are lost as a whole left out."""
    owner = selection.owner_of(lineage.column)
    at = np.flatnonzero(owner >= 0)
    bounds = np.flatnonzero(np.diff(owner[at], prepend=-1, append=-1))
    rows = []
    for low, high in pairwise(bounds.tolist()):
        one = selection.instances[int(owner[at[low]])]
        places = at[low:high]
        known = one.allowed != NO_LETTER
        here = one.allowed[lineage.column[places] - one.first_column]
        kept = (here != NO_LETTER) & ((here >> lineage.codes[places]) & 1 == 1)
        intact = float(kept.sum() / known.sum())
        rows.append(
            ConstrainedRow(int(places[0]) + offset, int(places[-1]) + 1 + offset, one.motif, one.strand, intact)
        )
    return rows


def _finish(evolution: _Evolution, species: str, lineage: Lineage) -> SpeciesChromosome:
    """Add the caps and list the truth."""
    rng = evolution.rng(f"caps of {species}")
    left, right = cap_lengths(species, len(lineage), rng)
    left_codes, left_masked = cap(left, rng)
    right_codes, right_masked = cap(right, rng)
    end = left + len(lineage) + right
    rows = _marker_rows(evolution, lineage, left)
    caps = ((0, left), (end - right, end))
    rows += [MarkerRow(a, b, "cap", "StSat", "StSat", "+", 1.0) for a, b in caps if b > a]
    return SpeciesChromosome(
        codes=np.concatenate([left_codes, lineage.codes, right_codes]),
        masked=np.concatenate([left_masked, lineage.masked, right_masked]),
        markers=tuple(sorted(rows, key=lambda row: (row.start, row.end, row.name))),
        constrained=tuple(() if (kept := evolution.selection) is None else _constrained_rows(kept, lineage, left)),
    )


def simulate_chromosome(config: SimulationConfig, hsa: int) -> Chromosome:
    """Return one chromosome of all the species; it depends on `config` and `hsa` alone."""
    evolution = _Evolution(config, hsa)
    lineages = _evolve_tree(evolution, frozenset(config.species))
    counts: dict[str, dict[str, int]] = {branch: {} for branch in RATE_PER_MB if branch in evolution.exposed_mb}
    for item in evolution.insertions:
        counts[item.branch][item.family] = counts[item.branch].get(item.family, 0) + 1
    owner = evolution.marker_of_column()
    ordered = {name: lineages[name] for name in PATHS if name in lineages}
    return Chromosome(
        hsa=hsa,
        species={name: _finish(evolution, name, lineages[name]) for name in config.species},
        insertions=counts,
        exposed_mb=evolution.exposed_mb,
        tally=evolution.tally,
        measures=measure(ordered, owner),
        rejected=dict(evolution.selection.rejected) if evolution.selection is not None else {},
    )
