"""The truth about the markers, checked on the FASTA alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pysam
import pytest
from Bio.Align import PairwiseAligner

from seqdomains.genomics.simulate import SimulationConfig, simulate
from seqdomains.genomics.simulate.families import family_parts, old_subfamily, reverse_complement, subfamily_parts
from seqdomains.genomics.simulate.markers import FAMILY_COUNTS, RATE_PER_MB, family_shares
from seqdomains.genomics.simulate.satellites import CAP_SHARE, UNIT

CONFIG = SimulationConfig(chromosomes=(2, 5), chromosome_length=500_000, density=64, seed=5)


@dataclass(frozen=True)
class Row:
    contig: str
    start: int
    end: int
    branch: str
    family: str
    subfamily: str
    score: int
    strand: str


def letters(codes):
    return "".join("ACGT"[code] for code in codes)


def complement(text):
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def read_bed(path):
    rows = []
    for line in path.read_text().splitlines():
        contig, start, end, name, score, strand = line.split("\t")
        rows.append(Row(contig, int(start), int(end), *name.split("/"), int(score), strand))
    return rows


@pytest.fixture(scope="module")
def apes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "apes"
    simulate(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def record(apes):
    return json.loads((apes / "simulation.json").read_text())


@pytest.fixture(scope="module")
def genomes(apes):
    return {name: pysam.FastaFile(str(apes / f"{name}.fa")) for name in CONFIG.species}


@pytest.fixture(scope="module")
def beds(apes):
    return {name: read_bed(apes / f"markers.{name}.bed") for name in CONFIG.species}


def sense(genome, row):
    """Cut a marker out of the genome in the orientation of its consensus."""
    text = genome.fetch(row.contig, row.start, row.end).upper()
    return text if row.strand == "+" else complement(text)


def lone(rows):
    """Leave out markers that hold or lie in another one."""
    nested = {a for a, b in pairwise(rows) if b.start < a.end} | {b for a, b in pairwise(rows) if b.start < a.end}
    return [row for row in rows if row not in nested]


def test_every_alu_is_its_subfamily_at_the_very_coordinates(genomes, beds):
    """Full-length copies begin with the consensus and end in the A-tail, no base between these and the coordinates."""
    seen, begun, ended = 0, 0, 0
    for species, genome in genomes.items():
        for row in lone(beds[species]):
            if row.family != "Alu":
                continue
            consensus = letters(subfamily_parts(row.branch, "Alu")["body"])
            cut = sense(genome, row)
            if len(cut) < len(consensus):
                continue
            seen += 1
            begun += sum(a != b for a, b in zip(cut[:12], consensus, strict=False)) <= 2
            ended += cut[-10:].count("A") >= 8
    assert seen > 200
    # An indel in a dozen given bases happens to about 1 copy in 100, and shifts all that follows.
    assert begun / seen > 0.97
    assert ended / seen > 0.97


def test_markers_align_to_their_own_subfamily_best(genomes, beds):
    aligner = PairwiseAligner(mode="local", match_score=1, mismatch_score=-1, open_gap_score=-3, extend_gap_score=-0.5)
    branches = ("human", "pan", "gorilla", "orangutan")
    right, whole, seen = 0, 0, 0
    for species, genome in genomes.items():
        rows = [row for row in lone(beds[species]) if row.family == "Alu" and row.branch in branches]
        for row in rows[:12]:
            cut = sense(genome, row)
            if not 250 < len(cut) < 330:
                continue
            scores = {
                branch: aligner.score(cut, letters(subfamily_parts(branch, "Alu")["body"])) for branch in branches
            }
            seen += 1
            whole += scores[row.branch] > 0.8 * (len(cut) - 45)
            right += max(scores, key=scores.__getitem__) == row.branch
    assert seen > 30
    assert right / seen > 0.95
    assert whole / seen > 0.9


def test_l1_and_erv_copies_are_pieces_of_their_consensus(genomes, beds):
    """As many of a copy's words of 12 bases are words of its consensus as its identity lets survive."""
    seen, intact = Counter(), 0
    for species, genome in genomes.items():
        for row in lone(beds[species]):
            if row.family not in ("L1", "PtERV1", "HERVK"):
                continue
            parts = subfamily_parts(row.branch, row.family)
            whole = letters(parts["body"] if row.family == "L1" else np.concatenate([*parts.values(), parts["ltr"]]))
            words = {whole[i : i + 12] for i in range(len(whole) - 11)}
            cut = sense(genome, row).rstrip("A")
            if len(cut) < 100:
                continue
            own = [cut[i : i + 12] in words for i in range(len(cut) - 11)]
            # A word survives with the 12th power of the identity that the BED gives; small indels cost some more.
            intact += np.mean(own) > (row.score / 1000) ** 12 - 0.2
            seen[row.family] += 1
    # The others hold a long duplication of their own.
    assert intact / seen.total() > 0.95
    assert seen["L1"] > 100
    assert seen["PtERV1"] > 5


