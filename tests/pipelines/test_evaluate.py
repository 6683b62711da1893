"""Evaluation and report: the pinned keys, the arithmetic behind them, one file that needs nothing else."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import binomtest

from seqdomains.errors import InputError
from seqdomains.pipelines.evaluate import EvaluateConfig, evaluate, summarise, wilson_interval
from seqdomains.pipelines.progress import progress_display
from seqdomains.pipelines.report import write_report
from seqdomains.pipelines.run_folder import RunFolder

PINNED = {
    "accuracy",
    "interval",
    "chance",
    "ceiling",
    "baseline",
    "classes",
    "confusion",
    "per_class",
    "windows",
    "simulated",
}


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    """A trained and evaluated toy run."""
    folder = tmp_path_factory.mktemp("runs") / "toy <run>"
    toy.toy_train(folder, toy.toy_config(steps=60))
    run = RunFolder(folder)
    evaluate(toy.ToyClassifier.from_pretrained(run.artefact), toy.ToyTask(), EvaluateConfig(), run, progress=False)
    return run


@pytest.mark.parametrize("trials", [1, 7, 200])
def test_wilson_interval_is_that_of_scipy(trials):
    for successes in {0, 1, trials // 3, trials}:
        expected = binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(trials + 1, trials)


def test_written_evaluation_has_the_pinned_keys_and_adds_up(run, toy):
    result = run.read_evaluation()
    assert result.keys() >= PINNED
    counts = np.array(result["confusion"])
    assert counts.sum() == result["windows"] == 50
    targets = np.concatenate([batch.targets for batch in toy.ToyTask().test_batches(7)])
    assert counts.sum(axis=1).tolist() == np.bincount(targets).tolist()
    assert result["accuracy"] == np.trace(counts) / 50
    assert result["interval"] == list(wilson_interval(int(np.trace(counts)), 50))
    assert result["chance"] == 1 / 3
    assert result["simulated"] is True
    assert result["share_of_the_way"] == pytest.approx((result["accuracy"] - 1 / 3) / (0.95 - 1 / 3))
    assert result["baseline"]["interval"] == list(wilson_interval(30, 50))
    assert (run.path / "test_windows.json").exists()


def test_evaluation_is_the_same_for_every_batch_size_and_every_time(run, toy):
    model = toy.ToyClassifier.from_pretrained(run.artefact).train()
    results = [evaluate(model, toy.ToyTask(), EvaluateConfig(batch_size=size), progress=False) for size in (32, 32, 7)]
    assert results[0] == results[1]
    assert results[0]["confusion"] == results[2]["confusion"]
    assert model.training


def test_class_without_windows_has_no_recall():
    counts = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    result = summarise(
        counts, ("a", "b", "c"), ceiling=1 / 3, baseline=None, cross_entropy=0.1, simulated=False, notes=()
    )
    assert result["per_class"]["c"] == {"windows": 0, "recall": None, "interval": None, "precision": None, "f1": None}
    assert result["macro_accuracy"] == pytest.approx((0.75 + 1) / 2)
    assert result["majority"] == pytest.approx(4 / 6)
    assert result["share_of_the_way"] is None
    json.dumps(result, allow_nan=False)


def test_other_classes_and_no_windows_are_refused(toy):
    model = toy.ToyClassifier()
    model.classes = ("x", "y")
    with pytest.raises(InputError, match="the model knows the classes x, y, the data has low, middle, high"):
        evaluate(model, toy.ToyTask(), EvaluateConfig(), progress=False)
    with pytest.raises(InputError, match="no test windows"):
        evaluate(toy.ToyClassifier(), toy.ToyTask(test_windows=0), EvaluateConfig(), progress=False)


class Page(HTMLParser):
    """Collects what a browser would fetch, the text, and unbalanced tags."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.fetched += [found[key] for key in ("src", "href", "xlink:href", "srcset") if key in found]
        self.fetched += ["script"] if tag in ("script", "link", "iframe") else []
        self.ids += [found["id"]] if "id" in found else []
        if tag not in ("meta", "link", "br", "hr", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "br", "hr", "img"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_report_is_one_file_that_needs_nothing_else(run):
    html = write_report(run).read_text()
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.fetched)
    assert all(address[1:] in page.ids for address in page.fetched if address.startswith("#"))
    assert "http" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_report_says_everything(run):
    html = write_report(run.path).read_text()
    result, text = run.read_evaluation(), html
    assert "SIMULATED" in text
    assert f"{result['accuracy']:.3f}" in text
    assert "windows &lt; 30 codes &amp; toys" in text
    assert "toy &lt;run&gt;" in text
    assert "<run>" not in text
    assert run.sessions()[0]["command"].split()[0] in text
    assert "checkpoint_every: 5" in text
    assert "code counts &lt;1-mer&gt;" in text
    assert sorted(path.name for path in run.figures.iterdir()) == ["accuracy.svg", "confusion.svg", "training.svg"]
    for path in run.figures.iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")  # noqa: S314 - written by this test
    assert write_report(run).read_text() == html


def test_report_of_a_run_that_has_only_begun(tmp_path):
    run = RunFolder.prepare(tmp_path / "run", {"train": {"steps": 3}})
    html = write_report(run).read_text()
    assert "Not evaluated yet" in html
    assert "No step has been logged yet" in html
    with pytest.raises(InputError, match="is no run folder"):
        write_report(tmp_path)


def test_progress_is_plain_lines_at_milestones_off_a_terminal(caplog):
    with caplog.at_level(logging.INFO), progress_display("train", total=4) as show:
        for step in range(1, 5):
            show(step, f"loss {step}", step % 2 == 0)
    assert [record.getMessage() for record in caplog.records] == ["train 2/4  loss 2", "train 4/4  loss 4"]


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_display("train", total=4, start=1) as show:
        show(3, "loss 0.5", True)
    assert "3/4" in capsys.readouterr().err


def test_groups_and_controls_stand_beside_the_result(toy, tmp_path):
    class Controlled(toy.ToyTask):
        def test_groups(self):
            count = sum(len(batch.targets) for batch in self.test_batches(8))
            return ["odd" if index % 2 else "even" for index in range(count)]

        def controls(self):
            return [{"name": "blind", "accuracy": 0.9, "training_windows": 5}]

    model = toy.ToyClassifier()
    run = RunFolder.prepare(tmp_path / "run", {})
    result = evaluate(model, Controlled(), EvaluateConfig(), run, progress=False)
    groups = result["groups"]
    assert list(groups) == ["even", "odd"]
    assert sum(part["windows"] for part in groups.values()) == result["windows"]
    right = sum(part["windows"] * part["accuracy"] for part in groups.values())
    assert right / result["windows"] == pytest.approx(result["accuracy"])
    (control,) = result["controls"]
    assert control["interval"][0] < 0.9 < control["interval"][1]
    html = write_report(run.path).read_text()
    assert "even (" in html
    assert "control: blind, above chance" in html
    assert "groups" not in evaluate(model, toy.ToyTask(), EvaluateConfig(), progress=False)
