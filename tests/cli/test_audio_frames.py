"""The audio commands on labels by time: a table of segments, frames, long files with carried state."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK = [
    *("--preset", "activity", "--device", "cpu", "--set", "train.steps=20", "--set", "train.batch=8"),
    *("--set", "model.d_model=16", "--set", "model.n_layer=1", "--set", "train.lr=1e-2"),
    *("--set", "data.synthesis={clips: 4, rate: 8000, speakers: 2}"),
]


@pytest.fixture(scope="module")
def trained(seqdomains, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "frames"
    outcome = seqdomains("audio", "train", *QUICK, "--out", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """25 s in which a tone comes and goes, at 16 kHz."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    time = np.arange(16_000 * 25) / 16_000
    sound = np.sin(2 * np.pi * 300 * time) * (np.sin(2 * np.pi * time / 3) > 0) / 4
    soundfile.write(path, sound + np.random.default_rng(0).normal(size=len(time)) / 200, 16_000)
    return path


def rows_of(path):
    with path.open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_the_bare_command_works_on_synthesized_words(seqdomains, trained):
    folder, outcome = trained
    assert "SYNTHESIZED" in outcome.err
    assert ", SIMULATED data" in outcome.out
    assert "energy threshold" in outcome.out
    result = json.loads((folder / "evaluation.json").read_text())
    assert (result["kind"], result["classes"]) == ("frames", ["background", "speech"])
    assert json.loads((folder / "model" / "config.json").read_text())["signature"]["activity"] == "speech"
    assert seqdomains("audio", "evaluate", folder).out == outcome.out.rpartition("run folder")[0]
    report = seqdomains("report", folder)
    assert report.code == 0, report.err
    assert "Confusion of frames" in (folder / "report.html").read_text()
    estimate = seqdomains("audio", "train", *QUICK, "--dry-run")
    assert "with 2 classes" in estimate.out


def test_a_long_file_with_carried_state_is_the_whole_file(seqdomains, trained, recording, tmp_path, monkeypatch):
    import torch

    from seqdomains.audio.files import read
    from seqdomains.audio.front_end import input_of
    from seqdomains.backbone import from_pretrained
    from seqdomains.pipelines import stream
    from seqdomains.pipelines.batch import segments

    loaded = from_pretrained(trained[0] / "model")
    given = input_of(loaded.signature)
    with torch.inference_mode():
        heard = given.encode(read(recording, rate=given.rate)[0])
        whole = loaded.model(torch.from_numpy(heard)[None]).double().softmax(-1)[0].numpy()
    monkeypatch.setattr(stream, "CHUNK", 700)
    monkeypatch.setattr(segments, "ON_CPU", 130)
    outcome = seqdomains("audio", "predict", trained[0], recording, "--frames", "-o", tmp_path / "f.tsv")
    assert outcome.code == 0, outcome.err
    rows = rows_of(tmp_path / "f.tsv")
    assert list(rows[0]) == ["#file", "channel", "start", "end", "predicted", "p_background", "p_speech"]
    found = np.array([[float(row["p_background"]), float(row["p_speech"])] for row in rows])
    np.testing.assert_allclose(found, whole, atol=1e-4)
    # The middle of a spectrum of 256 samples is 128 behind its beginning, and half a step of 80 before the border.
    assert [float(row["start"]) for row in rows[:3]] == [0.0, 0.021, 0.031]
    assert float(rows[-1]["end"]) == pytest.approx(25, abs=0.02)

    segments_of = seqdomains("audio", "predict", trained[0], recording, "--out", tmp_path / "s", "--format", "tsv")
    assert segments_of.code == 0, segments_of.err
    table = rows_of(tmp_path / "s" / "predictions.tsv")
    assert list(table[0]) == ["#file", "channel", "start", "end", "label", "probability"]
    said, heard_at = whole.argmax(axis=1), [float(row["end"]) - 0.001 for row in rows]
    for row in table:
        inside = np.array([float(row["start"]) < at < float(row["end"]) for at in heard_at])
        assert row["label"] == "speech"
        assert (said[inside] == 1).all()
        assert float(row["probability"]) == pytest.approx(whole[inside, 1].mean(), abs=1e-4)
        said[inside] = 0
    assert not said.any()
    assert "a row for each segment" in seqdomains("report", tmp_path / "s").out


