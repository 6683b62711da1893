"""`stream --out`: whole records in shards, and one table or track whoever computes it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.genomics.alphabet import SIGNATURE

RECORDS = {"one": 3_000, "two": 70_000, "three": 1, "four": 255, "five": 90_001}


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """An untrained model whose likelihoods differ from base to base."""
    import torch

    folder = tmp_path_factory.mktemp("artefacts") / "language"
    model = MambaLM(MambaConfig(d_model=16, n_layer=1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(20)
    model.save_pretrained(folder, signature=SIGNATURE)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of five records, two of them longer than a chunk, and one of a single record."""
    folder, random = tmp_path_factory.mktemp("records"), np.random.default_rng(0)
    letters = {name: "".join(random.choice(list("ACGT"), length)) for name, length in RECORDS.items()}
    (folder / "a.fa").write_text("".join(f">{name}\n{text}\n" for name, text in letters.items()))
    (folder / "b.fa").write_text(f">six\n{letters['one'][::-1]}\n")
    return folder


@pytest.fixture
def stream(seqdomains, files, tmp_path):
    """Stream these files into tmp_path / "out", in shards of at least 20,000 bp."""

    def run(model, *arguments, code=0, out=tmp_path / "out", inputs=files):
        common = ("--threads", 1, "--shard-size", 20_000, "--out", out)
        outcome = seqdomains("genomics", "stream", model, inputs, *common, *arguments)
        assert outcome.code == code, outcome.err
        assert "Traceback" not in outcome.err
        return outcome

    return run


def shards(out):
    return sorted((out / "shards").glob("*.parquet"))


def places(table):
    return [table[name].to_pylist() for name in ("record", "start", "end")]


@pytest.mark.parametrize("every", [1, 1000])
def test_likelihoods_in_shards_are_those_of_one_pass(seqdomains, stream, language_model, files, tmp_path, every):
    outcome = stream(language_model, "--every", every)
    table = pq.read_table(tmp_path / "out" / "stream.parquet")
    assert outcome.out == f"{tmp_path / 'out' / 'stream.parquet'}: {len(table)} rows\n"
    assert len(shards(tmp_path / "out")) == 3  # one and two, three to five, six
    alone = tmp_path / "alone.parquet"
    assert seqdomains("genomics", "stream", language_model, files, "--every", every, "-o", alone).code == 0
    expected = pq.read_table(alone)
    assert places(table) == places(expected)
    likelihoods = table["log_likelihood"].to_numpy()
    # Threads differ, and with them sums.
    np.testing.assert_allclose(likelihoods, expected["log_likelihood"].to_numpy(), rtol=1e-5)
    assert np.std(likelihoods) > 0
    assert sorted(set(table["file"].to_pylist())) == [str(files / "a.fa"), str(files / "b.fa")]


def test_classes_in_shards_are_those_of_one_pass(seqdomains, stream, artefact, files, tmp_path):
    stream(artefact, "--every", 20_000, "--format", "tsv")
    header, *rows = (tmp_path / "out" / "stream.tsv").read_text().splitlines()
    alone = seqdomains("genomics", "stream", artefact, files, "--every", 20_000).out.splitlines()
    assert header == "#file\t" + alone[0].removeprefix("#")
    cells, expected = ([row.split("\t") for row in found] for found in (rows, alone[1:]))
    assert [row[1:5] for row in cells] == [row[:4] for row in expected]
    assert [row[3] for row in cells if row[1] == "five"] == ["20000", "40000", "60000", "80000", "90001"]
    shares = [np.array([row[-3:] for row in found], float) for found in (cells, expected)]
    np.testing.assert_allclose(*shares, atol=2e-6)
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (facts["records_computed"], facts["tokens_computed"]) == (6, sum(RECORDS.values()) + 3_000)
    assert "records  6, a row every 20000" in seqdomains("report", tmp_path / "out").out


