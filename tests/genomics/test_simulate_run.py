"""The simulation as a user sees it: files, facts, determinism, refusals."""

from __future__ import annotations

import json
import os

import numpy as np
import pysam
import pytest
from pydantic import ValidationError

from seqdomains.errors import InputError
from seqdomains.files import sha256
from seqdomains.genomics.simulate import SimulationConfig, simulate

CONFIG = SimulationConfig(chromosomes=(2, 5, 7), chromosome_length=60_000, density=64, seed=9)


def hashes(folder):
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "apes"
    simulate(CONFIG, folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Realised numbers of 2.4 Mb at the published density."""
    folder = tmp_path_factory.mktemp("facts") / "apes"
    simulate(SimulationConfig(chromosome_length=400_000, seed=1), folder)
    return json.loads((folder / "simulation.json").read_text())["realised"]


def test_same_bytes_whatever_the_number_of_workers(small, tmp_path):
    simulate(CONFIG, tmp_path / "again", workers=3)
    assert hashes(tmp_path / "again") == hashes(small)


def test_another_seed_gives_other_bases(small, tmp_path):
    simulate(CONFIG.model_copy(update={"seed": 10}), tmp_path / "other")
    ours, theirs = hashes(small), hashes(tmp_path / "other")
    assert all(ours[f"{name}.fa"] != theirs[f"{name}.fa"] for name in CONFIG.species)


def test_a_species_does_not_depend_on_the_others_nor_a_chromosome(small, tmp_path):
    for species in CONFIG.species:
        alone = tmp_path / species
        simulate(CONFIG.model_copy(update={"species": (species,), "chromosomes": (5,)}), alone)
        with (
            pysam.FastaFile(str(alone / f"{species}.fa")) as one,
            pysam.FastaFile(str(small / f"{species}.fa")) as all_,
        ):
            assert one.fetch("chr5") == all_.fetch("chr5")


def test_fasta_form_and_index(small, tmp_path):
    for species in CONFIG.species:
        fasta = small / f"{species}.fa"
        lines = fasta.read_text().splitlines()
        headers = [line for line in lines if line.startswith(">")]
        assert headers == [f">chr{hsa} hsa={hsa} species={species} simulated" for hsa in CONFIG.chromosomes]
        assert max(map(len, (line for line in lines if not line.startswith(">")))) == 60
        assert set("".join(line for line in lines if not line.startswith(">"))) == set("ACGTacgt")
        copy = tmp_path / fasta.name
        copy.write_bytes(fasta.read_bytes())
        pysam.faidx(str(copy))
        assert (tmp_path / f"{fasta.name}.fai").read_text() == (small / f"{fasta.name}.fai").read_text()


def test_distances_are_the_published_ones(facts):
    assert len(facts["pairs"]) == 10
    for pair, found in facts["pairs"].items():
        assert found["kimura"] == pytest.approx(found["published"], rel=0.05), pair
    # What is seen between human and the others in published alignments: 1.23, 1.6 and 3.1 %.
    for pair, seen in (("human-chimpanzee", 0.0123), ("human-gorilla", 0.016), ("human-orangutan", 0.031)):
        assert facts["pairs"][pair]["differing"] == pytest.approx(seen, rel=0.09)


def test_mutations_are_the_published_ones(facts):
    assert facts["pairs"]["human-chimpanzee"]["transition_ratio"] == pytest.approx(2.07, rel=0.05)
    assert 12 <= facts["events"]["indels_per_100_substitutions"] <= 16
    assert facts["events"]["deletions_per_insertion"] == pytest.approx(2, rel=0.08)
    assert 1.6 <= facts["events"]["indel_exponent"] <= 1.7
    # Ebersberger 2002: 15 % of CpG sites differ; a CpG in either species counts here, which is somewhat more.
    assert 0.13 < facts["pairs"]["human-chimpanzee"]["cpg_differing"] < 0.21


def test_composition_is_the_published_one(facts):
    for found in facts["species"].values():
        # A dozen isochores: their mean has a standard deviation of 1.3 %.
        assert 0.38 < found["gc"] < 0.45
        assert 0.19 < found["cpg_ratio"] < 0.25
        assert 0.22 < found["masked"] < 0.35
    ratios = [found["cpg_ratio"] for found in facts["species"].values()]
    assert max(ratios) - min(ratios) < 0.015


def test_isochores_differ_in_gc(tmp_path):
    simulate(SimulationConfig(species=("human",), chromosomes=(4,), chromosome_length=2_000_000), tmp_path / "one")
    text = pysam.FastaFile(str(tmp_path / "one" / "human.fa")).fetch("chr4").upper()
    windows = [text[i : i + 50_000] for i in range(0, len(text) - 50_000, 50_000)]
    gc = np.array([(part.count("G") + part.count("C")) / len(part) for part in windows])
    assert gc.min() > 0.34
    assert gc.max() < 0.56
    # Independent bases alone would give a standard deviation of 0.002.
    assert 0.015 < gc.std() < 0.06


def test_chromosomes_share_no_homology_outside_repeats(small):
    """Words of 16 unmasked bases: one chromosome has next to none of another's, but most of its homologue's."""

    def words(species, contig):
        text = pysam.FastaFile(str(small / f"{species}.fa")).fetch(contig)
        return {text[i : i + 16] for i in range(len(text) - 15) if text[i : i + 16].isupper()}

    human = words("human", "chr2")
    expected = len(human) * len(words("human", "chr5")) / 4**16
    assert len(human & words("human", "chr5")) < 20 * expected + 20
    assert len(human & words("gorilla", "chr5")) < 20 * expected + 20
    assert len(human & words("chimpanzee", "chr2")) > 0.7 * len(human)


def test_progress_counts_the_chromosomes(tmp_path):
    calls = []
    simulate(CONFIG, tmp_path / "apes", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_earlier_simulation_is_replaced_and_nothing_else(tmp_path):
    folder = tmp_path / "apes"
    tiny = CONFIG.model_copy(update={"chromosomes": (5,), "species": ("human",), "chromosome_length": 10_000})
    simulate(tiny, folder)
    simulate(tiny.model_copy(update={"species": ("bonobo",)}), folder)
    assert (folder / "bonobo.fa").exists()
    assert not (folder / "human.fa").exists()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        simulate(tiny, folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    with pytest.raises(InputError, match="is a file"):
        simulate(tiny, folder / "thesis.txt")


def test_failure_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(CONFIG, tmp_path / "apes", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission_is_refused(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write"):
        simulate(CONFIG, tmp_path / "apes")
    tmp_path.chmod(0o700)


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        simulate(CONFIG, tmp_path / "file" / "apes")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"species": ("human", "gibbon")}, "unknown species 'gibbon'"),
        ({"species": ("human", "human")}, "named twice"),
        ({"species": ()}, "at least 1"),
        ({"chromosomes": (5, 5)}, "named twice"),
        ({"chromosomes": (23,)}, "less than or equal to 22"),
        ({"chromosome_length": 100}, "greater than or equal to 10000"),
        ({"density": 0.5}, "greater than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"lenght": 5}, "Extra inputs"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        SimulationConfig(**settings)


def test_the_record_names_the_settings(small):
    record = json.loads((small / "simulation.json").read_text())
    assert record["simulated"] is True
    assert SimulationConfig(**record["config"]) == CONFIG
    for name in CONFIG.species:
        length = sum(int(line.split("\t")[1]) for line in (small / f"{name}.fa.fai").read_text().splitlines())
        assert record["realised"]["species"][name]["length"] == length
