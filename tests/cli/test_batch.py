"""`predict --out` and `embed`: one table whoever computes it, in the form asked for, and never of another batch."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from seqdomains.backbone import from_pretrained, save_pretrained


@pytest.fixture(scope="module")
def by_one(seqdomains, artefact, genomes, tmp_path_factory):
    """Compute the table of all genomes by one worker in this process."""
    out = tmp_path_factory.mktemp("batches") / "one"
    outcome = seqdomains("genomics", "predict", artefact, genomes, "--threads", 1, "--out", out)
    assert outcome.code == 0, outcome.err
    return out, outcome


def table(out):
    return (out / "predictions.parquet").read_bytes()


def facts(out):
    return json.loads((out / "run.json").read_text())


def test_one_worker_gives_every_window_of_every_file(by_one, genomes):
    out, outcome = by_one
    found = pq.read_table(out / "predictions.parquet")
    files = sorted(map(str, genomes.iterdir()))
    assert list(dict.fromkeys(found["file"].to_pylist())) == files
    assert list(dict.fromkeys(found["record"].to_pylist())) == [f"r{number}" for number in range(200)]
    starts = found["start"].to_numpy()
    begins = np.flatnonzero(starts == 0)
    assert begins.size == 200
    assert (np.diff(starts)[np.setdiff1d(np.arange(len(starts) - 1), begins[1:] - 1)] == 256).all()
    assert len(set(found["predicted"].to_pylist())) == 3
    assert outcome.out == f"{out / 'predictions.parquet'}: {len(found)} rows\n"
    assert facts(out)["shards"] > 20
    assert facts(out)["inputs"] == 200
    assert (out / "errors.jsonl").read_text() == ""


def test_two_processes_give_the_same_bytes(seqdomains, artefact, genomes, by_one, tmp_path):
    out = tmp_path / "two"
    outcome = seqdomains("genomics", "predict", artefact, genomes, "--threads", 1, "--workers", 2, "--out", out)
    assert outcome.code == 0, outcome.err
    assert table(out) == table(by_one[0])
    workers = {json.loads(path.with_suffix(".json").read_text())["facts"]["process"] for path in shards(out)}
    assert len(workers) == 2
    assert os.getpid() not in workers


def shards(out):
    return sorted((out / "shards").glob("*.parquet"))


@pytest.mark.slow
def test_ray_actors_give_the_same_bytes(start, artefact, genomes, by_one, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    out, common = tmp_path / "ray", ("--threads", 1, "--workers", 2, "--engine", "ray")
    with start("genomics", "predict", artefact, genomes, *common, "--out", out, cwd=tmp_path) as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert table(out) == table(by_one[0])


def test_jobs_of_an_array_give_the_same_bytes(seqdomains, artefact, genomes, by_one, tmp_path):
    out = tmp_path / "array"
    command = ("genomics", "predict", artefact, genomes, "--threads", 1, "--out", out, "--shard")
    first = seqdomains(*command, "2/3")
    assert (first.code, first.out) == (0, "")
    assert "job 2 of 3 is done; " in first.err
    again = seqdomains(*command, "2/3")
    assert again.code == 0
    assert "10 of 10 shards are done already" in again.err
    assert seqdomains(*command, "1/3").code == 0
    assert not (out / "predictions.parquet").exists()
    last = seqdomains(*command, "3/3")
    assert last.out.startswith(str(out / "predictions.parquet"))
    assert table(out) == table(by_one[0])


@pytest.fixture(scope="module")
def few(genomes, tmp_path_factory):
    """Five of the genomes, with a gzip file, a record too short and one of N among them."""
    folder = tmp_path_factory.mktemp("few")
    for number in range(4):
        shutil.copy(genomes / f"{number:03}.fa", folder)
    (folder / "004.fa.gz").write_bytes(gzip.compress((genomes / "004.fa").read_bytes()))
    text = "ACGT" * 100
    (folder / "005.fa").write_text(f">long\n{text}\n>short\nACGT\n>unknown\n{'N' * 300}\n")
    return folder


@pytest.fixture
def batch(seqdomains, artefact, few, tmp_path):
    """Run a batch over these files into tmp_path / "out"."""

    def run(*arguments, verb="predict", model=artefact, inputs=None, code=0, out=tmp_path / "out"):
        given = [few] if inputs is None else inputs
        outcome = seqdomains("genomics", verb, model, *given, "--threads", 1, "--out", out, *arguments)
        assert outcome.code == code, outcome.err
        assert "Traceback" not in outcome.err
        return outcome

    return run


def same_rows(found, others):
    """Compare rows of TSV: shares to the rounding of other batches, all else letter by letter."""
    found, others = ([row.split("\t") for row in rows] for rows in (found, others))
    assert [row[:4] for row in found] == [row[:4] for row in others]
    shares = [np.array([row[4:] for row in rows], float) for rows in (found, others)]
    np.testing.assert_allclose(*shares, atol=1e-5)


def test_tsv_holds_the_rows_of_predict_without_a_folder(batch, seqdomains, artefact, few, tmp_path):
    plain = seqdomains("genomics", "predict", artefact, few, "-o", tmp_path / "plain.tsv")
    assert plain.code == 3
    outcome = batch("--format", "tsv", code=3)
    assert "record 'short' has 4 bp" in outcome.err
    assert "1 windows are N or masked for more than half" in outcome.err
    lines = (tmp_path / "out" / "predictions.tsv").read_text().splitlines()
    rows = [line.split("\t", 1) for line in lines]
    assert rows[0] == ["#file", "record\tstart\tend\tpredicted\tp_a\tp_b\tp_c"]
    same_rows([rest for _, rest in rows[1:]], (tmp_path / "plain.tsv").read_text().splitlines()[1:])
    assert list(dict.fromkeys(name for name, _ in rows[1:])) == sorted(map(str, few.iterdir()))


def test_another_form_of_the_table_computes_nothing_again(batch, tmp_path):
    batch(code=3)
    before = {path: path.stat().st_mtime_ns for path in shards(tmp_path / "out")}
    assert "of 1 shards are done already" in batch("--format", "tsv", code=3).err
    assert {path: path.stat().st_mtime_ns for path in shards(tmp_path / "out")} == before
    assert facts(tmp_path / "out")["last_session"]["shards"] == 0


def test_regions_and_strides_are_those_of_predict_without_a_folder(batch, seqdomains, artefact, few, tmp_path):
    bed = tmp_path / "some.bed"
    bed.write_text("r2\t100\t1500\nr0\t0\t300\nr4\t7\t900\nlong\t0\t40\n")
    options = ("--regions", bed, "--stride", 99)
    plain = seqdomains("genomics", "predict", artefact, few, *options, "-o", tmp_path / "plain.tsv")
    assert plain.code == 0, plain.err
    batch(*options, "--format", "tsv")
    rows = (tmp_path / "out" / "predictions.tsv").read_text().splitlines()[1:]
    same_rows([row.split("\t", 1)[1] for row in rows], (tmp_path / "plain.tsv").read_text().splitlines()[1:])


def test_inputs_from_a_list(batch, few, tmp_path):
    names = tmp_path / "list.txt"
    names.write_text(f"# two\n{few / '003.fa'}\n{few / '001.fa'}\n")
    batch("--from-file", names, inputs=[])
    found = pq.read_table(tmp_path / "out" / "predictions.parquet")["file"].to_pylist()
    assert list(dict.fromkeys(found)) == [str(few / "003.fa"), str(few / "001.fa")]


@pytest.mark.parametrize(("pool", "layer"), [("mean", None), ("max", 0), ("last", 1)])
def test_embeddings(batch, few, tmp_path, pool, layer):
    chosen = [] if layer is None else ["--layer", layer]
    batch("--pool", pool, *chosen, verb="embed", inputs=[few / "000.fa"])
    found = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    assert found.column_names == ["file", "record", "start", "end", "embedding"]
    values = np.array(found["embedding"].to_pylist())
    assert values.shape == (len(found), 16)
    assert np.isfinite(values).all()
    assert values.std() > 0


def test_an_embedding_of_each_position(batch, few, tmp_path):
    batch("--pool", "position", verb="embed", inputs=[few / "000.fa"])
    found = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    starts = found["start"].to_numpy()
    assert (found["end"].to_numpy() - starts == 1).all()
    assert (starts == np.arange(len(found))).all()
    assert facts(tmp_path / "out")["tokens_computed"] == len(found)


def test_embeddings_as_anndata(batch, few, tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    batch("--format", "h5ad", verb="embed", code=3)
    batch(verb="embed", code=3)
    found = anndata.read_h5ad(tmp_path / "out" / "embeddings.h5ad")
    same = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    np.testing.assert_array_equal(found.X, np.array(same["embedding"].to_pylist(), np.float32))
    for name in ("file", "record", "start", "end"):
        assert found.obs[name].tolist() == same[name].to_pylist()


def test_without_anndata_nothing_is_computed(batch, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    assert "pip install 'seqdomains[anndata]'" in batch("--format", "h5ad", verb="embed", code=2).error
    assert not (tmp_path / "out").exists()


def test_an_address_without_a_cluster_is_said_soon(start, artefact, few, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    options = ("--engine", "ray", "--ray-address", "127.0.0.1:1", "--out", tmp_path / "out")
    with start("genomics", "predict", artefact, few, *options) as process:
        try:
            _, err = process.communicate(timeout=40)
        finally:
            process.kill()
    assert process.returncode == 2, err
    assert "--ray-address 127.0.0.1:1: nothing answers there" in err


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("predict", ["-o", "x.tsv"], "-o and --out: a batch writes its table into its folder"),
        ("predict", ["--shard", "4/3"], "--shard 4/3: 4 is not within 1 to 3"),
        ("predict", ["--shard", "1/2", "--engine", "ray"], "--shard: is for jobs without an engine"),
        ("predict", ["--ray-address", "x"], "--ray-address: goes with --engine ray"),
        ("predict", ["--format", "h5ad"], "--format h5ad: predict writes parquet or tsv"),
        ("embed", ["--format", "tsv"], "--format tsv: embed writes parquet or h5ad"),
        ("embed", ["--layer", 2], "--layer 2: the model has blocks 1 to 1"),
        ("predict", ["-"], "-: a batch with --out reads its inputs more than once; give files"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_made(batch, tmp_path, monkeypatch, verb, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in batch(*options, verb=verb, code=2).error
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_batch_need_a_folder(seqdomains, artefact, few):
    options = ("--workers", 2, "--engine", "local", "--shard", "1/2", "--hash", "--precision", "bfloat16")
    outcome = seqdomains("genomics", "predict", artefact, few, *options)
    assert outcome.code == 2
    assert all(f"{name}: goes with --out" in outcome.err for name in options if str(name).startswith("--"))


def test_a_pipe_is_refused(batch, tmp_path):
    os.mkfifo(tmp_path / "pipe.fa")
    assert (
        "pipe.fa: a batch with --out reads its inputs more than once"
        in batch(inputs=[tmp_path / "pipe.fa"], code=2).error
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--window", 128], ["--window 128 differs from --window 256", "--stride 128 differs from --stride 256"]),
        (["--stride", 64], ["--stride 64 differs from --stride 256"]),
        (["--precision", "bfloat16"], ["--precision bfloat16 differs from --precision float32"]),
        (["--set", "data.gap_policy=mask"], ["--set data.gap_policy=mask differs from --set data.gap_policy=reject"]),
        (["--shard-size", 1000], ["--shard-size 1000 differs from no --shard-size"]),
        (["--regions", "BED"], ["some.bed differs from no --regions", "regions_sha256: "]),
        (["MORE"], ["more.fa: is not in the plan"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("-") else "",
)
def test_another_command_in_the_same_folder_is_refused_by_what_differs(batch, few, tmp_path, options, named):
    batch(code=3)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "some.bed").write_text("r0\t0\t300\n")
    (tmp_path / "more.fa").write_text(">more\n" + "ACGT" * 100 + "\n")
    places = {"BED": tmp_path / "some.bed", "MORE": tmp_path / "more.fa"}
    outcome = batch(*(places.get(option, option) for option in options), code=2)
    assert "holds another batch: choose another folder for this one" in outcome.err
    for name in named:
        assert name in outcome.err
    differing = [line for line in outcome.err.splitlines() if "differs from" in line]
    assert len(differing) == sum(not name.startswith("more") for name in named)
    assert {path: path.read_bytes() for path in before} == before


def test_embeddings_do_not_go_on_in_a_folder_of_predictions(batch):
    batch(code=3)
    outcome = batch(verb="embed", code=2)
    assert 'verb: "embed" differs from "predict" of the plan' in outcome.err
    assert "--pool mean differs from no --pool of the plan" in outcome.err


def test_a_model_that_changed_is_refused(batch, artefact, few, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(artefact, model)
    batch(model=model, code=3)
    other = from_pretrained(model)
    with torch.no_grad():
        other.model.head.bias += 1
    save_pretrained(other.model, model, signature=other.signature)
    outcome = batch(model=model, code=2)
    assert "model_sha256: " in outcome.err


def test_inputs_that_changed_when_all_was_done_are_said_and_change_nothing(batch, few, tmp_path):
    inputs = tmp_path / "inputs"
    shutil.copytree(few, inputs)
    batch(inputs=[inputs], code=3)
    before = table(tmp_path / "out")
    os.utime(inputs / "001.fa", ns=(1, 1))
    (inputs / "002.fa").write_text(">r2\n" + "ACGT" * 200 + "\n")
    (inputs / "003.fa").unlink()
    outcome = batch(inputs=[inputs], code=3)
    for text in ("001.fa was written to since", "002.fa has 805 bytes, and ", "003.fa was deleted"):
        assert text in outcome.err
    assert table(tmp_path / "out") == before


def test_known_by_their_content_inputs_may_be_touched_and_not_edited(batch, few, tmp_path):
    inputs = tmp_path / "inputs"
    shutil.copytree(few, inputs)
    batch("--hash", inputs=[inputs], code=3)
    before = table(tmp_path / "out")
    os.utime(inputs / "001.fa", ns=(1, 1))
    batch("--hash", inputs=[inputs], code=3)
    assert table(tmp_path / "out") == before
    content = (inputs / "001.fa").read_bytes()
    (inputs / "001.fa").write_bytes(content[:-2] + (b"A" if content[-2:-1] != b"A" else b"C") + b"\n")
    assert "001.fa was written to" in batch("--hash", inputs=[inputs], code=3).err


def test_bfloat16_gives_nearly_the_same_table(batch, few, tmp_path):
    batch(inputs=[few / "000.fa"])
    batch("--precision", "bfloat16", inputs=[few / "000.fa"], out=tmp_path / "half")
    full, half = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("out", "half"))
    assert full.select(["record", "start", "end"]) == half.select(["record", "start", "end"])
    assert full["p_a"] != half["p_a"]
    np.testing.assert_allclose(full["p_a"].to_numpy(), half["p_a"].to_numpy(), atol=0.1)


def test_relative_names_stay_as_they_were_given(batch, few, tmp_path, monkeypatch):
    monkeypatch.chdir(few)
    batch("--workers", 2, inputs=["000.fa", "./001.fa"], out=Path(os.path.relpath(tmp_path / "out")))
    found = pq.read_table(tmp_path / "out" / "predictions.parquet")["file"].to_pylist()
    assert list(dict.fromkeys(found)) == ["000.fa", "./001.fa"]
