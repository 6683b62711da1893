"""The control that sees gaps and no base, and the sides of real assemblies, on files named as these are."""

from __future__ import annotations

import numpy as np
import pytest

from seqdomains.genomics.alphabet import encode
from seqdomains.genomics.contigs import homologue
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.gaps import GapClassifier, gap_structure
from seqdomains.genomics.species import find_species
from seqdomains.genomics.species_task import SpeciesTask


def letters(length, seed):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def with_gaps(text, every, length):
    out = list(text)
    for at in range(every, len(out) - length, every):
        out[at : at + length] = "N" * length
    return "".join(out)


@pytest.fixture
def drafts(tmp_path):
    """Two species whose bases are alike by chance and whose gaps are not: 30 bp each 300 bp, and none."""
    for number, (species, gaps) in enumerate((("human", True), ("gorilla", False))):
        records = []
        for hsa in ("2", "7", "X"):
            text = letters(30_000, 10 * number + len(records))
            records.append(f">chr1_hap1_hsa{hsa}\n{with_gaps(text, 1000, 30) if gaps else text}\n")
        (tmp_path / f"{species}.fa").write_text("".join(records))
    return tmp_path


def task_of(folder, **options):
    return SpeciesTask(SpeciesData(**{"paths": (folder,), "window": 500, "test_windows": 200} | options))


def test_gap_structure():
    rows = gap_structure(np.stack([encode("NNACGTNN"), encode("ANANANAN"), encode("RYACGTAC")]))
    assert rows.tolist() == [[0.5, 2, 2, 0, 7], [0.5, 4, 1, 1, 7], [0, 0, 0, -1, -1]]


def test_bases_change_nothing():
    windows = [letters(50, 1)[:20] + "N" * 10 + letters(20, seed) for seed in (2, 3)]
    first, second = gap_structure(np.stack([encode(window) for window in windows]))
    assert first.tolist() == second.tolist()


def test_gaps_tell_where_they_are_let_in_and_not_where_they_are_dropped(drafts):
    (let_in,) = task_of(drafts, max_n=1.0).controls()
    assert let_in["name"] == GapClassifier.name == "gaps only"
    assert let_in["accuracy"] > 0.7
    (dropped,) = task_of(drafts).controls()
    assert abs(dropped["accuracy"] - 0.5) < 0.05


def test_no_control_where_there_is_no_gap(drafts, tmp_path):
    (drafts / "human.fa").write_text((drafts / "human.fa").read_text().replace("N", "A"))
    assert task_of(drafts).controls() == ()


def test_windows_on_sex_chromosomes_are_a_group(drafts):
    task = task_of(drafts)
    groups = np.array(task.test_groups())
    names = np.array(task.corpus.names)[task.test.records]
    assert set(groups) == {"autosomes", "sex chromosomes"}
    assert set(names[groups == "sex chromosomes"]) == {"chr1_hap1_hsaX"}
    assert set(names[groups == "autosomes"]) == {"chr1_hap1_hsa7"}
    trained = task_of(drafts, sex_chromosomes="train")
    assert trained.test_groups() is None
    assert "X and Y are trained on: no test window is on them." in trained.notes()
    assert trained.notes()[0] == "Assemblies: gorilla.fa, human.fa."


def test_the_gorilla_translocation_in_drafts_and_t2t_assemblies():
    gorilla, human = find_species("gorGor6"), find_species("hg38")
    assert [homologue(f"chr{name}", species=gorilla) for name in ("5", "17", "7")] == ["5x17", "17x5", "7"]
    assert [homologue(f"chr{name}", species=human) for name in ("5", "17")] == ["5", "17"]
    assert homologue("chr5", description="hsa=5 simulated", species=gorilla) == "5"
    assert homologue("NC_073228.2", species=gorilla, length=195_332_687) == "17x5"
