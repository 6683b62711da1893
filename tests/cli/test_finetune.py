"""`seqdomains genomics finetune`: from a language model or a classifier to classes of the user's own sequences."""

from __future__ import annotations

import json

import numpy as np
import pytest

QUICK = ("--set", "train.steps=3", "--set", "train.batch=4", "--device", "cpu")


def letters(length, seed):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """An untrained language model of windows of 128 bp."""
    import torch

    from seqdomains.backbone import MambaConfig, MambaLM
    from seqdomains.genomics.alphabet import SIGNATURE

    folder = tmp_path_factory.mktemp("models") / "lm"
    model = MambaLM(MambaConfig(d_model=16, n_layer=2), generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder, signature={**SIGNATURE, "window": 128})
    return folder


@pytest.fixture
def table(tmp_path):
    """Sixty sequences of 20 to 149 bp; class y has more G and C."""
    random = np.random.default_rng(0)
    rows = ["name,sequence,label,gene"]
    for number in range(60):
        p = (0.1, 0.4, 0.4, 0.1) if number % 3 == 0 else (0.4, 0.1, 0.1, 0.4)
        text = "".join(random.choice(list("ACGT"), random.integers(20, 150), p=p))
        rows.append(f"s{number},{text},{'yxx'[number % 3]},g{number // 6}")
    path = tmp_path / "all.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("head_only", [False, True], ids=["all of it", "its head"])
@pytest.mark.parametrize("kind", ["language model", "classifier"])
def test_a_table_is_learnt_from(seqdomains, language_model, artefact, table, tmp_path, kind, head_only):
    from safetensors.torch import load_file

    model = language_model if kind == "language model" else artefact
    more = ("--head-only",) if head_only else ()
    given = ("genomics", "finetune", model, "--data", table, *QUICK, *more, "--out", tmp_path / "run")
    outcome = seqdomains(*given)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("12 test records\n")
    assert "macro F1" in outcome.out
    assert "Classes are unequal: 32 records of x to train on, 16 of y" in outcome.out
    before = load_file(model / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    backbone = [name for name in before if name.startswith("backbone.")]
    assert all((before[name] == after[name]).all() for name in backbone) == head_only
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["classes"], config["signature"]["window"]) == (["x", "y"], 128 if model == language_model else 256)
    again = seqdomains(*given)
    assert (again.code, again.out) == (0, outcome.out)
    assert seqdomains("genomics", "evaluate", tmp_path / "run").out == outcome.out.rpartition("run folder")[0]


