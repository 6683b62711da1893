"""`genomics explain`: outputs that agree, regions and bad input, the simulator's truth."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def language_artefact(tmp_path_factory):
    import torch

    from seqdomains.backbone import MambaConfig, MambaLM
    from seqdomains.genomics.alphabet import SIGNATURE

    model = MambaLM(MambaConfig(d_model=16, n_layer=1), generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("artefacts") / "language"
    model.save_pretrained(folder, signature={**SIGNATURE, "window": 64})
    return folder


@pytest.fixture
def command(artefact, fasta):
    return ("genomics", "explain", artefact, "--reference", fasta(chr1=600, chr2=90), "--window", 64)


def track(text):
    rows = [line.split("\t") for line in text.splitlines()]
    return [(contig, int(start), int(end)) for contig, start, end, _ in rows], [float(row[3]) for row in rows]


@pytest.mark.parametrize("method", ["ism", "saliency", "integrated-gradients"])
def test_outputs_agree(seqdomains, command, tmp_path, method):
    import pyarrow.parquet as pq

    names = [tmp_path / name for name in ("a.bedgraph", "a.tsv", "a.parquet")]
    outcome = seqdomains(
        *command, "--region", "chr1:101-180", "--method", method, "--class", "b", "-o", "-",
        *(word for name in names for word in ("-o", name)), "--figure", tmp_path / "logo.svg",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    spans, values = track(outcome.out)
    assert spans == [("chr1", at, at + 1) for at in range(100, 180)]
    assert names[0].read_text() == outcome.out
    header, *rows = (line.split("\t") for line in names[1].read_text().splitlines())
    assert header == ["#record", "start", "end", "base", "of", "importance", "to_A", "to_C", "to_G", "to_T"]
    assert [(row[0], int(row[1]), int(row[2])) for row in rows] == spans
    letters = command[4].read_text().splitlines()[1][100:180]
    assert "".join(row[3] for row in rows) == letters
    assert {row[4] for row in rows} == {"b"}
    changes = np.array([row[6:] for row in rows], float)
    assert np.allclose([float(row[5]) for row in rows], values, rtol=1e-5)
    assert np.allclose(-changes.mean(1), values, atol=1e-5)
    assert all(change["ACGT".index(letter)] == 0 for change, letter in zip(changes, letters, strict=True))
    found = pq.read_table(names[2])
    assert found.column_names == [name.strip("#") for name in header]
    assert np.allclose(found["importance"].to_numpy(), values, rtol=1e-4, atol=1e-7)
    assert found["to_G"].to_numpy() == pytest.approx(changes[:, 2], rel=1e-4, abs=1e-7)
    assert (tmp_path / "logo.svg").read_text().count("<path") > 60
    assert ("completeness: importance adds up" in outcome.err) is (method == "integrated-gradients")


def test_regions_are_merged_and_sorted(seqdomains, command, tmp_path):
    bed = tmp_path / "regions.bed"
    bed.write_text("track name=x\n#c\nbrowser position\nchr2\t5\t9\nchr1\t20\t25\nchr1\t23\t30\n1\t3\t4\n")
    outcome = seqdomains(*command, "--regions", bed, "--region", "chr1:30-31", "--method", "saliency")
    assert outcome.code == 0, outcome.err
    spans, _ = track(outcome.out)
    expected = [("chr1", at) for at in (3, *range(20, 31))] + [("chr2", at) for at in range(5, 9)]
    assert spans == [(contig, at, at + 1) for contig, at in expected]


def test_positions_without_alternatives_have_no_row(seqdomains, artefact, tmp_path):
    path = tmp_path / "n.fa"
    path.write_text(">c\n" + "ACGT" * 20 + "NNR" + "ACGT" * 20 + "\n")
    outcome = seqdomains("genomics", "explain", artefact, "--reference", path, "--region", "c:79-85", "--window", 32)
    assert outcome.code == 0, outcome.err
    assert track(outcome.out)[0] == [("c", at, at + 1) for at in (78, 79, 83, 84)]
    assert "3 positions are no A, C, G or T, have no alternatives and no row" in outcome.err


def test_a_contig_shorter_than_the_window_is_read_as_it_is(seqdomains, artefact, tmp_path):
    path = tmp_path / "short.fa"
    path.write_text(">c\nACGTACGTTT\n")
    outcome = seqdomains("genomics", "explain", artefact, "--reference", path, "--region", "c", "--method", "saliency")
    assert outcome.code == 0, outcome.err
    assert len(track(outcome.out)[0]) == 10
    assert "c has 10 bp, less than the window of 256 bp" in outcome.err


@pytest.mark.parametrize("method", ["ism", "saliency"])
def test_a_language_model_is_explained_by_its_likelihood(seqdomains, language_artefact, fasta, tmp_path, method):
    genome = fasta(c=200)
    outcome = seqdomains(
        "genomics", "explain", language_artefact, "--reference", genome, "--region", "c:91-100", "--method", method,
        "--strand", "both", "-o", tmp_path / "a.tsv",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = [line.split("\t") for line in (tmp_path / "a.tsv").read_text().splitlines()[1:]]
    assert {row[4] for row in rows} == {"log_likelihood"}
    assert len(rows) == 10


def test_first_base_is_asked_as_likelihood_asks_it(seqdomains, language_artefact, tmp_path):
    (tmp_path / "bases.fa").write_text("".join(f">{base}\n{base}\n" for base in "ACGT"))
    rows = seqdomains("genomics", "likelihood", language_artefact, tmp_path / "bases.fa").out.splitlines()[1:]
    likelihoods = np.array([float(row.split("\t")[4]) for row in rows])
    wanted = likelihoods - likelihoods.mean()
    assert np.abs(wanted).min() > 1e-3
    regions = [word for base in "ACGT" for word in ("--region", base)]
    for method in ("ism", "saliency"):
        outcome = seqdomains(
            "genomics", "explain", language_artefact, "--reference", tmp_path / "bases.fa", *regions, "--method", method
        )
        found = [float(row.split("\t")[3]) for row in outcome.out.splitlines()]
        assert np.allclose(found, wanted, atol=1e-4), method


def test_ism_of_a_language_model_is_what_score_says_of_variants(seqdomains, language_artefact, fasta, tmp_path):
    genome = fasta(c=64)
    letters = genome.read_text().splitlines()[1]
    alternatives = "ACGT".replace(letters[30], "")
    vcf = tmp_path / "in.vcf"
    vcf.write_text(
        "##fileformat=VCFv4.2\n##contig=<ID=c,length=64>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        + "".join(f"c\t31\t.\t{letters[30]}\t{letter}\t.\t.\t.\n" for letter in alternatives)
    )
    scored = seqdomains("genomics", "score", language_artefact, "--vcf", vcf, "--reference", genome)
    assert scored.code == 0, scored.err
    header, *rows = (line.split("\t") for line in scored.out.splitlines())
    of_variants = {row[header.index("alt")]: float(row[header.index("score")]) for row in rows}
    outcome = seqdomains(
        "genomics", "explain", language_artefact, "--reference", genome, "--region", "c:31-31", "--strand", "both",
        "-o", tmp_path / "a.tsv",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    changes = dict(zip("ACGT", map(float, (tmp_path / "a.tsv").read_text().split("\t")[-4:]), strict=True))
    assert {letter: changes[letter] for letter in alternatives} == pytest.approx(of_variants, abs=2e-4)


def test_the_simulators_truth_is_called_simulated(seqdomains, run, tmp_path):
    folder = tmp_path / "apes"
    assert seqdomains("genomics", "simulate", "--preset", "tiny", "--out", folder).code == 0
    outcome = seqdomains(
        "genomics", "explain", run, "--reference", folder / "human.fa", "--region", "chr2:2701-2900", "--class",
        "human", "--method", "saliency", "--truth", folder / "markers.human.bed", "-o", tmp_path / "a.bedgraph",
        "--figure", tmp_path / "a.png",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "explained 200 bases of SIMULATED sequences" in outcome.err
    assert outcome.out.startswith("SIMULATED truth: average precision 0.")
    marked = 2900 - 2773
    assert f"chance {marked / 200:.4f}, the share of 200 positions" in outcome.out
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("extra", "code", "sentence"),
    [
        ([], 2, "no region: give --region CONTIG:START-END, 1-based, or a BED with --regions"),
        (["--region", "chr1:5-4"], 1, "its start is behind its end"),
        (["--region", "chr1:5-601"], 1, "ends behind the contig, which has 600 bp"),
        (["--region", "chr11:5-6"], 1, "chr11"),
        (["--region", "chr1:1-9", "--class", "z"], 2, "--class z: the model knows a, b, c"),
        (["--region", "chr1:1-9", "--steps", "4"], 2, "--steps: goes with --method integrated-gradients"),
        (["--region", "chr1", "--figure", "a.svg"], 2, "a logo shows one region of at most 200 bp; found 1 regions of"),
        (["--region", "chr1:1-9", "--figure", "/nowhere/a.svg"], 1, "cannot write /nowhere/a.svg"),
        (["--region", "chr1:1-2", "--figure", "a.gif"], 2, "--figure a.gif: expected a file .svg, .png or .pdf"),
        (["--region", "chr1:1-9", "-o", "/nowhere/a.tsv"], 1, "cannot write /nowhere/a.tsv"),
        (["--region", "chr1:1-9", "-o", "w.txt"], 2, "-o w.txt: expected a name that ends in .bedgraph, .bg, .bw, "),
        (["--region", "chr1:1-9", "-o", "w.tsv.gz"], 2, "-o w.tsv.gz: plain text is written; leave out .gz"),
        (["--region", "chr1:1-9", "-o", "x.bw", "-o", "x.bw"], 2, "a file is named twice"),
    ],
)
def test_bad_commands(seqdomains, command, extra, code, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = (
        seqdomains(*command, "--method", "saliency", *extra) if "--steps" not in extra else seqdomains(*command, *extra)
    )
    assert outcome.code == code, outcome.err
    assert sentence in outcome.error


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("chr1\t5\t601", "region chr1:5-601 (line 2 of the BED) ends behind the contig, which has 600 bp"),
        ("chr1\t9\t5", "line 2: start 9 is not below end 5"),
    ],
)
@pytest.mark.parametrize("option", ["--regions", "--truth"])
def test_bad_lines_of_a_bed_are_named(seqdomains, command, tmp_path, line, sentence, option):
    bed = tmp_path / "bad.bed"
    bed.write_text(f"track name=x\n{line}\n")
    outcome = seqdomains(*command, option, bed, *(["--region", "chr1:1-9"] if option == "--truth" else []))
    assert outcome.code == 1
    assert sentence in outcome.error


def test_a_truth_that_says_nothing_is_refused_before_anything_is_computed(seqdomains, command, tmp_path):
    bed = tmp_path / "truth.bed"
    bed.write_text("chr1\t100\t200\n")
    outcome = seqdomains(*command, "--region", "chr1:101-180", "--truth", bed)
    assert (outcome.code, outcome.out) == (1, "")
    assert "80 of the 80 positions to explain are in the truth: expected some inside and some outside" in outcome.error


def test_an_input_is_not_overwritten(seqdomains, command):
    outcome = seqdomains(*command, "--region", "chr1:1-9", "-o", command[4])
    assert outcome.code == 2
    assert "is also an input, which would be lost" in outcome.error


def test_a_model_of_hidden_bases_is_refused(seqdomains, fasta, tmp_path):
    import torch

    from seqdomains.backbone import MambaConfig, MambaLM
    from seqdomains.genomics.alphabet import SIGNATURE

    model = MambaLM(MambaConfig(d_model=8, n_layer=1), generator=torch.Generator())
    model.save_pretrained(tmp_path / "m", signature={**SIGNATURE, "window": 64, "objective": "masked"})
    outcome = seqdomains("genomics", "explain", tmp_path / "m", "--reference", fasta(c=90), "--region", "c:1-5")
    assert outcome.code == 1
    assert "the artefact's objective is 'masked'" in outcome.error


def test_a_reference_whose_header_says_simulated_is_told(seqdomains, command, tmp_path):
    reference = tmp_path / "copy.fa"
    reference.write_text(">chr1 simulated\n" + "ACGT" * 50 + "\n")
    outcome = seqdomains(*command[:4], reference, "--window", 64, "--region", "chr1:1-9")
    assert outcome.code == 0, outcome.err
    assert "SIMULATED" in outcome.err


def test_a_model_of_another_alphabet_is_refused(seqdomains, fasta, tmp_path):
    import torch

    from seqdomains.backbone import MambaConfig, SequenceClassifier

    model = SequenceClassifier(MambaConfig(d_model=8, n_layer=1), classes=("a",), generator=torch.Generator())
    model.save_pretrained(tmp_path / "m", signature={"domain": "genomics", "alphabet": "ACGT", "unit": "bp"})
    outcome = seqdomains("genomics", "explain", tmp_path / "m", "--reference", fasta(c=90), "--region", "c:1-5")
    assert outcome.code == 1
    assert "the artefact's alphabet is 'ACGT'" in outcome.error
