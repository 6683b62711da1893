"""simulate, train, evaluate, predict, report with the preset tiny, as a user types them."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.strict_yaml import load_yaml

APES = ["human", "chimpanzee", "bonobo", "gorilla", "orangutan"]


@pytest.fixture(scope="module")
def genomes(cache, tiny_run):
    (folder,) = [path for path in (cache / "simulated").iterdir() if path.is_dir()]
    return folder


def rows(text):
    header, *lines = text.splitlines()
    assert header.split("\t") == ["#record", "start", "end", "predicted", *(f"p_{name}" for name in APES)]
    return [line.split("\t") for line in lines]


def test_train_says_what_it_does_and_how_good_it_is(tiny_run):
    folder, outcome = tiny_run
    assert outcome.err.count("SIMULATED great apes") == 1
    assert "--data DIR" in outcome.err
    assert str(folder) in outcome.err
    for word in ("SIMULATED", "95 % interval", "chance", "k-mer baseline", "marker oracle", "share of the way"):
        assert word in outcome.out
    assert [
        line.split()[0] for line in outcome.out.splitlines() if line.split()[:1] and line.split()[0] in APES
    ] == APES
    assert f"run folder: {folder}" in outcome.out


def test_run_folder_holds_what_it_should(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "checkpoints", "model", "evaluation.json", "test_windows.bed"}
    assert (run / "model" / "model.safetensors").is_file()
    config = load_yaml((run / "config.yaml").read_text(), origin="config.yaml")
    assert config["train"]["steps"] == 20
    assert config["data"]["window"] == 256
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [5, 10, 15, 20]
    assert not [path for path in run.rglob("*") if path.name.endswith(".partial")]


def test_evaluation_has_the_promised_keys(run):
    result = json.loads((run / "evaluation.json").read_text())
    promised = "accuracy interval chance ceiling baseline classes confusion per_class windows simulated"
    assert set(promised.split()) <= set(result)
    assert result["classes"] == APES
    assert result["simulated"] is True
    assert np.sum(result["confusion"]) == result["windows"] == 40
    assert result["accuracy"] == np.trace(result["confusion"]) / 40
    assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]
    assert result["chance"] == 0.2


def test_repeated_train_finds_the_run_complete(seqdomains, tiny_run):
    folder, first = tiny_run
    before = (folder / "model" / "model.safetensors").read_bytes()
    again = seqdomains("genomics", "train", "--species", "great-apes", "--preset", "tiny", "--out", folder)
    assert again.code == 0
    assert again.out == first.out
    assert "complete" in again.err
    assert (folder / "model" / "model.safetensors").read_bytes() == before


def test_same_folder_with_another_configuration_is_refused(seqdomains, run):
    outcome = seqdomains(
        *("genomics", "train", "--species", "great-apes", "--preset", "tiny"), "--set", "train.lr=1e-4", "--out", run
    )
    assert outcome.code == 2
    assert "train.lr" in outcome.error


def test_evaluate_repeats_the_result(seqdomains, tiny_run):
    folder, trained = tiny_run
    before = (folder / "evaluation.json").read_text()
    outcome = seqdomains("genomics", "evaluate", folder)
    assert outcome.code == 0
    assert outcome.out == trained.out[: trained.out.index("run folder:")]
    assert (folder / "evaluation.json").read_text() == before


def test_simulated_genomes_are_data_like_any_other(seqdomains, genomes, run, tmp_path):
    """A folder with a FASTA per species, given as real assemblies would be, trains to the same weights."""
    outcome = seqdomains(
        *("genomics", "train", "--species", "great-apes", "--preset", "tiny"),
        "--data",
        genomes,
        "--out",
        tmp_path / "r",
    )
    assert outcome.code == 0
    assert "no assemblies" not in outcome.err
    weights = (tmp_path / "r" / "model" / "model.safetensors").read_bytes()
    assert weights == (run / "model" / "model.safetensors").read_bytes()


def test_simulate_writes_what_train_would_use(seqdomains, genomes, tmp_path):
    outcome = seqdomains("genomics", "simulate", "--preset", "tiny", "--out", tmp_path / "apes")
    assert outcome.code == 0
    assert outcome.out == ""
    for path in genomes.iterdir():
        assert (tmp_path / "apes" / path.name).read_bytes() == path.read_bytes()


def test_predict_to_stdout_in_input_order(seqdomains, run, fasta):
    first, second = fasta("b.fa", x=600, y=256), fasta("a.fa", z=512)
    outcome = seqdomains("genomics", "predict", run, first, second)
    assert outcome.code == 0
    table = rows(outcome.out)
    assert [row[:3] for row in table] == [
        ["x", "0", "256"],
        ["x", "256", "512"],
        ["y", "0", "256"],
        ["z", "0", "256"],
        ["z", "256", "512"],
    ]
    for row in table:
        shares = np.array(row[4:], dtype=float)
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert row[3] == APES[shares.argmax()]


def test_predict_window_and_stride(seqdomains, run, fasta):
    outcome = seqdomains("genomics", "predict", run, fasta(x=300), "--window", 100, "--stride", 50)
    starts = [int(row[1]) for row in rows(outcome.out)]
    assert starts == [0, 50, 100, 150, 200]
    assert all(int(row[2]) - int(row[1]) == 100 for row in rows(outcome.out))


def test_predict_regions(seqdomains, run, fasta, tmp_path):
    bed = tmp_path / "two.bed"
    bed.write_text("y\t10\t266\tfirst\nx\t0\t256\n")
    outcome = seqdomains("genomics", "predict", run, fasta(x=600, y=300), "--regions", bed)
    assert [row[:3] for row in rows(outcome.out)] == [["y", "10", "266"], ["x", "0", "256"]]


def test_predict_file_parquet_and_artefact_agree(seqdomains, run, fasta, tmp_path):
    reads = fasta(x=600)
    shown = seqdomains("genomics", "predict", run, reads)
    assert seqdomains("genomics", "predict", run / "model", reads, "-o", tmp_path / "p.tsv").code == 0
    assert (tmp_path / "p.tsv").read_text() == shown.out
    assert seqdomains("genomics", "predict", run, reads, "-o", tmp_path / "p.parquet").code == 0
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["record", "start", "end", "predicted", *(f"p_{name}" for name in APES)]
    for row, record in zip(rows(shown.out), table.to_pylist(), strict=True):
        assert [str(record[key]) for key in ("record", "start", "end", "predicted")] == row[:4]
        assert [record[f"p_{name}"] for name in APES] == pytest.approx([float(share) for share in row[4:]], abs=1e-6)


def test_predict_reads_stdin_and_keeps_stdout_clean(start, seqdomains, run, fasta):
    reads = fasta(x=600, y=300)
    with reads.open() as handle, start("genomics", "predict", run, "-", stdin=handle) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == seqdomains("genomics", "predict", run, reads).out


def test_short_record_among_others_is_skipped_with_exit_3(seqdomains, run, fasta):
    outcome = seqdomains("genomics", "predict", run, fasta(x=300, short=20))
    assert outcome.code == 3
    assert [row[0] for row in rows(outcome.out)] == ["x"]
    assert "'short' has 20 bp, less than the window of 256 bp" in outcome.err


def test_bad_file_among_others_is_skipped_with_exit_3(seqdomains, run, fasta, tmp_path):
    (tmp_path / "empty.fa").touch()
    outcome = seqdomains("genomics", "predict", run, tmp_path / "empty.fa", fasta(x=300))
    assert outcome.code == 3
    assert [row[0] for row in rows(outcome.out)] == ["x"]
    assert "empty.fa is empty" in outcome.err


def test_report_is_one_file_about_the_run(seqdomains, run):
    outcome = seqdomains("report", run)
    assert outcome.code == 0
    assert outcome.out == f"{run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert "simulated" in page.lower()
    assert all(name in page for name in APES)
    assert 'src="http' not in page
    assert 'href="http' not in page


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Three records of two classes, labelled in the header and by a table."""
    letters = np.random.default_rng(0).choice(list("ACGT"), size=(3, 400))
    folder = tmp_path_factory.mktemp("own")
    headers = [("r1", "spruce"), ("r2", "pine"), ("r3", "pine")]
    (folder / "refs.fa").write_text(
        "".join(f">{name} tree={label}\n{''.join(row)}\n" for (name, label), row in zip(headers, letters, strict=True))
    )
    (folder / "labels.tsv").write_text("".join(f"{name}\t{label}\n" for name, label in headers))
    return folder