def test_a_model_of_both_strands_and_sides_is_tuned_too(seqdomains, table, tmp_path):
    import torch

    from seqdomains.backbone import MambaConfig, MambaLM
    from seqdomains.genomics.alphabet import COMPLEMENT, SIGNATURE

    sizes = MambaConfig(d_model=8, n_layer=1, bidirectional=True, complement=tuple(COMPLEMENT.tolist()))
    model = MambaLM(sizes, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "lm", signature={**SIGNATURE, "window": 64})
    given = ("genomics", "finetune", tmp_path / "lm", "--data", table, *QUICK, "--set", "strands=both")
    outcome = seqdomains(*given, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["model"]
    assert config["bidirectional"]
    assert config["complement"][:4] == [3, 2, 1, 0]
    assert seqdomains("genomics", "evaluate", tmp_path / "run").code == 0


@pytest.fixture(scope="module")
def tuned(seqdomains, language_model, tmp_path_factory):
    """A run on whole records that has learnt to tell A from C."""
    folder = tmp_path_factory.mktemp("tuned")
    path = folder / "all.tsv"
    rows = [f"{'AC'[n % 2] * (30 + n)}\t{'ac'[n % 2]}" for n in range(40)]
    path.write_text("\n".join(["seq\tclass", *rows]) + "\n")
    outcome = seqdomains(
        "genomics", "finetune", language_model, "--data", path, "--sequence-column", "seq", "--label-from",
        "column:class", "--set", "train.steps=30", "--set", "train.lr=0.02", "--set", "train.backbone_lr_scale=0.1",
        "--set", "data.reverse_complement=0", "--out", folder / "run", "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return folder / "run", outcome


def test_it_learns(tuned):
    assert json.loads((tuned[0] / "evaluation.json").read_text())["accuracy"] == 1


def test_short_records_are_predicted_and_embedded(seqdomains, tuned, tmp_path):
    path = tmp_path / "short.fa"
    path.write_text(f">one\n{'A' * 40}\n>two\n{'C' * 9}\n>three\n{'A' * 300}\n")
    outcome = seqdomains("genomics", "predict", tuned[0], path, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    rows = [line.split("\t")[:4] for line in outcome.out.splitlines()[1:]]
    assert rows == [
        ["one", "0", "40", "a"],
        ["two", "0", "9", "c"],
        ["three", "0", "128", "a"],
        ["three", "128", "256", "a"],
    ]
    out = tmp_path / "batch"
    batch = seqdomains("genomics", "predict", tuned[0], path, "--out", out, "--format", "tsv", "--device", "cpu")
    assert batch.code == 0, batch.err
    assert [line.split("\t")[1:5] for line in (out / "predictions.tsv").read_text().splitlines()[1:]] == rows
    embedded = seqdomains("genomics", "embed", tuned[0], path, "--out", tmp_path / "vectors", "--device", "cpu")
    assert (embedded.code, embedded.out.rpartition(": ")[2]) == (0, "4 rows\n")


def test_a_run_is_scored_on_other_tables(seqdomains, tuned, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text(f"sequence,label\n{'A' * 50},a\n{'C' * 20},c\n{'A' * 200},a\n")
    for model in (tuned[0], tuned[0] / "model"):
        outcome = seqdomains("genomics", "evaluate", model, "--data", path, "--device", "cpu")
        assert outcome.code == 0, outcome.err
        assert "3 test records" in outcome.out
        assert "scored 3 windows; now a reference and a ceiling, where there are any" in outcome.err
        assert "accuracy          1.000" in outcome.out
        assert "to train on" not in outcome.out


def test_files_and_columns_say_what_is_held_out(seqdomains, language_model, table, tmp_path):
    test = tmp_path / "test.csv"
    test.write_text("sequence,label\n" + "".join(f"{letters(50, n)},{'xy'[n % 2]}\n" for n in range(6)))
    given = ("genomics", "finetune", language_model, "--data", table, *QUICK)
    outcome = seqdomains(*given, "--test", test, "--out", tmp_path / "files")
    assert (outcome.code, outcome.out[:14]) == (0, "6 test records"), outcome.err
    outcome = seqdomains(*given, "--set", "data.group=column:gene", "--out", tmp_path / "groups")
    assert (outcome.code, outcome.out[:15]) == (0, "12 test records"), outcome.err


def test_fasta_is_learnt_from_too(seqdomains, language_model, tmp_path):
    for kind in "xy":
        folder = tmp_path / "classes" / kind
        folder.mkdir(parents=True)
        (folder / "all.fa").write_text("".join(f">r{n}\n{letters(60 + n, ord(kind) + n)}\n" for n in range(5)))
    given = ("genomics", "finetune", language_model, "--data", tmp_path / "classes", "--label-from", "folder", *QUICK)
    outcome = seqdomains(*given, "--out", tmp_path / "windows")
    assert outcome.code == 1
    assert "window of 128 bp is longer than every contig" in outcome.error
    assert "data.unit to record" in outcome.error
    outcome = seqdomains(*given, "--set", "data.unit=record", "--out", tmp_path / "records")
    assert (outcome.code, outcome.out[:14]) == (0, "2 test records"), outcome.err
    small = ("--set", "data.window=16", "--set", "data.test_windows=5")
    outcome = seqdomains(*given, *small, "--out", tmp_path / "windows")
    assert (outcome.code, outcome.out[:15]) == (0, "10 test windows"), outcome.err


def test_training_from_scratch_reads_tables_too(seqdomains, table, tmp_path):
    given = ("genomics", "train", "--preset", "tiny", "--data", table, *QUICK, "--out", tmp_path / "run")
    outcome = seqdomains(*given)
    assert (outcome.code, outcome.out[:15]) == (0, "12 test records"), outcome.err
    outcome = seqdomains("genomics", "train", "--data", table, *QUICK, "--out", tmp_path / "preset")
    assert (outcome.code, outcome.out[:15]) == (0, "12 test records"), outcome.err
    assert "preset sequences" in outcome.err


def test_a_dry_run_writes_nothing(seqdomains, language_model, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    outcome = seqdomains("genomics", "finetune", language_model, "--data", table, *QUICK, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "parameters" in outcome.out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, ["nothing to train on", "--data CSV with columns sequence and label"]),
        (("--data", "TABLE", "--set", "model.d_model=8"), 2, ["model.d_model is that of the model"]),
        (
            ("--data", "TABLE", "--head-only", "--set", "train.backbone_lr_scale=0.1"),
            2,
            ["train.backbone_lr_scale: 0.1 is for a backbone that learns", "--head-only"],
        ),
        (("--data", "TABLE", "--preset", "hg38"), 2, ["hg38: is for `seqdomains genomics pretrain`; here there are"]),
        (("--data", "TABLE", "--label-from", "label"), 2, ["data.label_from", "column:NAME of a table"]),
        (("--data", "TABLE", "--label-from", "column:kind"), 1, ["line 1: no column 'kind'", "'gene'"]),
        (("--data", "TABLE", "--sequence-column", "seq"), 1, ["no column 'seq'", "'sequence'"]),
        (("--data", "TABLE", "--test", "TABLE"), 1, ["among the data and among the test data"]),
        (("--data", "TABLE", "--test", "gone.csv"), 1, ["gone.csv does not exist"]),
        (("--data", "TABLE", "--set", "data.split=given"), 2, ["data.split: given needs data.test_paths"]),
        (("--data", "TABLE", "--label-from", "column:gene", "--set", "data.split=group"), 2, ["group is not set"]),
    ],
)
def test_bad_commands_and_data(seqdomains, language_model, table, tmp_path, arguments, code, words):
    named = [str(table) if word == "TABLE" else word for word in arguments]
    outcome = seqdomains("genomics", "finetune", language_model, *named, *QUICK, "--out", tmp_path / "run")
    assert outcome.code == code, outcome.err
    assert all(word in outcome.error for word in words), outcome.error
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_alphabet_is_refused(seqdomains, table, tmp_path):
    from seqdomains.backbone import MambaConfig, MambaLM
    from seqdomains.genomics.alphabet import SIGNATURE

    model = MambaLM(MambaConfig(d_model=8, n_layer=1))
    model.save_pretrained(tmp_path / "other", signature={**SIGNATURE, "alphabet": "ACGT"})
    large = MambaLM(MambaConfig(d_model=8, n_layer=1, vocab_size=32))
    large.save_pretrained(tmp_path / "large", signature=SIGNATURE)
    for folder, words in (("other", "the artefact's alphabet is 'ACGT'"), ("large", "knows 32 codes, and DNA has 16")):
        outcome = seqdomains("genomics", "finetune", tmp_path / folder, "--data", table, *QUICK)
        assert outcome.code == 1
        assert words in outcome.error
