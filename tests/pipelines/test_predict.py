"""Prediction: every row in input order, whole outputs, and nobody's mistake ends another file's work."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import seqdomains
from seqdomains.errors import InputError
from seqdomains.pipelines.inference import Classifier
from seqdomains.pipelines.interrupts import StoppedError
from seqdomains.pipelines.predict import predict
from seqdomains.task import Span

CLASSES = ("a", "b")


class Mean(nn.Module):
    """Logits from the mean code; remembers its batches; runs out of memory above `fits` windows."""

    def __init__(self, fits: int = 1000) -> None:
        super().__init__()
        self.fits = fits
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, tokens, lengths=None):
        if len(tokens) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        self.shapes.append(tuple(tokens.shape))
        mean = tokens.float().mean(1)
        return torch.stack([mean, 2 - mean], dim=1)


def spans(name="r", lengths=(4, 4, 3, 4), seed=0):
    random = np.random.default_rng(seed)
    return [
        Span(name, 10 * place, 10 * place + length, random.integers(0, 4, length).astype(np.uint8))
        for place, length in enumerate(lengths)
    ]


def expected_rows(windows):
    for span in windows:
        mean = span.tokens.mean()
        share = 1 / (1 + np.exp(2 - 2 * mean))
        yield [
            span.record,
            str(span.start),
            str(span.end),
            "a" if share >= 0.5 else "b",
            f"{share:.6f}",
            f"{1 - share:.6f}",
        ]


def failing(windows, error):
    yield from windows
    raise error


def read_tsv(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "#record\tstart\tend\tpredicted\tp_a\tp_b"
    return [line.split("\t") for line in lines[1:]]


def test_rows_are_in_input_order_and_equal_lengths_share_a_batch(tmp_path):
    model, windows = Mean(), spans(lengths=[4, 3, 4, 5, 4, 3, 4] * 5)
    outcome = predict(model, CLASSES, [("x", windows)], tmp_path / "p.tsv", batch_size=16, progress=False)
    assert (outcome.windows, outcome.exit_code) == (35, 0)
    found, expected = read_tsv(tmp_path / "p.tsv"), list(expected_rows(windows))
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    np.testing.assert_allclose(
        [[float(p) for p in row[4:]] for row in found], [[float(p) for p in row[4:]] for row in expected], atol=2e-6
    )
    assert sorted(model.shapes, reverse=True) == [(16, 4), (10, 3), (5, 5), (4, 4)]


def test_parquet_holds_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("seqdomains.pipelines.tables._ROW_GROUP", 3)
    windows, more = spans(), spans("s", seed=1)
    for name in ("p.tsv", "p.parquet"):
        predict(Mean(), CLASSES, [("x", windows), ("y", more)], tmp_path / name, batch_size=3, progress=False)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["record", "start", "end", "predicted", "p_a", "p_b"]
    rows = [
        [*map(str, row[:4]), *(f"{p:.5f}" for p in row[4:])] for row in zip(*table.to_pydict().values(), strict=True)
    ]
    tsv = [[*row[:4], *(f"{float(p):.5f}" for p in row[4:])] for row in read_tsv(tmp_path / "p.tsv")]
    assert rows == tsv
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.parquet", "p.tsv"]


@pytest.mark.parametrize("name", ["p.tsv", "p.parquet"])
@pytest.mark.parametrize(
    "error", [InputError("b.fa, line 7: bad"), OSError("Input/output error"), EOFError("truncated")]
)
def test_bad_input_is_left_out_whole_and_recorded(tmp_path, name, error, caplog):
    inputs = [("a.fa", spans("a")), ("b.fa", failing(spans("b", [4] * 40), error)), ("c.fa", spans("c"))]
    outcome = predict(Mean(), CLASSES, inputs, tmp_path / name, batch_size=2, progress=False)
    assert outcome.exit_code == 3
    assert [source for source, _ in outcome.failures] == ["b.fa"]
    assert str(error) in outcome.failures[0][1]
    assert [record.message.count("b.fa") for record in caplog.records] == [1]
    if name == "p.tsv":
        records = [row[0] for row in read_tsv(tmp_path / name)]
    else:
        records = pq.read_table(tmp_path / name)["record"].to_pylist()
    assert records == ["a"] * 4 + ["c"] * 4
    assert outcome.windows == 8


def test_bad_input_may_stop_everything(tmp_path):
    inputs = [("a.fa", spans("a")), ("b.fa", failing([], InputError("b.fa: bad")))]
    with pytest.raises(InputError, match="bad"):
        predict(Mean(), CLASSES, inputs, tmp_path / "p.tsv", on_error="stop", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_no_good_input_is_an_error_and_no_file(tmp_path):
    for name in ("p.tsv", "p.parquet"):
        with pytest.raises(InputError, match="bad"):
            predict(
                Mean(), CLASSES, [("b.fa", failing(spans(), InputError("b.fa: bad")))], tmp_path / name, progress=False
            )
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_are_all_bad_are_told_once(tmp_path, caplog):
    inputs = [(name, failing(spans(), InputError(f"{name}: bad"))) for name in ("a.fa", "b.fa")]
    with pytest.raises(InputError, match=r"no input can be read:\na\.fa: bad\nb\.fa: bad$"):
        predict(Mean(), CLASSES, inputs, tmp_path / "p.tsv", progress=False)
    assert caplog.records == []


def test_error_of_the_model_is_no_bad_input(tmp_path):
    class Broken(Mean):
        def forward(self, tokens, lengths=None):
            return super().forward(tokens) * float("nan")

    with pytest.raises(InputError, match="not finite"):
        predict(Broken(), CLASSES, [("x", spans())], tmp_path / "p.parquet", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_rows_on_stdout_stand_when_their_input_fails_later(capsys, caplog):
    inputs = [("b.fa", failing(spans("b", [4] * 8), InputError("bad"))), ("c.fa", spans("c"))]
    outcome = predict(Mean(), CLASSES, inputs, "-", batch_size=2, progress=False)
    assert outcome.windows == len(capsys.readouterr().out.splitlines()) - 1 == 12
    assert "8 windows before the error are out already" in caplog.text


def test_reader_that_leaves_early_is_no_error():
    """As `predict ... | head -1`: no traceback, no complaint at the interpreter's end."""
    script = textwrap.dedent("""
        import numpy, torch
        from seqdomains.pipelines.predict import predict
        from seqdomains.task import Span
        class Zero(torch.nn.Module):
            def forward(self, tokens, lengths=None):
                return torch.zeros(len(tokens), 2)
        spans = (Span("r", n, n + 4, numpy.zeros(4, numpy.uint8)) for n in range(200_000))
        outcome = predict(Zero(), ("a", "b"), [("x", spans)], "-", batch_size=64, progress=False)
        assert outcome.reader_left and outcome.windows < 200_000
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(seqdomains.__file__).parents[1])},
    )
    assert process.stdout.readline().startswith(b"#record")
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(timeout=60), err) == (0, b"")


def test_signal_ends_in_order_and_leaves_no_file(tmp_path):
    def interrupted():
        for number, span in enumerate(spans(lengths=[4] * 500)):
            if number == 100:
                os.kill(os.getpid(), signal.SIGTERM)
            yield span

    with pytest.raises(StoppedError) as caught:
        predict(Mean(), CLASSES, [("x", interrupted())], tmp_path / "p.tsv", batch_size=4, progress=False)
    assert caught.value.exit_code == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["p.tsv", "p.parquet"])
def test_output_that_cannot_be_written(tmp_path, name):
    with pytest.raises(InputError, match=f"cannot write .*{name}: No such file or directory"):
        predict(Mean(), CLASSES, [("x", spans())], tmp_path / "missing" / name, progress=False)


def test_output_into_a_pipe_is_written_in_place(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["/bin/cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        predict(Mean(), CLASSES, [("x", spans())], pipe, progress=False)
        assert len(reader.stdout.read().splitlines()) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_batch_is_halved_when_memory_runs_out(caplog):
    model = Mean(fits=3)
    tokens = torch.arange(40).reshape(10, 4) % 3
    classifier = Classifier(model, device=torch.device("cpu"), batch_size=8)
    found = classifier.probabilities(tokens)
    np.testing.assert_array_equal(
        found, Classifier(Mean(), device=torch.device("cpu"), batch_size=10).probabilities(tokens)
    )
    assert model.shapes == [(2, 4)] * 5
    assert "8 windows of 4 tokens do not fit into the memory; trying 4" in caplog.text
    with pytest.raises(InputError, match="one window of 4 tokens does not fit"):
        Classifier(Mean(fits=0), device=torch.device("cpu"), batch_size=2).probabilities(tokens)


def test_constant_memory_reads_no_further_than_a_few_batches_ahead(tmp_path):
    """Spans are made one by one; when the first row is computed, only the look-ahead may have been made."""
    made, seen = [], []

    def source():
        for span in spans(lengths=[4] * 1000):
            made.append(span)
            yield span

    class Watch(Mean):
        def forward(self, tokens, lengths=None):
            seen.append(len(made))
            return super().forward(tokens)

    predict(Watch(), CLASSES, [("x", source())], tmp_path / "p.tsv", batch_size=8, progress=False)
    # a chunk of 4 batches in work, one waiting, one being filled
    assert max(late - 32 * (turn // 4) for turn, late in enumerate(seen)) <= 4 * 32


@pytest.mark.parametrize("name", ["p.tsv", "p.parquet"])
def test_full_disk_leaves_no_file(tmp_path, name):
    """A limit on the file size fails in the middle of a write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(InputError, match=f"cannot write .*{name}: File too large"):
            predict(Mean(), CLASSES, [("x", spans(lengths=[4] * 2000))], tmp_path / name, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
