"""Motif instances under purifying selection: what stands in the truth, what is kept, and that nothing else changes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pysam
import pytest
from pydantic import ValidationError

from seqdomains.genomics.simulate import SimulationConfig, simulate
from seqdomains.genomics.simulate.constraint import ConstraintConfig, Instance, Selection
from seqdomains.genomics.simulate.sequence import Lineage

BASES = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "W": "AT", "N": "ACGT"}
MOTIFS = {"box": "TATAWAWRCG", "gapped": "CGATTNNNNYGTCA"}
CONFIG = SimulationConfig(chromosomes=(2, 5), chromosome_length=150_000, density=64, seed=3)


def with_constraint(**changed):
    constraint = ConstraintConfig(**{"motifs": MOTIFS, "per_mb": 800, **changed})
    return CONFIG.model_copy(update={"constraint": constraint})


def rows_of(folder, species):
    for line in (folder / f"constrained.{species}.bed").read_text().splitlines():
        contig, start, end, motif, score, strand = line.split("\t")
        yield contig, int(start), int(end), motif, int(score), strand


def intact_of(folder, species):
    return np.array([score / 1000 for *_, score, _ in rows_of(folder, species)])


def instances_of(folder, species):
    with pysam.FastaFile(str(folder / f"{species}.fa")) as fasta:
        for contig, start, end, motif, score, strand in rows_of(folder, species):
            text = fasta.fetch(contig, start, end)
            assert text.isupper() or len(text) != len(MOTIFS[motif])  # no repeat was written over
            text = text.upper() if strand == "+" else text.upper()[::-1].translate(str.maketrans("ACGT", "TGCA"))
            yield text, MOTIFS[motif], score


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "apes"
    simulate(with_constraint(rejection=1), folder)
    return folder


@pytest.fixture(scope="module")
def neutral(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neutral") / "apes"
    simulate(with_constraint(rejection=0), folder)
    return folder


def test_without_constraint_the_bytes_are_those_of_before_there_was_one(tmp_path):
    """The hash is that of the simulator as it was at commit 2883e0d."""
    config = SimulationConfig(chromosomes=(2, 5, 7), chromosome_length=60_000, density=64, seed=9)
    simulate(config, tmp_path / "apes")
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "apes").iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    assert digest.hexdigest() == "f34ed344b0c68c612e1b61f8419e0705bdb6a25d0b5c851e239cad9993d60d87"


def test_where_all_harm_is_rejected_every_species_has_every_instance_whole(kept):
    record = json.loads((kept / "simulation.json").read_text())["realised"]["constraint"]
    counts = set()
    for species in CONFIG.species:
        found = list(instances_of(kept, species))
        counts.add(len(found))
        assert record["instances"][species] == len(found)
        assert {len(motif) for _, motif, _ in found} == {10, 14}
        for text, motif, score in found:
            assert score == 1000
            assert len(text) == len(motif)
            assert all(base in BASES[letter] for base, letter in zip(text, motif, strict=True))
    # 2 motifs, 800 per Mb, 0.3 Mb, of which repeats leave a half or more.
    assert len(counts) == 1
    assert 200 < counts.pop() < 480
    assert record["rejected"]["substitutions"] > 50
    assert record["rejected"]["gaps"] > 20


def test_letters_that_allow_several_bases_have_all_of_them_and_drift(kept):
    free = dict.fromkeys(CONFIG.species, "")
    for species in free:
        for text, motif, _ in instances_of(kept, species):
            free[species] += "".join(base for base, letter in zip(text, motif, strict=True) if letter not in "ACGT")
    assert set(free["human"]) == set("ACGT")
    differing = np.mean([one != other for one, other in zip(free["human"], free["orangutan"], strict=True)])
    assert 0.01 < differing < 0.08  # human and orangutan are 3 % apart where nothing is kept


def test_without_rejection_instances_decay_and_the_truth_says_how_far(kept, neutral):
    alike = []
    for text, motif, score in instances_of(neutral, "human"):
        if len(text) == len(motif):
            known = [(base, letter) for base, letter in zip(text, motif, strict=True) if letter != "N"]
            share = sum(base in BASES[letter] for base, letter in known) / len(known)
            alike.append(share)
            if share == 1:
                assert score == 1000
    assert np.mean(intact_of(neutral, "human")) == pytest.approx(np.mean(alike), abs=0.02)
    # 0.3 substitutions per site before the ancestor and 0.02 behind it; some come back, some are allowed.
    assert 0.65 < np.mean(alike) < 0.9
    lengths = dict.fromkeys(MOTIFS, 0)
    for _, start, end, motif, _, _ in rows_of(neutral, "human"):
        lengths[motif] += end - start != len(MOTIFS[motif])
    assert sum(lengths.values()) > 2  # indels and markers went in, and none did above


def test_rejection_decides_how_much_is_lost(kept, neutral, tmp_path):
    simulate(with_constraint(rejection=0.95, age=1.0), tmp_path / "most")
    lost = 1 - np.mean(intact_of(tmp_path / "most", "human"))
    simulate(with_constraint(rejection=0, age=1.0), tmp_path / "all")
    freely = 1 - np.mean(intact_of(tmp_path / "all", "human"))
    # One in twenty is let through, and the more is lost the more comes back: above a twentieth of what is lost freely.
    assert freely / 20 < lost < freely / 5


def test_what_is_not_constrained_evolves_at_the_published_rates(kept):
    pairs = json.loads((kept / "simulation.json").read_text())["realised"]["pairs"]
    for pair in ("human-orangutan", "human-gorilla"):
        # 0.3 Mb have about 9,000 and 5,000 differences; instances are 2 % of the sites.
        assert pairs[pair]["kimura"] == pytest.approx(pairs[pair]["published"], rel=0.08)


def test_same_bytes_whatever_the_workers_and_the_other_species(kept, tmp_path):
    simulate(with_constraint(rejection=1), tmp_path / "again", workers=1)
    for path in kept.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    alone = with_constraint(rejection=1).model_copy(update={"species": ("gorilla",)})
    simulate(alone, tmp_path / "alone")
    for name in ("gorilla.fa", "constrained.gorilla.bed"):
        assert (tmp_path / "alone" / name).read_bytes() == (kept / name).read_bytes()


def test_a_later_simulation_without_constraint_leaves_no_old_truth(tmp_path):
    small = {"chromosomes": (2,), "chromosome_length": 20_000, "species": ("human",)}
    simulate(SimulationConfig(**small, constraint=ConstraintConfig(per_mb=500)), tmp_path / "apes")
    assert (tmp_path / "apes" / "constrained.human.bed").exists()
    simulate(SimulationConfig(**small), tmp_path / "apes")
    assert not (tmp_path / "apes" / "constrained.human.bed").exists()


def ward(rejection):
    """Bases 0 to 9, of which 3 to 5 are an instance C, R, N."""
    owner = np.full(10, -1, np.int32)
    owner[3:6] = 0
    allowed = np.full(10, 15, np.uint8)
    allowed[3:6] = (0b0010, 0b0101, 0b1111)
    instance = Instance("m", "+", 3, allowed[3:6])
    column = np.arange(10, dtype=np.int32)
    lineage = Lineage(np.zeros(10, np.uint8), np.zeros(10, bool), column, np.zeros(0, np.int64))
    selection = Selection((instance,), rejection, owner, allowed)
    return selection, selection.on(lineage, np.random.default_rng(0))


def test_which_mutations_harm():
    selection, keeps = ward(1.0)
    at = np.array([2, 3, 3, 4, 4, 5, 6])
    new = np.array([1, 1, 0, 2, 3, 3, 0], np.uint8)
    assert keeps.substitutions(at, new).tolist() == [True, True, False, True, False, True, True]
    starts = np.array([0, 2, 5, 6, 3, 4, 5, 6, 0, 10, 1])
    ends = np.array([3, 4, 9, 8, 3, 4, 5, 6, 0, 10, 200])
    kept = [True, False, False, True, True, False, False, True, True, True, False]
    assert keeps.gaps(starts, ends).tolist() == kept
    assert selection.rejected == {"substitutions": 2, "gaps": 5}


def test_rejection_is_a_probability():
    _, keeps = ward(0.7)
    at = np.full(20_000, 3)
    assert keeps.substitutions(at, np.zeros(20_000, np.uint8)).mean() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"motifs": {"a": "ACGTXA"}}, "a: 'X' is no IUPAC letter"),
        ({"motifs": {"a": "acgtac"}}, "a: 'a' is no IUPAC letter"),
        ({"motifs": {"a b": "ACGTAC"}}, "a motif's name has letters"),
        ({"motifs": {"a": "ACG"}}, "a: 3 bp, expected 6 to 60"),
        ({"motifs": {"a": "ACNNNNNNGT"}}, "a: expected 5 letters other than N"),
        ({"motifs": {}}, "at least 1"),
        ({"per_mb": 5000}, "instances each per Mb, which are 10% of it"),
        ({"rejection": 1.5}, "less than or equal to 1"),
    ],
)
def test_refused_settings(given, said):
    with pytest.raises(ValidationError, match=said):
        ConstraintConfig(**given)
