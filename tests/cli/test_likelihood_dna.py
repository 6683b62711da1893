"""`genomics likelihood` as users call it: whole records and stretches, both strands, and what is refused."""

from __future__ import annotations

import gzip
import json
import math
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.genomics.alphabet import SIGNATURE, N, encode, reverse_complement

RECORDS = {"a": "ACGTNNRACG" * 31 + "TTT", "b": "acgtggca", "c": "C"}


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(1)
    model = MambaLM(MambaConfig(d_model=16, n_layer=2), generator=generator).eval()
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(10)
    return model


@pytest.fixture(scope="module")
def lm(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "lm"
    model.save_pretrained(folder, signature={**SIGNATURE, "window": 64, "objective": "next-token"})
    return folder


@pytest.fixture
def dna(tmp_path):
    path = tmp_path / "dna.fa"
    path.write_text("".join(f">{name} x\n{text}\n" for name, text in RECORDS.items()))
    return path


def plainly(model, codes):
    """Log-likelihood of each base given all before it, behind an N; NaN where none is asked."""
    tokens = torch.from_numpy(np.concatenate([[N], codes]))[None]
    with torch.no_grad():
        found = model(tokens[:, :-1]).log_softmax(-1)[0].gather(1, tokens[0, 1:, None].long())[:, 0].numpy()
    return np.where(codes < 4, found, math.nan)


def rows(text):
    lines = text.splitlines()
    return lines[0], [line.split("\t") for line in lines[1:]]


@pytest.mark.parametrize("every", [None, 1, 7, 313, 1000])
def test_rows_are_sums_of_one_pass_over_each_record(seqdomains, lm, model, dna, every, monkeypatch):
    monkeypatch.setattr("seqdomains.pipelines.stream.CHUNK", 50)
    option = () if every is None else ("--every", every)
    outcome = seqdomains("genomics", "likelihood", lm, dna, "--device", "cpu", *option)
    assert outcome.code == 0, outcome.err
    header, found = rows(outcome.out)
    assert header == "#record\tstart\tend\tbases\tlog_likelihood\tbits_per_base"
    expected = []
    for name, text in RECORDS.items():
        values = plainly(model, encode(text))
        for start in range(0, len(text), every or len(text)):
            part = values[start : start + (every or len(text))]
            expected.append((name, start, start + len(part), np.isfinite(part).sum(), np.nansum(part)))
    assert [row[:3] for row in found] == [[name, str(start), str(end)] for name, start, end, _, _ in expected]
    assert [int(row[3]) for row in found] == [count for *_, count, _ in expected]
    np.testing.assert_allclose([float(row[4]) for row in found], [nats for *_, nats in expected], atol=1e-4)
    for row in found:
        bits = -float(row[4]) / math.log(2) / int(row[3]) if int(row[3]) else math.nan
        assert float(row[5]) == pytest.approx(bits, nan_ok=True)


@pytest.mark.parametrize("every", [None, 40])
def test_both_strands_are_read_from_either_end(seqdomains, lm, model, dna, every, tmp_path, monkeypatch):
    monkeypatch.setattr("seqdomains.cli.language._BLOCK", 37)
    option = () if every is None else ("--every", every)
    table = tmp_path / "t.parquet"
    outcome = seqdomains("genomics", "likelihood", lm, dna, "--strand", "both", "-o", table, "--device", "cpu", *option)
    assert outcome.code == 0, outcome.err
    columns = pq.read_table(table).to_pydict()
    at = 0
    for name, text in RECORDS.items():
        forward, reverse = plainly(model, encode(text)), plainly(model, reverse_complement(encode(text)))[::-1]
        for start in range(0, len(text), every or len(text)):
            part = slice(start, start + (every or len(text)))
            assert (columns["record"][at], columns["start"][at]) == (name, start)
            assert columns["forward"][at] == pytest.approx(np.nansum(forward[part]), abs=1e-4)
            assert columns["reverse"][at] == pytest.approx(np.nansum(reverse[part]), abs=1e-4)
            assert columns["log_likelihood"][at] == pytest.approx((columns["forward"][at] + columns["reverse"][at]) / 2)
            at += 1
    assert at == len(columns["record"])


def test_a_record_and_its_other_strand_change_places(seqdomains, lm, tmp_path):
    text = "ACGTTGCANACCGT"
    other = "".join("ACGTN"["TGCAN".index(one)] for one in reversed(text))
    path = tmp_path / "two.fa"
    path.write_text(f">one\n{text}\n>other\n{other}\n")
    _, (one, two) = rows(seqdomains("genomics", "likelihood", lm, path, "--strand", "both", "--device", "cpu").out)
    assert one[3:6] == two[3:6]
    assert one[6:] == two[:5:-1]


def test_the_test_windows_of_a_run_have_the_bits_of_its_evaluation(seqdomains, tmp_path):
    run, path = tmp_path / "run", tmp_path / "genome.fa"
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 3000))
    path.write_text(f">g\n{text}\n")
    given = ("--preset", "pretrain-tiny", "--data", path, "--set", "data.held=[g:2001-3000]", "--device", "cpu")
    assert seqdomains("genomics", "pretrain", *given, "--out", run).code == 0
    windows = [line.split("\t") for line in (run / "test_windows.bed").read_text().splitlines()[1:]]
    (tmp_path / "windows.fa").write_text("".join(f">{a}-{b}\n{text[int(a) : int(b)]}\n" for _, a, b, _ in windows))
    outcome = seqdomains("genomics", "likelihood", run, tmp_path / "windows.fa", "--device", "cpu")
    _, found = rows(outcome.out)
    bits = -sum(float(row[4]) for row in found) / math.log(2) / sum(int(row[3]) for row in found)
    assert bits == pytest.approx(json.loads((run / "evaluation.json").read_text())["bits"], rel=1e-6)