def barcode(folder, out, *labels):
    sizes = [f"--set={key}" for key in ("train.steps=4", "train.batch=4", "model.d_model=16", "data.test_windows=10")]
    return ("genomics", "train", "--data", folder / "refs.fa", *labels, "--preset", "barcode", *sizes, "--out", out)


def test_own_labelled_data_by_header_or_table(seqdomains, own_data, tmp_path):
    by_header = seqdomains(*barcode(own_data, tmp_path / "a", "--label-from", "header:tree"))
    by_table = seqdomains(*barcode(own_data, tmp_path / "b", "--labels", own_data / "labels.tsv"))
    assert (by_header.code, by_table.code) == (0, 0)
    assert "SIMULATED" not in by_header.err + by_header.out
    results = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in "ab"]
    assert results[0] == results[1]
    assert results[0]["classes"] == ["pine", "spruce"]
    assert results[0]["simulated"] is False


def test_evaluate_on_other_labelled_data(seqdomains, own_data, tmp_path):
    seqdomains(*barcode(own_data, tmp_path / "run", "--label-from", "header:tree"))
    own = (tmp_path / "run" / "evaluation.json").read_text()
    for model in (tmp_path / "run", tmp_path / "run" / "model"):
        outcome = seqdomains(
            *("genomics", "evaluate", model, "--data", own_data / "refs.fa", "--label-from", "header:tree"),
            *("--set", "data.test_windows=7", "--out", tmp_path / f"scored-{model.name}"),
        )
        assert outcome.code == 0, outcome.err
        result = json.loads((tmp_path / f"scored-{model.name}" / "evaluation.json").read_text())
        assert result["windows"] == 14
        assert result["classes"] == ["pine", "spruce"]
        assert any("refs.fa" in note for note in result["notes"])
    assert (tmp_path / "run" / "evaluation.json").read_text() == own


