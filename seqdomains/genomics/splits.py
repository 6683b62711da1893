"""Which records are for training and which are held out: as given, by human homology, by group, or record by record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError
from seqdomains.sampling import counter_words
from seqdomains.task import Side

if TYPE_CHECKING:
    from seqdomains.genomics.corpus import Corpus
    from seqdomains.genomics.data_config import SpeciesData

Part = Literal["test", "valid"]
SexChromosomes = Literal["test", "train", "drop"]

# The parts of HyenaDNA's species task (arXiv:2306.15794, species_dataset.py), which the Mamba paper follows; everything
# else trains. They are human numbers: T2T names of apes are not homologous across species.
TEST_HOMOLOGUES = frozenset({"5", "7", "9", "10", "11"})
VALID_HOMOLOGUES = frozenset({"1", "3", "12", "13"})
# Gorilla chr4_hsa17x5 and chr19_hsa5x17 each join a test and a train homologue, so they are on neither side.
TRANSLOCATED = frozenset({"17x5", "5x17"})
# HyenaDNA trains on them, so that no test window is on one.
SEX_CHROMOSOMES = frozenset({"X", "Y"})

_GROUP_STREAM = 1 << 32


@dataclass(frozen=True)
class Split:
    """Records of each side.

    Parameters
    ----------
    train, held : ndarray of bool, shape (records,)
        A record may be on both sides only where a note says that the test windows come from the training loci.
    kind : {"given", "chromosome", "group", "record", "none"}
    notes : tuple of str
        What must stand beside a result.
    """

    train: NDArray[np.bool_]
    held: NDArray[np.bool_]
    kind: Literal["given", "chromosome", "group", "record", "none"]
    notes: tuple[str, ...] = ()


def split_corpus(corpus: Corpus, data: SpeciesData, *, alike: Sequence[str] | None = None) -> Split:
    """Split records as the configuration says.

    Parameters
    ----------
    corpus, data
        The records, and what is asked for.
    alike : sequence of str, optional
        A key of each record; where records are drawn, those with one key stay on one side. Their names if not given.

    Raises
    ------
    ConfigError
        A split that the data cannot serve.
    InputError
        Too few records or groups for both sides.
    """
    kind = data.split
    if kind == "auto":
        nuclear = any(hsa not in (None, "M") for hsa in corpus.homologues)
        kind = "group" if corpus.groups is not None else "chromosome" if nuclear else "record"
        kind = "given" if corpus.sides is not None else kind
    if kind == "given":
        if corpus.sides is None:
            raise ConfigError("data.split: given needs data.test_paths, data.split_from or tables with a column split")
        return split_by_sides(corpus.sides, part=data.held)
    if data.test_paths:
        raise ConfigError(f"data.split: {kind} does not go with data.test_paths, which are what is held out")
    if kind == "chromosome":
        if not any(corpus.homologues):
            raise ConfigError("data.split: chromosome needs one assembly per species, and these are labelled records")
        return split_by_chromosome(corpus.homologues, part=data.held, sex_chromosomes=data.sex_chromosomes)
    if kind == "group":
        if corpus.groups is None:
            raise ConfigError("data.split: group needs data.group, such as header:gene")
        return split_by_group(corpus.groups, fraction=data.test_fraction, seed=data.seed, part=data.held)
    if kind == "record":
        return split_by_record(
            corpus.class_of,
            alike or corpus.names,
            corpus.classes,
            fraction=data.test_fraction,
            seed=data.seed,
            part=data.held,
        )
    return no_split(len(corpus.names))


def split_by_sides(sides: Sequence[Side], *, part: Part = "test") -> Split:
    """Hold out what the user says is for testing, or for validation where that is asked for or nothing is for testing.

    Raises
    ------
    InputError
        A side has no record.

    Examples
    --------
    >>> split = split_by_sides(["train", "test", "valid"])
    >>> split.train.tolist(), split.held.tolist(), split.notes
    ([True, False, False], [False, True, False], ('1 records for validation are on neither side.',))
    """
    said = np.array(sides)
    held_side = "valid" if part == "valid" or "test" not in sides else "test"
    train, held = said == "train", said == held_side
    if not (train.any() and held.any()):
        raise InputError(
            f"the split that is given has {int(train.sum())} records to train on and {int(held.sum())} to test on: "
            "both sides need some"
        )
    names = {"valid": "for validation", "test": "for testing"}
    others = {name: int((said == side).sum()) for side, name in names.items() if side != held_side}
    notes = [f"{count} records {name} are on neither side." for name, count in others.items() if count]
    if held_side != part:
        notes.append("Held out are records for validation, since none are for testing.")
    return Split(train, held, "given", tuple(notes))


def split_by_chromosome(
    homologues: Sequence[str | None], *, part: Part = "test", sex_chromosomes: SexChromosomes = "test"
) -> Split:
    """Hold out the human-homologous chromosomes 5, 7, 9, 10, 11 (test) and 1, 3, 12, 13 (valid).

    Contigs whose homology is unknown, the gorilla 5;17 translocation and the mitochondrion are on neither side.

    Parameters
    ----------
    homologues : sequence of (str or None)
        Human-homologous chromosome of each record.
    part : {"test", "valid"}
        Which part is held out for scoring; the other does not train either.
    sex_chromosomes : {"test", "train", "drop"}
        The side of X and Y, which are homologous to each other in part and so always on one.

    Examples
    --------
    >>> split = split_by_chromosome(["5", "2A", "12", "17x5", None])
    >>> split.train.tolist(), split.held.tolist()
    ([False, True, False, False, False], [True, False, False, False, False])
    """
    usable = np.array([hsa is not None and hsa != "M" and hsa not in TRANSLOCATED for hsa in homologues], dtype=bool)
    sex = np.array([hsa in SEX_CHROMOSOMES for hsa in homologues], dtype=bool)
    test = np.array([hsa in TEST_HOMOLOGUES for hsa in homologues], dtype=bool)
    test |= sex & (sex_chromosomes == "test")
    valid = np.array([hsa in VALID_HOMOLOGUES for hsa in homologues], dtype=bool)
    left_out = int((~usable).sum())
    notes = []
    if left_out:
        notes.append(
            f"{left_out} of {len(homologues)} contigs are on neither side of the split: mitochondria, the gorilla 5;17 "
            "translocation and contigs whose human homologue is not known."
        )
    if sex.any() and sex_chromosomes != "test":
        fate = "are trained on" if sex_chromosomes == "train" else "are on neither side"
        notes.append(f"X and Y {fate}: no test window is on them.")
    train = usable & ~test & ~valid & ~(sex & (sex_chromosomes == "drop"))
    return Split(train, test if part == "test" else valid, "chromosome", tuple(notes))


def sex_groups(homologues: Sequence[str | None], records: NDArray[np.int64]) -> tuple[str, ...] | None:
    """Say of each test window whether it is on a sex chromosome; None where none is.

    Parameters
    ----------
    homologues : sequence of (str or None)
        Human-homologous chromosome of each record.
    records : ndarray of int64, shape (windows,)
        The record of each window.

    Examples
    --------
    >>> sex_groups(["5", "X"], np.array([0, 1, 1]))
    ('autosomes', 'sex chromosomes', 'sex chromosomes')
    >>> sex_groups(["5", "X"], np.array([0, 0])) is None
    True
    """
    sex = [homologues[record] in SEX_CHROMOSOMES for record in records.tolist()]
    if not any(sex):
        return None
    return tuple("sex chromosomes" if one else "autosomes" for one in sex)


def split_by_group(groups: Sequence[str], *, fraction: float, seed: int, part: Part = "test") -> Split:
    """Hold out whole groups, such as genes, so that no group is on both sides.

    Parameters
    ----------
    groups : sequence of str
        Group of each record.
    fraction : float
        Share of the groups that is held out. Validation takes as many again, which then do not train either.
    seed : int
        Decides which.

    Raises
    ------
    InputError
        There are too few groups for both sides.

    Examples
    --------
    >>> split = split_by_group(["a", "a", "b", "c", "c"], fraction=0.3, seed=0)
    >>> int(split.held.sum()) > 0 and not (split.train & split.held).any()
    True
    """
    distinct = sorted(set(groups))
    parts = 1 if part == "test" else 2
    if len(distinct) <= parts:
        raise InputError(f"the data have {len(distinct)} groups, and {parts + 1} are needed to hold one out")
    count = max(1, min(round(fraction * len(distinct)), (len(distinct) - 1) // parts))
    order = np.argsort(counter_words(seed, _GROUP_STREAM, 0, len(distinct), words=4)[:, 0], kind="stable")
    rank = {distinct[group]: place for place, group in enumerate(order.tolist())}
    places = np.array([rank[group] for group in groups], dtype=np.int64)
    held = places // count == parts - 1
    return Split(places >= parts * count, held, "group")


def split_by_record(
    class_of: NDArray[np.int64],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    fraction: float,
    seed: int,
    part: Part = "test",
) -> Split:
    """Hold out records of each class that has at least two; a class with one is tested on its training locus.

    Parameters
    ----------
    class_of : ndarray of int64, shape (records,)
        Index into `classes`.
    names : sequence of str
        Name of each record.

    Examples
    --------
    >>> split = split_by_record(np.array([0, 0, 1]), ["r1", "r2", "r3"], ["a", "b"], fraction=0.2, seed=0)
    >>> split.train.tolist().count(True), split.held.tolist().count(True), split.notes
    (2, 2, ('Test windows of b come from the training loci: there is no second record to hold out.',))
    """
    train = np.ones(len(class_of), dtype=bool)
    held = np.zeros(len(class_of), dtype=bool)
    single = []
    for index, name in enumerate(classes):
        members = np.flatnonzero(class_of == index)
        needed = 2 if part == "test" else 3
        if len(members) < needed:
            held[members] = True
            single.append(name)
            continue
        one = split_by_group([names[member] for member in members.tolist()], fraction=fraction, seed=seed, part=part)
        train[members], held[members] = one.train, one.held
    if len(single) == len(classes):
        return Split(train, held, "none", (_ON_TRAINING_LOCI,))
    note = f"Test windows of {', '.join(single)} come from the training loci: there is no second record to hold out."
    return Split(train, held, "record", (note,) if single else ())


def no_split(records: int) -> Split:
    """Train and test on all records: for barcoding, where the loci of the references are those of the user.

    Examples
    --------
    >>> no_split(2).notes
    ('Test windows come from the training loci: the accuracy is not that on other individuals or other loci.',)
    """
    everything = np.ones(records, dtype=bool)
    return Split(everything, everything.copy(), "none", (_ON_TRAINING_LOCI,))


_ON_TRAINING_LOCI = (
    "Test windows come from the training loci: the accuracy is not that on other individuals or other loci."
)
