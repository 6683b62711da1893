"""Streaming: what carried state says of a record is what one pass over it would say, in memory that does not grow."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.errors import InputError
from seqdomains.pipelines import stream as streaming
from seqdomains.pipelines.stream import RunningClassifier, stream

CLASSES = ("a", "b", "c")


def model(pooling="both"):
    config = MambaConfig(d_model=16, n_layer=2)
    built = SequenceClassifier(
        config, classes=CLASSES, pooling=pooling, generator=torch.Generator().manual_seed(0)
    ).eval()
    with torch.no_grad():  # answers that differ
        built.head.weight.mul_(30)
    return built


def tokens(length, seed=0):
    return np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)


def at_once(classifier, codes):
    with torch.inference_mode():
        return classifier(torch.from_numpy(codes)[None]).double().softmax(-1)[0].numpy()


def rows(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "#record\tstart\tend\tpredicted\tp_a\tp_b\tp_c"
    return [line.split("\t") for line in lines[1:]]


@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
@pytest.mark.parametrize("cuts", [[200], [1] * 30 + [170], [64, 0, 1, 135], [7] * 28 + [4]], ids=len)
@pytest.mark.parametrize("every", [1, 32, 199, 1000])
def test_answers_are_those_of_one_pass(pooling, cuts, every):
    classifier, codes = model(pooling), tokens(200)
    running = RunningClassifier(classifier, every=every, device=torch.device("cpu"))
    ends, answers, first = [], [], 0
    for cut in cuts:
        found, probabilities = running.read(codes[first : first + cut])
        ends += found.tolist()
        answers += list(probabilities)
        first += cut
    assert ends == list(range(every, 201, every))
    for end, answer in zip(ends, answers, strict=True):
        np.testing.assert_allclose(answer, at_once(classifier, codes[:end]), atol=1e-5)
    np.testing.assert_allclose(running.now(), at_once(classifier, codes), atol=1e-5)


def test_nothing_has_no_class():
    with pytest.raises(ValueError, match="nothing was read"):
        RunningClassifier(model(), every=4, device=torch.device("cpu")).now()


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_records_end_with_a_row_and_begin_anew(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    classifier = model()
    records = {"x": tokens(40, 1), "y": tokens(3, 2), "z": tokens(33, 3)}
    pieces = [(name, np.array_split(codes, 3)) for name, codes in records.items()]
    outcome = stream(classifier, [("toy", pieces)], tmp_path / "s.tsv", every=16, progress=False)
    found = rows(tmp_path / "s.tsv")
    expected = [("x", 16), ("x", 32), ("x", 40), ("y", 3), ("z", 16), ("z", 32), ("z", 33)]
    assert [(row[0], row[1], int(row[2])) for row in found] == [(name, "0", end) for name, end in expected]
    assert outcome.windows == len(expected)
    for row, (name, end) in zip(found, expected, strict=True):
        answer = at_once(classifier, records[name][:end])
        assert row[3] == CLASSES[answer.argmax()]
        np.testing.assert_allclose([float(share) for share in row[4:]], answer, atol=1e-5)


def test_a_bad_input_is_left_out_and_named(tmp_path):
    def breaking():
        yield "good", [tokens(40)]
        yield "bad", failing()

    def failing():
        yield tokens(10)
        raise InputError("bad.fa, line 3: '!'")

    inputs = [("bad.fa", breaking()), ("fine.fa", [("fine", [tokens(20)])])]
    outcome = stream(model(), inputs, tmp_path / "s.tsv", every=8, progress=False)
    assert [row[0] for row in rows(tmp_path / "s.tsv")] == ["fine"] * 3
    assert (outcome.windows, outcome.exit_code) == (3, 3)
    assert outcome.failures == (("bad.fa", "bad.fa, line 3: '!'"),)


def test_damaged_weights_are_no_fault_of_the_input(tmp_path):
    classifier = model()
    with torch.no_grad():
        classifier.head.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="logits that are not finite"):
        stream(classifier, [("toy", [("x", [tokens(9)])])], tmp_path / "s.tsv", every=4, progress=False)
    assert not (tmp_path / "s.tsv").exists()


def test_memory_does_not_grow_with_the_record(tmp_path):
    """Peak resident memory at 1 Mb and at 4 Mb, each in a process of its own."""
    program = textwrap.dedent("""
        import resource, sys
        import numpy as np
        import torch
        from seqdomains.backbone import MambaConfig, SequenceClassifier
        from seqdomains.pipelines.stream import stream

        model = SequenceClassifier(MambaConfig(d_model=16, n_layer=2), classes=("a", "b"))
        pieces = (np.full(100_000, k % 4, np.uint8) for k in range(int(sys.argv[1]) * 10))
        stream(model, [("toy", [("x", pieces)])], sys.argv[2], every=1 << 16, progress=False)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """)

    def peak(megabases):
        command = [sys.executable, "-c", program, str(megabases), str(tmp_path / f"{megabases}.tsv")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    short, long = peak(1), peak(4)
    assert len((tmp_path / "4.tsv").read_text().splitlines()) == 1 + 62
    assert long - short < 32 * 1024, (short, long)  # KiB; holding 3 Mb more would take 192 MiB at this width