def test_whoever_computes_them_writes_the_same_bytes(stream, language_model, tmp_path):
    stream(language_model, "--every", 100)
    whole = (tmp_path / "out" / "stream.parquet").read_bytes()
    stream(language_model, "--every", 100, "--workers", 2, out=tmp_path / "two")
    assert (tmp_path / "two" / "stream.parquet").read_bytes() == whole
    for job in ("2/2", "1/2"):
        stream(language_model, "--every", 100, "--shard", job, out=tmp_path / "jobs")
    assert (tmp_path / "jobs" / "stream.parquet").read_bytes() == whole
    first, *rest = shards(tmp_path / "out")
    first.unlink()
    before = {path: path.stat().st_mtime_ns for path in rest}
    assert "2 of 3 shards are done already" in stream(language_model, "--every", 100).err
    assert {path: path.stat().st_mtime_ns for path in rest} == before
    assert (tmp_path / "out" / "stream.parquet").read_bytes() == whole


def test_tracks(seqdomains, stream, language_model, files, tmp_path):
    stream(language_model, "--every", 500, "--format", "bedgraph")
    rows = [line.split("\t") for line in (tmp_path / "out" / "stream.bedgraph").read_text().splitlines()]
    alone = seqdomains("genomics", "stream", language_model, files, "--every", 500).out.splitlines()
    expected = [line.split("\t") for line in alone]
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    np.testing.assert_allclose([float(row[3]) for row in rows], [float(row[3]) for row in expected], rtol=2e-5)
    bigwig = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    again = stream(language_model, "--every", 500, "--format", "bigwig")
    assert "3 of 3 shards are done already" in again.err
    with bigwig.open(str(tmp_path / "out" / "stream.bigwig")) as track:
        assert track.chroms() == RECORDS | {"six": 3_000}
        found = [(name, *part) for name in ("one", "two") for part in track.intervals(name)]
    assert [(name, str(start), str(end)) for name, start, end, _ in found] == [
        tuple(row[:3]) for row in rows if row[0] in ("one", "two")
    ]


def test_a_track_of_two_records_of_one_name_is_refused_and_nothing_is_lost(stream, language_model, files, tmp_path):
    folder = tmp_path / "twice"
    shutil.copytree(files, folder)
    (folder / "c.fa").write_text(f">six\n{'ACGT' * 500}\n")
    refused = stream(language_model, "--every", 500, "--format", "bedgraph", inputs=folder, code=1)
    assert f"record 'six' stands in {folder / 'b.fa'} and in {folder / 'c.fa'}" in refused.error
    assert "3 of 3 shards are done already" in stream(language_model, "--every", 500, inputs=folder).err
    assert pq.read_table(tmp_path / "out" / "stream.parquet")["record"].to_pylist().count("six") == 6 + 4


