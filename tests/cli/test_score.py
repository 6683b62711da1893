"""`genomics score`: the model's own likelihoods of whole windows, in VCF and TSV, and what ends it early."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pysam
import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.genomics.alphabet import SIGNATURE, decode, encode, reverse_complement
from seqdomains.genomics.variants import trim

WINDOW = 64
RANDOM = np.random.default_rng(0)
GENOME = {name: "".join(RANDOM.choice(list("ACGT"), size=size)) for name, size in (("chr1", 500), ("chr2", 40))}
HEADER = '##fileformat=VCFv4.3\n##contig=<ID=chr1>\n##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">\n'
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"


@pytest.fixture(scope="module")
def language_model():
    built = MambaLM(MambaConfig(d_model=16, n_layer=2), generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():  # answers that differ
        built.lm_head.weight.mul_(10)
    return built


@pytest.fixture(scope="module")
def lm(language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "lm"
    language_model.save_pretrained(folder, signature={**SIGNATURE, "window": WINDOW})
    return folder


def write_genome(path, genome=GENOME):
    path.write_text("".join(f">{name}\n{letters}\n" for name, letters in genome.items()))
    return path


def write_vcf(path, records, columns=COLUMNS, header=HEADER):
    """Records of contig, 1-based position, REF, ALT, and more columns."""
    rows = (f"{contig}\t{at}\t.\t{ref}\t{alt}\t.\t.\t{'DP=3'}{more}\n" for contig, at, ref, alt, *rest in records
            for more in ["".join(f"\t{one}" for one in rest)])  # fmt: skip
    path.write_text(header + columns + "\n" + "".join(rows))
    return path


@pytest.fixture
def score(seqdomains, lm, tmp_path):
    """Score records into a file of a folder of its own; returns the outcome and the file."""
    fasta = write_genome(tmp_path / "r.fa")

    def run(records, *options, name="out.tsv", model=lm, **written):
        vcf = write_vcf(tmp_path / "in.vcf", records, **written) if not isinstance(records, Path) else records
        output = tmp_path / "out" / name
        output.parent.mkdir(exist_ok=True)
        outcome = seqdomains(
            "genomics", "score", model, "--vcf", vcf, "--reference", fasta, "-o", output, "--device", "cpu", *options
        )
        return outcome, output

    return run


def other(letter):
    return "ACGT"[("ACGT".index(letter) + 1) % 4]


def records():
    """Each kind of variant, within a contig, near its ends and on a contig shorter than the window."""
    made = []
    for contig, at in (("chr1", 1), ("chr1", 20), ("chr1", 250), ("chr1", 492), ("chr2", 3), ("chr2", 20)):
        ref = GENOME[contig][at - 1 : at + 5]
        made += [
            (contig, at, ref[0], other(ref[0])),
            (contig, at, ref[:3], "".join(map(other, ref[:3]))),
            (contig, at, ref[0], ref[0] + "GATTACA"),
            (contig, at, ref, ref[0]),
            (contig, at, ref[:4], "TTGTT"),
            (contig, at, ref[:2], f"{other(ref[0])}{ref[1]},{ref[0]},{ref[:2]}CC,*,<DEL>"),
        ]
    return made


def log_likelihood(model, letters):
    codes = torch.from_numpy(encode("N" + letters))[None].long()
    with torch.inference_mode():
        return float(model(codes[:, :-1]).double().log_softmax(-1).gather(-1, codes[:, 1:, None]).sum())


def expected(model, contig, at, ref, alt):
    """Forward and reverse score of one allele, from the two haplotypes written out."""
    if not set(alt) <= set("ACGT"):
        return [np.nan, np.nan]
    offset, own, new = trim(encode(ref), encode(alt))
    start = at - 1 + offset
    flank = (WINDOW - max(len(own), len(new))) // 2
    left, right = GENOME[contig][max(0, start - flank) : start], GENOME[contig][start + len(own) :][:flank]
    pair = [left + decode(allele) + right for allele in (own, new)]
    turned = [decode(reverse_complement(encode(letters))) for letters in pair]
    return [log_likelihood(model, two) - log_likelihood(model, one) for one, two in (pair, turned)]


def read_tsv(path):
    header, *lines = path.read_text().splitlines()
    assert header == "#chrom\tpos\tid\tref\talt\tscore\tforward\treverse"
    rows = [line.replace("NA", "nan").split("\t") for line in lines]
    return [(row[0], int(row[1]), *row[3:5]) for row in rows], np.array([row[5:] for row in rows], float)


def test_every_kind_of_variant_has_the_likelihoods_of_its_windows(score, language_model):
    outcome, output = score(records())
    assert outcome.code == 0, outcome.err
    alleles, values = read_tsv(output)
    assert alleles == [(*place, ref, alt) for *place, ref, alts in records() for alt in alts.split(",")]
    wanted = np.array([expected(language_model, *allele) for allele in alleles])
    np.testing.assert_allclose(values[:, 1:], wanted, atol=1e-4)
    np.testing.assert_allclose(values[:, 0], wanted.mean(axis=1), atol=1e-4)
    assert np.nanstd(wanted) > 1
    assert "36 records; alleles scored: 48; passed through: 6 * (deleted by another variant), 6 symbolic" in outcome.err


def test_vcf_has_every_record_and_one_value_for_each_allele(score, tmp_path):
    """Genotypes, other keys, and what the header does not name stay as they are; pysam reads it back."""
    given = [(*record, "GT", "0/1") for record in records()]
    given.append(("chr2", 30, GENOME["chr2"][29], ".", "GT:XX", "0/1:7"))
    _, tsv = score(given, columns=COLUMNS + "\tFORMAT\tsample")
    outcome, output = score(given, name="out.vcf", columns=COLUMNS + "\tFORMAT\tsample")
    assert outcome.code == 0, outcome.err
    assert "1 no ALT" in outcome.err
    before, after = ((path.read_text().splitlines()) for path in (tmp_path / "in.vcf", output))
    bare = [re.sub(r";SDLLR[^\t]*", "", line) for line in after if not line.startswith("##")]
    assert bare == [line for line in before if not line.startswith("##")]
    with pysam.VariantFile(str(output)) as file:
        found = list(file)
        assert {"SDLLR", "SDLLRF", "SDLLRR", "DP"} <= set(file.header.info)
    provenance = next(line for line in after if line.startswith("##seqdomains="))
    assert "model sha256 " in provenance
    assert f"window {WINDOW}; strand both" in provenance
    values = [
        [np.nan if value is None else value for value in record.info[key]]
        for key in ("SDLLR", "SDLLRF", "SDLLRR")
        for record in found
        if record.alts
    ]
    _, wanted = read_tsv(tsv)
    np.testing.assert_allclose(np.concatenate(values), wanted.T.ravel(), rtol=1e-5, atol=1e-6)


def test_scoring_again_replaces_the_values(score):
    _, first = score(records(), name="first.vcf")
    outcome, second = score(first, "--strand", "forward", name="second.vcf")
    assert outcome.code == 0, outcome.err
    text = second.read_text()
    assert (text.count("##INFO=<ID=SDLLR,"), text.count("##seqdomains=")) == (1, 2)
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    assert {line.count("SDLLR=") for line in rows} == {1}


def test_key_of_another_meaning_is_refused(score):
    own = HEADER + '##INFO=<ID=SDLLR,Number=1,Type=String,Description="mine">\n'
    outcome, output = score(records(), name="out.vcf", header=own)
    assert outcome.code == 1
    assert "INFO key SDLLR of its own, with Number=1" in outcome.error
    assert list(output.parent.iterdir()) == []


def test_forward_strand_alone(score):
    _, both = score(records())
    _, alone = score(records(), "--strand", "forward", name="alone.tsv")
    _, values = read_tsv(both)
    _, forward = read_tsv(alone)
    np.testing.assert_allclose(forward, np.stack([values[:, 1], values[:, 1], np.full(len(values), np.nan)], axis=1))


def test_strands_change_places_on_the_reverse_complement_of_the_genome(score, seqdomains, lm, tmp_path):
    ends = [(contig, at, *alleles) for contig, at, *alleles in records() if set("".join(alleles)) <= set("ACGT")]
    turned = {name: decode(reverse_complement(encode(letters))) for name, letters in GENOME.items()}
    there = []
    for contig, at, ref, alt in ends:
        offset, own, new = trim(encode(ref), encode(alt))
        start = at - 1 + offset
        # with the base before it, or behind it at the contig's beginning, as VCF wants it
        last = len(GENOME[contig]) - start - len(own)
        anchor = turned[contig][last - 1] if last else ""
        one, two = (anchor + decode(reverse_complement(allele)) for allele in (own, new))
        there.append((contig, last if anchor else 1, one, two))
    _, first = score(ends, name="first.tsv")
    _, values = read_tsv(first)
    fasta = write_genome(tmp_path / "turned.fa", turned)
    vcf = write_vcf(tmp_path / "turned.vcf", there)
    output = tmp_path / "turned.tsv"
    outcome = seqdomains("genomics", "score", lm, "--vcf", vcf, "--reference", fasta, "-o", output, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    _, others = read_tsv(output)
    np.testing.assert_allclose(others[:, [0, 2, 1]], values, rtol=1e-5, atol=2e-5)


def substitutions(count, contig="chr1"):
    letters = GENOME[contig]
    places = [number * 7 % (len(letters) - 1) + 1 for number in range(count)]
    return [(contig, at, letters[at - 1], other(letters[at - 1])) for at in places]


def test_compressed_vcf_is_indexed_where_it_is_sorted(score):
    good = sorted(substitutions(40)) + sorted(substitutions(10, "chr2"))
    outcome, output = score(good, name="out.vcf.gz")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.vcf.gz", "out.vcf.gz.tbi"]
    with pysam.VariantFile(str(output)) as file:
        assert len(list(file.fetch("chr1", 0, 500))) == 40
        assert len(list(file.fetch("chr2"))) == 10
    for bad, words in ((good[::-1], "comes behind"), (good + good[:1], "chr1 comes back behind chr2")):
        outcome, output = score(bad, name="out.vcf.gz")
        assert outcome.code == 0, outcome.err
        assert words in outcome.err
        assert "bcftools sort" in outcome.err
        assert [path.name for path in output.parent.iterdir()] == ["out.vcf.gz"]


def test_order_of_records_changes_no_score(score):
    good = substitutions(50)
    _, one = score(good, name="one.tsv")
    _, two = score(good[::-1], name="two.tsv")
    np.testing.assert_allclose(read_tsv(one)[1], read_tsv(two)[1][::-1], atol=1e-5)


@pytest.mark.parametrize("name", ["out.vcf", "out.vcf.gz", "out.tsv"])
def test_vcf_without_records(score, name):
    outcome, output = score([], name=name)
    assert outcome.code == 0, outcome.err
    assert output.exists()
    assert "0 records" in outcome.err
    if name != "out.tsv":
        with pysam.VariantFile(str(output)) as file:
            assert list(file) == []


def test_bcf_and_bgzip_are_read(score, tmp_path):
    _, plain = score(substitutions(20), name="plain.tsv")
    with pysam.VariantFile(str(tmp_path / "in.vcf")) as file, \
            pysam.VariantFile(str(tmp_path / "in.bcf"), "wb", header=file.header) as copy:  # fmt: skip
        for record in file:
            copy.write(record)
    pysam.tabix_compress(str(tmp_path / "in.vcf"), str(tmp_path / "in.vcf.gz"))
    for given in ("in.bcf", "in.vcf.gz"):
        _, output = score(tmp_path / given, name="given.tsv")
        assert output.read_bytes() == plain.read_bytes()
        outcome, output = score(tmp_path / given, name="given.vcf")
        assert outcome.code == 0, outcome.err


def test_mismatches_stop_or_are_skipped(score):
    ref = GENOME["chr1"][99]
    bad = [("chr1", 100, other(ref), ref), ("chr1", 101, GENOME["chr1"][100], "<DEL>"), ("chr9", 5, "A", "C")]
    outcome, output = score(bad)
    assert outcome.code == 1
    assert "record 1 (chr1:100)" in outcome.error
    assert list(output.parent.iterdir()) == []
    outcome, output = score(bad, "--on-mismatch", "skip")
    assert outcome.code == 3
    assert np.isnan(read_tsv(output)[1]).all()
    outcome, output = score(bad, "--on-mismatch", "swap")
    assert outcome.code == 3
    swapped = read_tsv(output)[1]
    assert "alleles scored: 1, of them REF and ALT swapped: 1" in outcome.err
    outcome, output = score([("chr1", 100, ref, other(ref))])
    np.testing.assert_array_equal(swapped[0], -read_tsv(output)[1][0])
    assert np.isnan(swapped[1:]).all()


@pytest.mark.parametrize(
    ("line", "words"),
    [("chr1\tx\t.\tA\tC\t.\t.\t.\n", "record 2 cannot be read"), ("chr1\t5\t.\tA?\tC\t.\t.\t.\n", "'?' in REF")],
)
@pytest.mark.parametrize("name", ["out.vcf.gz", "out.tsv"])
def test_bad_line_leaves_nothing(score, tmp_path, line, words, name):
    vcf = write_vcf(tmp_path / "bad.vcf", substitutions(1))
    vcf.write_text(vcf.read_text() + line)
    outcome, output = score(vcf, name=name)
    assert outcome.code == 1
    assert words in outcome.error
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("out.vcf.gz", "the file system refused it; is it full?"),
        ("out.vcf", "File too large"),
        ("out.tsv", "File too large"),
    ],
)
def test_full_disk_is_said_in_one_line(score, tmp_path, capfd, name, reason):
    """A limit on the file size fails in the middle of a write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    vcf = write_vcf(tmp_path / "given.vcf", substitutions(2000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        outcome, output = score(vcf, name=name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 1
    assert outcome.error == f"seqdomains: cannot write {output}: {reason}"
    assert capfd.readouterr().err == ""
    assert list(output.parent.iterdir()) == []


def test_index_that_cannot_be_written_is_said(score, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("building of index failed")

    monkeypatch.setattr(pysam, "tabix_index", refuse)
    outcome, output = score(sorted(substitutions(3)), name="out.vcf.gz")
    assert outcome.code == 1
    assert f"{output} is written, but its index out.vcf.gz.tbi cannot be: the file system refused it" in outcome.error
    assert [path.name for path in output.parent.iterdir()] == ["out.vcf.gz"]


def test_bad_commands(score, seqdomains, lm, tmp_path):
    for arguments, words in (
        ({"name": "out.bcf"}, "-o"),
        ({"name": "out.vcf", "options": ("--window", 20)}, "--window 20: expected at least 33"),
    ):
        outcome, output = score(substitutions(1), *arguments.get("options", ()), name=arguments["name"])
        assert outcome.code == 2
        assert words in outcome.error
        assert list(output.parent.iterdir()) == []
    vcf = write_vcf(tmp_path / "same.vcf", substitutions(1))
    text = vcf.read_text()
    outcome = seqdomains("genomics", "score", lm, "--vcf", vcf, "--reference", tmp_path / "r.fa", "-o", vcf)
    assert outcome.code == 2
    assert "is also an input" in outcome.error
    assert vcf.read_text() == text


def test_classifier_is_refused(score, artefact):
    outcome, output = score(substitutions(1), model=artefact)
    assert outcome.code == 1
    assert "is a SequenceClassifier; variants are scored by a language model" in outcome.error
    assert list(output.parent.iterdir()) == []


def test_termination_leaves_no_file(start, lm, tmp_path):
    vcf, fasta = write_vcf(tmp_path / "in.vcf", substitutions(30_000)), write_genome(tmp_path / "r.fa")
    folder = tmp_path / "out"
    folder.mkdir()
    command = ("genomics", "score", lm, "--vcf", vcf, "--reference", fasta, "-o", folder / "out.vcf.gz")
    with start(*command, "--device", "cpu") as process:
        deadline = time.monotonic() + 100
        while not list(folder.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []


def test_memory_does_not_grow_with_the_vcf(tmp_path):
    """Peak resident memory behind 2,000 records of 2 kB and behind 20,000, in a process of their own."""
    write_genome(tmp_path / "r.fa")
    MambaLM(MambaConfig(d_model=8, n_layer=1)).save_pretrained(tmp_path / "lm", signature={**SIGNATURE, "window": 34})
    header = HEADER + '##INFO=<ID=T,Number=1,Type=String,Description="Long">\n'
    for count in (2_000, 20_000):
        vcf = write_vcf(tmp_path / f"{count}.vcf", substitutions(count), header=header)
        vcf.write_text(vcf.read_text().replace("DP=3", "T=" + "x" * 2000))
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        import torch
        from seqdomains.cli.variants import run_score
        torch.set_num_threads(1)
        folder = Path(sys.argv[1])
        for count in (2_000, 20_000):
            run_score(folder / "lm", vcf=folder / f"{count}.vcf", reference=folder / "r.fa",
                      output=str(folder / "out.vcf"), window=None, strands="forward", on_mismatch="error",
                      precision="float32", device="cpu")
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    small, large = map(int, done.stdout.split())
    assert large < small + 8 * 1024, (small, large)
