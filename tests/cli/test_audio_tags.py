"""The audio commands on clips of several labels, and bad labels of such."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RATE = 8000
QUICK = [
    *("--set", "train.steps=3", "--set", "train.batch=4", "--set", "model.d_model=16", "--set", "model.n_layer=1"),
    *("--preset", "digits", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of two tones, or both, and a table of their labels."""
    folder = tmp_path_factory.mktemp("tags")
    time, lines = np.arange(RATE // 5) / RATE, ["filename,labels"]
    for number in range(12):
        names = [("low",), ("high",), ("low", "high")][number % 3]
        sound = sum(np.sin(2 * np.pi * {"low": 300, "high": 1500}[name] * time + number) for name in names) / 4
        soundfile.write(folder / f"{number}.wav", sound, RATE)
        lines.append(f"{number}.wav,{';'.join(names)}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(seqdomains, clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tags"
    outcome = seqdomains("audio", "train", "--data", clips / "clips.csv", *QUICK, "--out", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


def test_several_labels_are_recognised_and_said(seqdomains, trained):
    folder, outcome = trained
    assert "4 of 12 clips have several labels: each class is learnt by itself" in outcome.err
    assert "mean average precision" in outcome.out
    assert "MFCC + SVM" in outcome.out
    assert "note: A clip may have several labels: each class is judged by itself." in outcome.out
    again = seqdomains("audio", "evaluate", folder)
    assert again.out == outcome.out.rpartition("run folder")[0]
    report = seqdomains("report", folder)
    assert report.code == 0, report.err
    assert "Mean average precision" in (folder / "report.html").read_text()


def test_a_table_says_each_class_by_itself(seqdomains, trained, clips, tmp_path):
    outcome = seqdomains("audio", "predict", trained[0], clips, "-o", tmp_path / "said.tsv", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    with (tmp_path / "said.tsv").open() as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert list(rows[0]) == ["#file", "channel", "start", "end", "labels", "p_high", "p_low"]
    for row in rows:
        said = [name for name in ("high", "low") if float(row[f"p_{name}"]) >= 0.5]
        assert row["labels"] == ";".join(said)
    assert any(abs(float(row["p_high"]) + float(row["p_low"]) - 1) > 0.01 for row in rows)
    windows = seqdomains("audio", "predict", trained[0], clips, "--window", "0.1", "--out", tmp_path / "w")
    assert windows.code == 0, windows.err
    vectors = seqdomains("audio", "embed", trained[0], clips / "1.wav", "--out", tmp_path / "v")
    assert vectors.code == 0, vectors.err


def test_a_tagger_is_scored_on_clips_of_one_label(seqdomains, trained, clips, tmp_path):
    lines = [json.dumps({"path": str(clips / f"{number}.wav"), "label": "high"}) for number in (1, 4)]
    (tmp_path / "one.jsonl").write_text("\n".join(lines))
    outcome = seqdomains("audio", "evaluate", trained[0], "--data", tmp_path / "one.jsonl", "--out", tmp_path / "s")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("2 test clips of several labels\n")
    result = json.loads((tmp_path / "s" / "evaluation.json").read_text())
    assert result["classes"] == ["high", "low"]
    assert result["mean_average_precision"] is None
    assert "note: No test window has low: left out of the means." in outcome.out
    assert result["macro_f1"] == result["per_class"]["high"]["f1"]


def test_a_tagger_begins_from_the_backbone_of_another(seqdomains, trained, clips, tmp_path):
    data = ("--data", clips / "clips.csv", "--set", "train.steps=2", "--set", "train.batch=2", "--device", "cpu")
    outcome = seqdomains("audio", "finetune", trained[0], *data, "--head-only", "--out", tmp_path / "fine")
    assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "fine" / "model" / "config.json").read_text())
    assert config["architecture"] == "SequenceTagger"


def test_a_stated_separator_parts_a_table(seqdomains, trained, clips, tmp_path):
    names = ("low", "high", "low+high")
    (tmp_path / "table.tsv").write_text("".join(f"{number}.wav\t{names[number % 3]}\n" for number in range(12)))
    table = ("--data", clips, "--labels", tmp_path / "table.tsv", "--device", "cpu")
    outcome = seqdomains("audio", "evaluate", trained[0], *table, "--set", 'data.label_separator="+"')
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("12 test clips of several labels")
    whole = seqdomains("audio", "evaluate", trained[0], *table)
    assert whole.code == 1
    assert "the data has the class 'low+high', the model knows high, low" in whole.error


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("low;bark", "the data has the class 'bark', the model knows high, low"),
        ("low;;high", "line 2: an empty label ('') among those of 'low;;high': remove it or its separator"),
        ("low;low", "line 2: label 'low' stands twice in 'low;low': name each once"),
        ("", "line 2: label '': expected a name"),
    ],
)
def test_bad_labels_at_evaluate(seqdomains, trained, clips, tmp_path, labels, words):
    (tmp_path / "bad.csv").write_text(f"filename,labels\n{clips / '0.wav'},{labels}\n")
    outcome = seqdomains("audio", "evaluate", trained[0], "--data", tmp_path / "bad.csv", "--device", "cpu")
    assert outcome.code == 1
    assert words in outcome.error


def test_a_model_of_one_class_is_not_scored_on_several(seqdomains, clips, tmp_path):
    single = [f"{number}.wav,{name}" for number, name in ((0, "low"), (1, "high"), (3, "low"), (4, "high"))]
    (clips / "single.csv").write_text("\n".join(["filename,label", *single]) + "\n")
    trained = seqdomains("audio", "train", "--data", clips / "single.csv", *QUICK, "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    outcome = seqdomains("audio", "evaluate", tmp_path / "run", "--data", clips / "clips.csv", "--device", "cpu")
    assert outcome.code == 1
    assert "4 of 12 clips have several labels, first '2.wav' ('low' with 'high')" in outcome.error
    refused = seqdomains(
        *("audio", "train", "--data", clips / "clips.csv", *QUICK),
        *("--set", "data.tagging=false", "--out", tmp_path / "no"),
    )
    assert refused.code == 1
    assert "Give each clip one label" in refused.error