def test_target_sites_are_duplicated_around_the_markers(genomes, beds):
    found, young = 0, 0
    for species in ("human", "bonobo"):
        for row in lone(beds[species]):
            if row.score < 998 or row.family not in ("Alu", "L1", "SVA") or row.branch != species:
                continue
            young += 1
            before = genomes[species].fetch(row.contig, max(row.start - 20, 0), row.start).upper()
            after = genomes[species].fetch(row.contig, row.end, row.end + 20).upper()
            found += any(before[-size:] == after[:size] for size in range(7, 21))
    assert young > 40
    # By chance 7 bases agree in 1 of 16,000; a substitution or indel since then spoils a few.
    assert found / young > 0.75


def test_both_strands_and_the_mask(genomes, beds):
    for species, genome in genomes.items():
        strands = Counter(row.strand for row in beds[species] if row.family != "StSat")
        total = sum(strands.values())
        assert abs(strands["+"] - total / 2) < 4 * np.sqrt(total) / 2
        for row in lone(beds[species])[:100]:
            text = genome.fetch(row.contig, row.start, row.end)
            if row.family != "StSat":
                assert text.islower()
                assert set(text) <= set("acgt")


def test_rows_are_sorted_inside_their_contigs_and_named(genomes, beds):
    for species, genome in genomes.items():
        for contig in genome.references:
            rows = [row for row in beds[species] if row.contig == contig]
            assert all(a.start <= b.start for a, b in pairwise(rows))
            assert all(0 <= row.start < row.end <= genome.get_reference_length(contig) for row in rows)
        for row in beds[species]:
            assert row.subfamily == ("StSat" if row.branch == "cap" else f"{row.family}_{row.branch}")


def test_a_branch_marks_its_own_descendants_alone(beds, record):
    paths = record["rates"]["branches"]
    for species, rows in beds.items():
        assert {row.branch for row in rows} - {"cap"} == set(paths[species])
    shared = {species: sum(row.branch == "pan" for row in beds[species]) for species in ("chimpanzee", "bonobo")}
    put_in = sum(record["realised"]["markers"]["pan"].values())
    for count in shared.values():
        assert 0.97 * put_in <= count <= put_in


def test_marker_counts_are_poisson(record):
    for branch, expected in record["realised"]["expected_markers"].items():
        count = sum(record["realised"]["markers"][branch].values())
        assert abs(count - expected) < 4 * np.sqrt(expected)
        assert expected == pytest.approx(RATE_PER_MB[branch] * 64 * 1.0, rel=0.2)


def test_families_come_in_their_published_shares(record):
    chi, freedom = 0.0, 0
    for branch, counts in record["realised"]["markers"].items():
        total = sum(counts.values())
        for family, share in family_shares(branch).items():
            chi += (counts.get(family, 0) - share * total) ** 2 / (share * total)
            freedom += 1
        freedom -= 1
    assert chi < freedom + 5 * np.sqrt(2 * freedom)