def test_embed_and_finetune_go_out_from_its_backbone(seqdomains, trained, recording, tmp_path):
    vectors = seqdomains("audio", "embed", trained[0], recording, "--out", tmp_path / "v")
    assert vectors.code == 0, vectors.err
    made = seqdomains(
        *("audio", "synthesize", "--out", tmp_path / "w", "--set", "data.synthesis={clips: 3, rate: 8000, speakers: 2}")
    )
    assert made.code == 0, made.err
    (tmp_path / "w" / "words.tsv").write_text(
        "\n".join(["file\tstart\tend\tlabel", *(
            "\t".join(map(str, (row["audio_filepath"], *row["events"][0][:2], row["label"])))
            for row in map(json.loads, (tmp_path / "w" / "manifest.jsonl").read_text().splitlines())
        )])
    )  # fmt: skip
    (tmp_path / "w" / "manifest.jsonl").unlink()
    data = ("--data", tmp_path / "w", "--labels", tmp_path / "w" / "words.tsv", "--device", "cpu")
    tuned = seqdomains(
        *("audio", "finetune", trained[0], *data, "--set", "data.frames=true", "--out", tmp_path / "fine"),
        *("--set", "train.steps=2", "--set", "train.batch=2"),
    )
    assert tuned.code == 0, tuned.err
    assert len(json.loads((tmp_path / "fine" / "model" / "config.json").read_text())["classes"]) == 11
    # The model of activity takes the words for speech.
    scored = seqdomains("audio", "evaluate", trained[0], *data, "--out", tmp_path / "scored")
    assert scored.code == 0, scored.err
    assert json.loads((tmp_path / "scored" / "evaluation.json").read_text())["classes"] == ["background", "speech"]
    refused = seqdomains("audio", "evaluate", tmp_path / "fine", "--data", tmp_path / "w")
    assert refused.code == 1
    assert "30 of 30 clips have no segments" in refused.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--window", "1"), "--window: a model of frames reads each file as a whole"),
        (("--stride", "1"), "--stride: goes with --window"),
    ],
)
def test_what_frames_cannot_be_asked(seqdomains, trained, recording, options, words):
    outcome = seqdomains("audio", "predict", trained[0], recording, *options)
    assert outcome.code == 2
    assert words in outcome.error


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_model_of_both_sides_cannot_say_frames_as_it_hears(seqdomains, tmp_path, more):
    given = (*QUICK, "--set", "model.bidirectional=true", "--out", tmp_path / "run", *more)
    outcome = seqdomains("audio", "train", *given)
    assert outcome.code == 2
    assert "model.bidirectional" in outcome.error
    assert "a class for each frame is said as it is read; leave it off" in outcome.error
    assert not (tmp_path / "run").exists()


def test_a_batch_of_segments_is_not_gone_on_with_in_frames(seqdomains, trained, recording, tmp_path):
    batch = ("audio", "predict", trained[0], recording, "--out", tmp_path / "batch")
    assert seqdomains(*batch).code == 0
    outcome = seqdomains(*batch, "--frames")
    assert outcome.code == 2
    assert "--frames differs from no --frames of the plan" in outcome.err


def test_a_model_without_frames_has_no_rows_of_them(seqdomains, recording, tmp_path):
    import torch

    from seqdomains.audio.front_end import SoundInput
    from seqdomains.backbone import MambaConfig, SequenceClassifier

    config = MambaConfig(d_model=8, n_layer=1, vocab_size=256)
    model = SequenceClassifier(config, classes=("a", "b"), generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "m", signature={**SoundInput(rate=8000).signature(), "window": 800})
    outcome = seqdomains("audio", "predict", tmp_path / "m", recording, "--frames")
    assert outcome.code == 2
    assert "--frames: a row for each frame is what a model of frames says" in outcome.error


def test_a_bad_file_has_no_row(seqdomains, trained, recording, tmp_path):
    (tmp_path / "bad.wav").write_bytes(recording.read_bytes()[:1000])
    outcome = seqdomains("audio", "predict", trained[0], tmp_path / "bad.wav", recording, "-o", tmp_path / "o.tsv")
    assert outcome.code == 3
    assert "bad.wav is truncated" in outcome.err
    assert {row["#file"] for row in rows_of(tmp_path / "o.tsv")} == {str(recording)}