def test_evaluate_puts_classes_in_the_models_order(seqdomains, run, tmp_path):
    letters = np.random.default_rng(0).choice(list("ACGT"), size=(2, 400))
    data = tmp_path / "two.fa"
    data.write_text(f">o kind=orangutan\n{''.join(letters[0])}\n>h kind=human\n{''.join(letters[1])}\n")
    outcome = seqdomains(
        *("genomics", "evaluate", run, "--data", data, "--label-from", "header:kind"),
        *("--set", "data.test_windows=5", "--out", tmp_path / "scored"),
    )
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    assert result["classes"] == APES
    assert np.array(result["confusion"]).sum(axis=1).tolist() == [5, 0, 0, 0, 5]
    assert result["baseline"] is None


def test_evaluate_on_a_single_class(seqdomains, run, fasta, tmp_path):
    (tmp_path / "labels.tsv").write_text("r1\tgorilla\nr2\tgorilla\n")
    outcome = seqdomains(
        *("genomics", "evaluate", run, "--data", fasta(r1=300, r2=400), "--labels", tmp_path / "labels.tsv"),
        *("--set", "data.test_windows=6", "--out", tmp_path / "scored"),
    )
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    assert np.array(result["confusion"]).sum(axis=1).tolist() == [0, 0, 0, 6, 0]


def test_a_dry_run_says_what_a_run_would_take_and_makes_nothing(seqdomains, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = seqdomains(
        *("genomics", "train", "--species", "great-apes", "--preset", "tiny", "--dry-run", "--device", "cpu"),
        *("--set", "train.batch=6", "--set", "train.time_chunk=64", "--set", "train.micro_batch=3"),
    )
    assert outcome.code == 0, outcome.err
    lines = dict(
        line.split(maxsplit=1) for line in outcome.out.splitlines() if line.startswith(("param", "memory", "time"))
    )
    model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=tuple("abcde"), pooling="mean")
    assert lines["parameters"] == f"{sum(one.numel() for one in model.parameters()):,} (with 5 classes)"
    assert "a step      6 windows of 256: 1,536 tokens" in outcome.out
    assert "at once     192 tokens on each device, fp32" in outcome.out
    assert re.match(r"about 0\.00\d+ of \d+(\.\d+)? GiB: ", lines["memory"])
    assert re.match(r"about \S+ s a step, \d+ s for 20 steps \(from one of 192 tokens\)", lines["time"])
    assert "not read" not in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_it_does_not_know(seqdomains, tmp_path):
    given = ("genomics", "train", "--preset", "tiny", "--dry-run", "--device", "cpu", "--label-from", "file")
    outcome = seqdomains(*given, "--data", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "(with 2 classes)" in outcome.out
    assert "The data were not read: there may be other than two classes." in outcome.out
    for command in ("train", "pretrain"):
        outcome = seqdomains("genomics", command, "--data", tmp_path / "absent.fa", "--dry-run", "--device", "cpu")
        assert outcome.code == 1
        assert "absent.fa does not exist" in outcome.err


@pytest.mark.parametrize("command", [("train", "--species", "great-apes", "--preset", "tiny"), ("pretrain",)])
def test_windows_that_no_simulated_chromosome_holds_are_refused_at_once(seqdomains, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for more in ((), ("--dry-run",)):
        outcome = seqdomains("genomics", *command, "--set", "data.window=134217728", "--device", "cpu", *more)
        assert outcome.code == 2
        assert "data.window: 134217728 bp are more than the simulated chromosomes have, about " in outcome.err
    assert list(tmp_path.iterdir()) == []