def test_rates_by_family_are_the_published_counts():
    assert family_shares("human")["Alu"] == pytest.approx(7_082 / 9_948)
    # Over the whole chimpanzee path the published 279 ERVs are found, all of them on the Pan stem.
    assert family_shares("pan")["PtERV1"] * RATE_PER_MB["pan"] * 3_100 == pytest.approx(279)
    assert family_shares("gorilla")["Alu"] * RATE_PER_MB["gorilla"] * 3_100 == pytest.approx(1_075)
    for branch, counts in FAMILY_COUNTS.items():
        assert sum(family_shares(branch).values()) == pytest.approx(1)
        assert ("PtERV1" in counts) == (branch in ("pan", "gorilla"))


def test_density_multiplies_markers_and_nothing_else(tmp_path):
    counts, masked, caps = {}, {}, {}
    for density in (1, 16):
        simulate(CONFIG.model_copy(update={"density": density, "chromosome_length": 400_000}), tmp_path / str(density))
        record = json.loads((tmp_path / str(density) / "simulation.json").read_text())
        counts[density] = sum(sum(families.values()) for families in record["realised"]["markers"].values())
        masked[density] = record["realised"]["species"]["human"]["masked"]
        caps[density] = {name: facts["cap_share"] for name, facts in record["realised"]["species"].items()}
    # At density 1 about 7 markers are expected in all branches, at 16 about 114.
    assert 1 <= counts[1] <= 18
    assert counts[16] == pytest.approx(114, rel=0.35)
    assert masked[16] == pytest.approx(masked[1], abs=0.04)
    assert caps[1] == pytest.approx(caps[16], abs=1e-4)


def test_caps_are_the_published_satellite_at_the_published_share(genomes, beds, record):
    for species, genome in genomes.items():
        caps = [row for row in beds[species] if row.branch == "cap"]
        share = CAP_SHARE.get(species, 0.0)
        assert len(caps) == (2 * len(genome.references) if share else 0)
        assert record["realised"]["species"][species]["cap_share"] == pytest.approx(share, abs=1e-4)
        for row in caps:
            text = genome.fetch(row.contig, row.start, row.end)
            assert row.start == 0 or row.end == genome.get_reference_length(row.contig)
            units = text.upper().count(UNIT)
            # Half the units are of the published form, and half of these have none of their 32 bases changed.
            assert 0.15 < units * 32 / sum(map(str.islower, text)) < 0.40
        for contig in genome.references:
            inner = genome.fetch(contig, 60_000, 400_000).upper()
            assert UNIT not in inner


def test_consensus_is_as_the_family_it_stands_for():
    alu = family_parts("Alu")["body"]
    assert len(alu) == 282
    assert 0.60 < np.isin(alu, (1, 2)).mean() < 0.70
    assert 18 <= int(((alu[:-1] == 1) & (alu[1:] == 2)).sum()) <= 40
    line = family_parts("L1")["body"]
    assert len(line) == 6_000
    assert 0.40 < np.isin(line, (1, 2)).mean() < 0.44
    assert (line == 0).mean() > 0.38


def test_each_lineage_has_its_own_diagnostic_sites():
    for branch in ("human", "pan", "gorilla", "orangutan"):
        assert len(subfamily_parts(branch, "Alu")["body"]) == 289
    pan, own = (subfamily_parts(name, "Alu")["body"] for name in ("pan", "bonobo"))
    assert int((pan != own).sum()) == 5
    sites = {
        branch: int((subfamily_parts(branch, "L1")["body"] != family_parts("L1")["body"]).sum())
        for branch in ("human", "pan", "gorilla", "orangutan")
    }
    assert sites == {"human": 141, "pan": 99, "gorilla": 191, "orangutan": 319}
    assert 0.02 < (old_subfamily("Alu", 1) != family_parts("Alu")["body"]).mean() < 0.03


def test_reverse_complement():
    assert letters(reverse_complement(np.array([0, 0, 1, 2], np.uint8))) == "CGTT"