def test_a_bad_file_is_left_out_as_a_whole(stream, language_model, files, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(files, folder)
    (folder / "aa.fa").write_text(f">x\n{'ACGT' * 500}\nAC!T\n")
    stream(language_model, "--every", 500, inputs=folder, code=3)
    (error,) = map(json.loads, (tmp_path / "out" / "errors.jsonl").read_text().splitlines())
    assert error["input"] == str(folder / "aa.fa")
    assert "'!'" in error["reason"]
    assert "x" not in pq.read_table(tmp_path / "out" / "stream.parquet")["record"].to_pylist()


def test_a_file_that_changes_after_the_plan_is_left_out(stream, language_model, files, tmp_path):
    folder = tmp_path / "changing"
    shutil.copytree(files, folder)
    whole = stream(language_model, "--every", 500, inputs=folder)
    assert whole.code == 0
    for path in shards(tmp_path / "out"):
        path.unlink()
    (folder / "b.fa").write_text(">six\nACGT\n")
    stream(language_model, "--every", 500, inputs=folder, code=3)
    table = pq.read_table(tmp_path / "out" / "stream.parquet")
    assert set(table["file"].to_pylist()) == {str(folder / "a.fa")}
    (error,) = map(json.loads, (tmp_path / "out" / "errors.jsonl").read_text().splitlines())
    assert "when the plan was made" in error["reason"]


def test_forms_that_do_not_fit_are_refused(stream, language_model, artefact):
    assert "stream of a classifier writes parquet or tsv" in stream(artefact, "--format", "bigwig", code=2).error
    assert "writes parquet, bedgraph or bigwig" in stream(language_model, "--format", "tsv", code=2).error
    assert "-o and --out" in stream(language_model, "-o", "x.bedgraph", code=2).error


def test_options_of_batches_go_with_out(seqdomains, language_model, files):
    refused = seqdomains("genomics", "stream", language_model, files, "--workers", 2, "--shard", "1/2")
    assert refused.code == 2
    assert "--workers: goes with --out" in refused.err
    assert "--shard: goes with --out" in refused.err


def test_bases_that_are_not_known_have_no_value(seqdomains, stream, language_model, tmp_path):
    """N within a bin, in whole bins, at both ends of a record, and a record of nothing else; as `likelihood` counts."""
    bigwig = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    random = np.random.default_rng(1)

    def bases(count):
        return "".join(random.choice(list("ACGT"), count))

    text = f"NN{bases(70)}{'N' * 130}RY{bases(96)}n{bases(50)}{'N' * 49}"
    (tmp_path / "gaps.fa").write_text(f">gaps\n{text}\n>none\n{'N' * 120}\n>whole\n{bases(80)}\n")
    counted = seqdomains("genomics", "likelihood", language_model, tmp_path / "gaps.fa", "--every", 50).out
    wanted = [row.split("\t") for row in counted.splitlines()[1:] if row.split("\t")[3] != "0"]
    assert [row[:4] for row in wanted[:3]] == [
        ["gaps", "0", "50", "48"],
        ["gaps", "50", "100", "22"],
        ["gaps", "200", "250", "46"],
    ]
    means = [float(row[4]) / int(row[3]) for row in wanted]
    lengths = {"gaps": 400, "none": 120, "whole": 80}

    def agree(rows):
        assert [[name, str(start), str(end)] for name, start, end, _ in rows] == [row[:3] for row in wanted]
        np.testing.assert_allclose([float(row[3]) for row in rows], means, rtol=2e-5)

    def of_bigwig(path):
        with bigwig.open(str(path)) as track:
            assert track.chroms() == lengths
            return [(name, *part) for name in lengths for part in track.intervals(name) or ()]

    for name in ("a.bedgraph", "a.parquet", "a.bw"):
        alone = seqdomains(
            "genomics", "stream", language_model, tmp_path / "gaps.fa", "--every", 50, "-o", tmp_path / name
        )
        assert alone.code == 0, alone.err
    agree([row.split("\t") for row in (tmp_path / "a.bedgraph").read_text().splitlines()])
    agree([tuple(row.values()) for row in pq.read_table(tmp_path / "a.parquet").to_pylist()])
    agree(of_bigwig(tmp_path / "a.bw"))
    for form in ("parquet", "bedgraph", "bigwig"):
        stream(language_model, "--every", 50, "--format", form, inputs=tmp_path / "gaps.fa")
    agree([row.split("\t") for row in (tmp_path / "out" / "stream.bedgraph").read_text().splitlines()])
    agree([tuple(row.values())[1:] for row in pq.read_table(tmp_path / "out" / "stream.parquet").to_pylist()])
    agree(of_bigwig(tmp_path / "out" / "stream.bigwig"))
    each = seqdomains("genomics", "stream", language_model, tmp_path / "gaps.fa").out.splitlines()
    places = [int(row.split("\t")[1]) for row in each if row.startswith("gaps")]
    assert places == [place for place, letter in enumerate(text) if letter in "ACGT"]
