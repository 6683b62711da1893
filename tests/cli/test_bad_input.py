"""Bad input at the command: one clear line on stderr, the right exit code, nothing half-written left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pysam
import pytest
import torch
from safetensors.torch import load_file, save_file

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.cli import config

PRESETS = Path(config.__file__).parents[1] / "configs"
LETTERS = "".join(np.random.default_rng(0).choice(list("ACGT"), size=600))


@pytest.fixture
def predict(seqdomains, run, tmp_path):
    """Predict into a file that must not be there afterwards; returns the error line."""

    def check(*arguments, model=run, code=1):
        output = tmp_path / "out" / "predictions.tsv"
        output.parent.mkdir(exist_ok=True)
        outcome = seqdomains("genomics", "predict", model, *arguments, "-o", output)
        assert outcome.code == code
        assert outcome.out == ""
        assert list(output.parent.iterdir()) == []
        return outcome.error

    return check


@pytest.fixture
def train(seqdomains, tmp_path):
    """Train into a folder that must not be there afterwards; returns the error line."""

    def check(*arguments, code=1):
        out = tmp_path / "runs" / "run"
        outcome = seqdomains("genomics", "train", *arguments, "--preset", "barcode", "--out", out)
        assert outcome.code == code
        assert not out.parent.exists()
        return outcome.error

    return check


def bad_file(folder, kind):
    """Write a bad FASTA file; returns it with the words that its error must hold."""
    path = folder / f"{kind}.fa"
    first = f">good kind=a\n{LETTERS}\n"
    if kind == "empty":
        path.touch()
        return path, ["empty.fa is empty", "expected FASTA"]
    if kind == "absent":
        return path, ["absent.fa does not exist"]
    if kind == "prose":
        path.write_text("Dear reader,\nthis is a letter.\n")
        return path, ["prose.fa is not FASTA", "'D'"]
    if kind == "fastq":
        path.write_text("@read\nACGT\n+\nIIII\n")
        return path, ["is not FASTA", "FASTQ"]
    if kind == "duplicate":
        path.write_text(first + first)
        return path, ["duplicate record name 'good'", "line 3", "line 1"]
    if kind == "illegal":
        path.write_text(first + f">bad kind=b\n{LETTERS[:60]}\n{LETTERS[:10]}!{LETTERS[:300]}\n")
        return path, ["'!'", "record 'bad'", "position 71", "line 5"]
    if kind == "nameless":
        path.write_text(f">\n{LETTERS}\n")
        return path, ["line 1", "no name"]
    if kind == "old-index":
        path.write_text(first + first.replace("good", "other").replace("kind=a", "kind=b"))
        pysam.faidx(str(path))
        os.utime(f"{path}.fai", (0, 0))
        return path, [".fai is older than old-index.fa", "samtools faidx"]
    if kind == "truncated":
        path.write_text(first)
        whole = folder / "truncated.fa.gz"
        pysam.tabix_compress(str(path), str(whole), force=True)
        whole.write_bytes(whole.read_bytes()[:-40])
        return whole, ["truncated.fa.gz is a truncated bgzip file", "compress it again"]
    raise AssertionError(kind)


KINDS = ["empty", "absent", "prose", "fastq", "duplicate", "illegal", "nameless", "old-index", "truncated"]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_file_to_predict(predict, tmp_path, kind):
    path, words = bad_file(tmp_path, kind)
    error = predict(path)
    assert all(word in error for word in words), error


@pytest.mark.parametrize("kind", KINDS)
def test_bad_file_to_train(train, tmp_path, kind):
    path, words = bad_file(tmp_path, kind)
    error = train("--data", path, "--label-from", "header:kind")
    assert all(word in error for word in words), error


def test_window_longer_than_every_contig(predict, train, tmp_path):
    path = tmp_path / "short.fa"
    path.write_text(f">x kind=a\n{LETTERS[:100]}\n>y kind=b\n{LETTERS[100:180]}\n")
    for error in (predict(path), train("--data", path, "--label-from", "header:kind")):
        assert "window of 256 bp is longer than every contig" in error
        assert "100 bp" in error


def labelled(folder, first="a", second="b"):
    path = folder / "labelled.fa"
    path.write_text(f">x kind={first}\n{LETTERS[:300]}\n>y kind={second}\n{LETTERS[300:]}\n")
    return path


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("x\ta\n", ["1 of 2 records have no label", "'y'"]),
        ("x\ta\ny\tb\nz\tb\n", ["in no FASTA file", "'z'"]),
        ("x\ta\ny\n", ["line 2", "record<TAB>label"]),
        ("x\ta\nx\tb\ny\tb\n", ["line 2", "'x'", "'a'", "'b'"]),
        ("", ["holds no labels"]),
        ("x\ta\ny\ta\n", ["one class", "'a'"]),
    ],
)
def test_bad_label_tables(train, tmp_path, table, words):
    labels = tmp_path / "labels.tsv"
    labels.write_text(table)
    error = train("--data", labelled(tmp_path), "--labels", labels)
    assert all(word in error for word in words), error


def test_record_without_its_header_key(train, tmp_path):
    error = train("--data", labelled(tmp_path), "--label-from", "header:species")
    assert "`species=`" in error
    assert "kind" in error


@pytest.mark.parametrize(
    ("classes", "words"),
    [("[a]", ["labels that are not in data.classes", "'b'"]), ("[a, b, c]", ["no sequence for 'c'"])],
)
def test_label_without_class_and_class_without_sequence(train, tmp_path, classes, words):
    error = train("--data", labelled(tmp_path), "--label-from", "header:kind", "--set", f"data.classes={classes}")
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.length_warmup=[{until: 0.5, window: 100}]", "train.length_warmup: 100 does not divide data.window 256"),
        ("train.batch_tokens=100", "train.batch_tokens: 100 hold no window of 256"),
    ],
)
def test_refused_steps_leave_no_run_that_would_refuse_the_mended_ones(train, tmp_path, setting, sentence):
    labels = ("--data", labelled(tmp_path), "--label-from", "header:kind", "--set", "data.window=256")
    assert sentence in train(*labels, "--set", setting, code=2)


def test_great_apes_need_every_species(train, tmp_path):
    (tmp_path / "human.fa").write_text(f">chr5\n{LETTERS}\n")
    (tmp_path / "bonobo.fa").write_text(f">chr5\n{LETTERS}\n")
    error = train("--species", "great-apes", "--data", tmp_path / "human.fa", "--data", tmp_path / "bonobo.fa")
    assert "no sequence for 'chimpanzee', 'gorilla', 'orangutan'" in error


def test_evaluate_refuses_classes_that_the_model_does_not_know(seqdomains, run, tmp_path):
    outcome = seqdomains("genomics", "evaluate", run, "--data", labelled(tmp_path), "--label-from", "header:kind")
    assert outcome.code == 1
    assert "'a'" in outcome.error
    assert "human" in outcome.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--species", "great-apes", "--preset", "laptpo"], ["laptpo", "did you mean laptop?"]),
        (
            ["train", "--species", "great-apes", "--preset", "tiny", "--set", "data.windw=64"],
            ["data.windw: unknown key", "data.window?"],
        ),
        (["train", "--species", "great-apes", "--preset", "tiny", "--set", "train.steps=0"], ["train.steps", "1"]),
        (["train", "--preset", "tiny"], ["nothing to train on", "--data"]),
        (["train", "--preset", "tiny", "--data", "x.fa"], ["x.fa does not exist"]),
        (["train", "--species", "great-apes", "--preset", "tiny", "--device", "cuda:99"], ["--device cuda:99"]),
        (["train", "--species", "great-apes", "--preset", "tiny", "--device", "tpu"], ["--device tpu"]),
        (["train", "--species", "great-apes", "--preset", "tiny", "--set", "model.vocab_size=8"], ["16 codes"]),
        (["train", "--species", "great-apes", "--preset", "codes"], ["codes: is for `seqdomains audio pretrain`"]),
        (["simulate", "--preset", "pretrain-tiny", "--out", "x"], ["is for `seqdomains genomics pretrain`"]),
        (["simulate", "--set", "data.simulation.density=0", "--out", "x"], ["data.simulation.density"]),
    ],
)
def test_bad_commands_and_configurations(seqdomains, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    outcome = seqdomains("genomics", *arguments)
    assert outcome.code == (1 if "x.fa" in arguments else 2)
    assert all(word in outcome.error for word in words), outcome.err
    assert list(tmp_path.iterdir()) == []


def test_kernels_that_cannot_run_are_refused_before_anything_is_written(seqdomains, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "numba")
    outcome = seqdomains("genomics", "train", "--species", "great-apes", "--preset", "tiny", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "SEQDOMAINS_KERNELS" in outcome.error
    assert list(tmp_path.iterdir()) == []


def test_all_configuration_problems_at_once(seqdomains, tmp_path):
    outcome = seqdomains(
        *("genomics", "train", "--species", "great-apes", "--preset", "tiny", "--out", tmp_path / "run"),
        *("--set", "train.stps=3", "--set", "train.lr=fast", "--set", "data.window=1"),
    )
    assert outcome.code == 2
    assert "3 problems" in outcome.error
    keys = [line.split(":")[0].strip() for line in outcome.err.splitlines() if line.startswith("  ")]
    assert sorted(keys) == ["data.window", "train.lr", "train.stps"]


@pytest.mark.parametrize("arguments", [["genomics", "trian"], ["genomics", "train", "--steps", "3"], ["report"]])
def test_unknown_commands_and_options(seqdomains, arguments):
    outcome = seqdomains(*arguments)
    assert outcome.code == 2
    assert "Error: " in outcome.err
    assert "Traceback" not in outcome.err


@pytest.fixture
def artefact(run, tmp_path):
    return Path(shutil.copytree(run / "model", tmp_path / "artefact"))


@pytest.fixture
def reads(fasta):
    return fasta(x=300)


def test_truncated_artefact(predict, artefact, reads):
    weights = artefact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in predict(reads, model=artefact)


def test_artefact_with_weights_that_are_not_finite(predict, artefact, reads):
    weights = load_file(artefact / "model.safetensors")
    name = sorted(weights)[3]
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, artefact / "model.safetensors")
    error = predict(reads, model=artefact)
    assert name in error
    assert "finite" in error


@pytest.mark.parametrize("key", ["alphabet", "domain", "unit"])
def test_artefact_of_another_alphabet(predict, artefact, reads, key):
    config = json.loads((artefact / "config.json").read_text())
    config["signature"][key] = "something else"
    (artefact / "config.json").write_text(json.dumps(config))
    error = predict(reads, model=artefact)
    assert f"the artefact's {key} is 'something else'" in error


def test_artefact_with_an_unknown_key(predict, artefact, reads):
    config = json.loads((artefact / "config.json").read_text())
    config["colour"] = "blue"
    (artefact / "config.json").write_text(json.dumps(config))
    assert "colour" in predict(reads, model=artefact)


def test_language_model_is_no_classifier(predict, artefact, reads, tmp_path):
    signature = json.loads((artefact / "config.json").read_text())["signature"]
    MambaLM(MambaConfig(d_model=16, n_layer=1)).save_pretrained(tmp_path / "lm", signature=signature)
    assert "MambaLM" in predict(reads, model=tmp_path / "lm")


def test_model_that_is_none(predict, reads, tmp_path):
    assert "absent" in predict(reads, model=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "config.json" in predict(reads, model=tmp_path / "empty")


def test_run_without_a_model_yet(predict, run, reads, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run / "config.yaml", unfinished)
    assert "no trained model yet" in predict(reads, model=unfinished)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x\t0\t400\n", ["x:0-400", "line 1", "300 bp"]),
        ("z\t0\t10\n", ["'z'"]),
        ("x\t10\t10\n", ["line 1", "start 10 is not below end 10"]),
        ("x\tten\t20\n", ["line 1", "'ten'"]),
        ("", ["no region"]),
    ],
)
def test_bad_regions(predict, reads, tmp_path, line, words):
    bed = tmp_path / "regions.bed"
    bed.write_text(line)
    error = predict(reads, "--regions", bed)
    assert all(word in error for word in words), error


def test_every_checkpoint_damaged(seqdomains, run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    shutil.rmtree(copy / "model")
    for weights in (copy / "checkpoints").glob("*/model.safetensors"):
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
    outcome = seqdomains("genomics", "train", "--species", "great-apes", "--preset", "tiny", "--out", copy)
    assert outcome.code == 1
    assert "none of the checkpoints is whole" in outcome.error
    assert "step-00000015: model.safetensors has SHA-256" in outcome.err
    assert not (copy / "model").exists()


@contextlib.contextmanager
def ordinary_user():
    """Root may write anywhere, so it becomes somebody else for a while; anybody else stays who they are."""
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65534)
    except PermissionError:
        pytest.skip("root here can't become another user, and permissions don't hold root back")
    try:
        if not os.access(PRESETS, os.R_OK | os.X_OK, effective_ids=True):
            pytest.skip("the package lies in a folder that is closed to the ordinary user that root became")
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder():
    """pytest's own temporary folders are closed to other users."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_folder_without_write_permission(seqdomains, run, public_folder, monkeypatch):
    closed = public_folder / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    model, data = shutil.copytree(run / "model", public_folder / "model"), labelled(public_folder, "human", "bonobo")
    monkeypatch.setenv("SEQDOMAINS_CACHE", str(closed / "cache"))
    own = ("--data", data, "--label-from", "header:kind", "--preset", "barcode")
    apes = ("--species", "great-apes", "--preset", "tiny")
    for arguments, words in (
        (("predict", model, data, "-o", closed / "p.tsv"), ["p.tsv"]),
        (("predict", model, data, "-o", closed / "p.parquet"), ["p.parquet"]),
        (("train", *own, "--out", closed / "run"), ["cannot write the run folder"]),
        (("evaluate", model, *own[:4], "--out", closed / "scores"), ["scores"]),
        (("simulate", "--preset", "tiny", "--out", closed / "apes"), ["cannot write the simulation"]),
        (("train", *apes, "--out", public_folder / "run"), ["cannot write the cache folder", "SEQDOMAINS_CACHE"]),
    ):
        with ordinary_user():
            outcome = seqdomains("genomics", *arguments)
        assert outcome.code == 1
        assert all(word in outcome.error for word in [*words, str(closed), "Permission denied"]), outcome.err
    assert list(closed.iterdir()) == []
    assert not (public_folder / "run").exists()