def test_a_bad_file_is_left_out_and_named(seqdomains, lm, dna, tmp_path):
    (tmp_path / "bad.fa").write_text(">x\nACGT\n>y\nACQT\n")
    outcome = seqdomains("genomics", "likelihood", lm, tmp_path / "bad.fa", dna, "-o", tmp_path / "t.tsv")
    assert outcome.code == 3
    assert "record 'y', position 3 (line 4): 'Q' is not an IUPAC nucleotide code" in outcome.err
    assert len((tmp_path / "t.tsv").read_text().splitlines()) == 4


def test_an_output_that_is_an_input_is_refused(seqdomains, lm, dna):
    outcome = seqdomains("genomics", "likelihood", lm, dna, "-o", dna)
    assert outcome.code == 2
    assert "is also an input, which would be lost" in outcome.error


def test_what_cannot_be_read_from_its_end_is_refused(seqdomains, lm, dna, tmp_path):
    zipped = tmp_path / "dna.fa.gz"
    zipped.write_bytes(gzip.compress(dna.read_bytes()))
    outcome = seqdomains("genomics", "likelihood", lm, zipped, "--strand", "both")
    assert outcome.code == 1
    assert "is plain gzip, which cannot be read by position: recompress it" in outcome.error
    outcome = seqdomains("genomics", "likelihood", lm, "-", "--strand", "both")
    assert outcome.code == 2
    assert "--strand both: stdin cannot be read from its end" in outcome.error
    outcome = seqdomains("genomics", "likelihood", lm, dna, "-o", tmp_path / "x.bw")
    assert outcome.code == 2
    assert "rows with several values are no track" in outcome.error
    outcome = seqdomains("genomics", "likelihood", lm, dna, "-o", tmp_path / "x.tsv.gz")
    assert outcome.code == 2
    assert "plain text is written; leave out .gz" in outcome.error
    outcome = seqdomains("genomics", "likelihood", lm, dna, "-o", tmp_path / "x.csv")
    assert outcome.code == 2
    assert "x.csv: expected a name that ends in .tsv, .parquet or .pq, or - for TSV on stdout" in outcome.error
    assert not list(tmp_path.glob("*x.*"))


@pytest.mark.parametrize("command", ["likelihood", "stream", "score"])
def test_models_that_say_nothing_of_the_next_base_are_refused(seqdomains, artefact, model, dna, tmp_path, command):
    masked = tmp_path / "masked"
    model.save_pretrained(masked, signature={**SIGNATURE, "window": 64, "objective": "masked"})
    given = ("--vcf", dna, "--reference", dna) if command == "score" else (dna,)
    outcome = seqdomains("genomics", command, masked, *given, "--device", "cpu")
    assert outcome.code == 1
    assert "the artefact's objective is 'masked': it was asked hidden tokens" in outcome.error
    if command == "stream":
        outcome = seqdomains("genomics", command, masked, *given, "--device", "cpu", "--out", tmp_path / "batch")
        assert outcome.code == 1
        assert "the artefact's objective is 'masked'" in outcome.error
    if command == "likelihood":
        outcome = seqdomains("genomics", command, artefact, dna)
        assert outcome.code == 1
        assert "the artefact is a SequenceClassifier; this command needs a language model (MambaLM)" in outcome.error


def test_what_a_killed_command_left_is_gone_when_it_is_repeated(start, seqdomains, lm, dna, tmp_path):
    long = tmp_path / "long.fa"
    long.write_text(">x\n" + "ACGTTGCA" * 2_000_000 + "\n")
    with start("genomics", "likelihood", lm, long, "-o", tmp_path / "bits.tsv", "--device", "cpu") as process:
        deadline = time.monotonic() + 100
        while not list(tmp_path.glob(".*.partial")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    assert len(list(tmp_path.glob(".*.partial"))) == 1
    outcome = seqdomains("genomics", "likelihood", lm, dna, "-o", tmp_path / "bits.tsv")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bits.tsv", "dna.fa", "long.fa"]


def test_a_language_model_has_no_classes_and_the_refusal_says_what_makes_them(seqdomains, lm, dna):
    outcome = seqdomains("genomics", "predict", lm, dna)
    assert outcome.code == 1
    assert "`seqdomains genomics finetune MODEL --data LABELLED --out RUN` trains one on it" in outcome.error
    assert "as it is it serves likelihood, score, stream, explain, generate and embed" in outcome.error
