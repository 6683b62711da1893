"""Bad input at the audio commands: sound of every kind and damage, labels that are missing or unknown."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from seqdomains.audio.files import read
from seqdomains.audio.front_end import SoundInput
from seqdomains.backbone import MambaConfig, SequenceClassifier

RATE = 16_000
TONE = (0.5 * np.sin(0.1 * np.arange(RATE))).astype(np.float32)
# Name, samples, rate, how they are written: all of these are read.
GOOD = {
    "16-bit.wav": (TONE, RATE, {}),
    "24-bit.wav": (TONE, RATE, {"subtype": "PCM_24"}),
    "8-channels.wav": (np.stack([TONE, *np.zeros((7, RATE), np.float32)], axis=1), RATE, {}),
    "8-kHz.wav": (TONE[:8000], 8000, {}),
    "96-kHz.wav": (TONE, 96_000, {}),
    "double.wav": (TONE, RATE, {"subtype": "DOUBLE"}),
    "flac-by-another-name.wav": (TONE, RATE, {"format": "FLAC"}),
    "float.wav": (TONE, RATE, {"subtype": "FLOAT"}),
    "one-sample.wav": (TONE[7:8], RATE, {}),
    "silent.wav": (0 * TONE, RATE, {}),
    "too-loud.wav": (4 * TONE, RATE, {"subtype": "FLOAT"}),
    "upper-case.WAV": (TONE, RATE, {"format": "WAV"}),
}
# What a person must be told of each of these.
BAD = {
    "empty.wav": ["is empty (0 bytes)", "copy or make it again"],
    "half.flac": ["truncated or damaged", "1.000 s"],
    "half.mp3": ["truncated or damaged", "1.000 s"],
    "half.ogg": ["is truncated", "copy or make it again"],
    "half.wav": ["is truncated", "of the 32000 bytes", "of 1.000 s"],
    "header-alone.wav": ["is truncated: 0 of the 32000 bytes"],
    "infinite.wav": ["frame 7000 (0.4375 s)", "inf"],
    "moved.wav": ["MP4", "ffmpeg"],
    "nan.wav": ["frame 7000 (0.4375 s)", "nan"],
    "no-frames.wav": ["has a header and no sound"],
    "one-of-96-kHz.wav": ["1 frames at 96000 Hz", "16000 Hz"],
    "text.wav": ["is not WAV", "'I am a text'"],
}


@pytest.fixture(scope="module", params=["mu-law", "waveform", "log-mel"])
def given(request):
    patch = {"mu-law": 1, "waveform": 16, "log-mel": 160}[request.param]
    return SoundInput(rate=RATE, codec=request.param, patch=patch, scale=1.0, shift=0.0)


def untrained(folder, given):
    """Write a classifier of a codec, with answers that differ."""
    config = MambaConfig(d_model=16, n_layer=1, vocab_size=256, features=given.features)
    generator = torch.Generator().manual_seed(0)
    model = SequenceClassifier(config, classes=("a", "b", "c"), pooling="both", generator=generator)
    with torch.no_grad():
        model.head.weight.mul_(5)
    model.save_pretrained(folder, signature=given.signature())
    return folder


@pytest.fixture(scope="module")
def model(given, tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("model"), given)


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    """One of them, where the codec is of no matter."""
    return untrained(tmp_path_factory.mktemp("coder"), SoundInput(rate=RATE))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """The folder of all of these files."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, (samples, rate, options) in GOOD.items():
        soundfile.write(folder / name, samples, rate, **options)
    whole = (folder / "16-bit.wav").read_bytes()
    (folder / "empty.wav").touch()
    (folder / "half.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "header-alone.wav").write_bytes(whole[:44])
    (folder / "moved.wav").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    (folder / "text.wav").write_text("I am a text\n")
    soundfile.write(folder / "no-frames.wav", TONE[:0], RATE)
    soundfile.write(folder / "one-of-96-kHz.wav", TONE[:1], 96_000)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        soundfile.write(folder / f"{name}.wav", np.where(np.arange(RATE) == 7000, value, TONE), RATE, subtype="FLOAT")
    for kind in ("flac", "mp3", "ogg"):
        soundfile.write(folder / f"half.{kind}", TONE, RATE)
        data = (folder / f"half.{kind}").read_bytes()
        (folder / f"half.{kind}").write_bytes(data[: len(data) // 2])
    return folder


def name_of(row, key="file"):
    return row[key].rsplit("/", 1)[1]


def errors_of(out):
    return [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]


def check_errors(errors):
    # First those that were found when the inputs were looked at, then those that were found in reading.
    assert sorted(name_of(error, "input") for error in errors) == sorted(BAD)
    for error in errors:
        assert all(word in error["reason"] for word in BAD[name_of(error, "input")]), error
        assert error["input"] in error["reason"]
        assert "\n" not in error["reason"]


def test_a_folder_of_all_of_them(seqdomains, model, given, sounds, tmp_path):
    outcome = seqdomains("audio", "predict", model, sounds, "--out", tmp_path / "out", "--device", "cpu")
    assert outcome.code == 3, outcome.err
    assert "Traceback" not in outcome.err
    check_errors(errors_of(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [name_of(row) for row in rows] == sorted(GOOD)
    classifier = SequenceClassifier.from_pretrained(model).eval()
    for row in rows:
        samples, rate, _ = GOOD[name_of(row)]
        assert (row["channel"], row["start"]) == ("mean", 0)
        assert row["end"] == pytest.approx(len(samples) / rate, abs=0.026)
        heard = given.encode(read(row["file"], rate=RATE)[0])
        with torch.no_grad():
            shares = classifier(torch.from_numpy(heard)[None]).softmax(-1)[0]
        np.testing.assert_allclose([row[f"p_{name}"] for name in "abc"], shares, atol=1e-4)
        assert row["predicted"] == "abc"[int(shares.argmax())]


def test_the_coding_of_a_sound_changes_next_to_nothing(seqdomains, model, sounds):
    names = ["16-bit.wav", "24-bit.wav", "double.wav", "float.wav", "flac-by-another-name.wav", "upper-case.WAV"]
    outcome = seqdomains("audio", "predict", model, *(sounds / name for name in names), "--device", "cpu")
    assert outcome.code == 0, outcome.err
    shares = np.array([line.split("\t")[5:] for line in outcome.out.splitlines()[1:]], float)
    np.testing.assert_allclose(shares - shares[0], 0, atol=0.02)


def test_windows_of_all_of_them(seqdomains, model, sounds, tmp_path):
    out = tmp_path / "out"
    outcome = seqdomains("audio", "predict", model, sounds, "--window", 0.25, "--out", out, "--device", "cpu")
    assert outcome.code == 3, outcome.err
    check_errors(errors_of(out))
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert sorted({name_of(row) for row in rows}) == sorted(GOOD)
    of_one = [row["start"] for row in rows if name_of(row) == "16-bit.wav"]
    assert of_one == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("name", sorted(BAD))
def test_one_bad_file_alone(seqdomains, coder, sounds, tmp_path, name):
    outcome = seqdomains("audio", "predict", coder, sounds / name, "-o", tmp_path / "a.tsv", "--device", "cpu")
    assert outcome.code == 1
    assert all(word in outcome.error for word in BAD[name]), outcome.error
    assert outcome.out == ""
    assert not (tmp_path / "a.tsv").exists()


def test_a_file_that_is_not_there(seqdomains, coder, sounds, tmp_path):
    outcome = seqdomains("audio", "predict", coder, tmp_path / "no.wav", sounds / "16-bit.wav", "--device", "cpu")
    assert outcome.code == 3
    assert "no.wav does not exist" in outcome.err
    assert len(outcome.out.splitlines()) == 2


def test_what_is_odd_is_told(start, coder, sounds, tmp_path):
    # Longer than what is computed at once, so that the model's state is carried.
    soundfile.write(tmp_path / "long-silence.wav", np.zeros(5 * RATE), RATE)
    names = ("8-kHz.wav", "flac-by-another-name.wav", "silent.wav")
    paths = [*(sounds / name for name in names), tmp_path / "long-silence.wav"]
    # A process of its own: such things are told once in each.
    with start("audio", "predict", coder, *paths, "--device", "cpu") as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 5
    assert "8-kHz.wav has 8000 Hz and the model reads 16000 Hz" in err
    assert "flac-by-another-name.wav is FLAC, though its name says WAV" in err
    assert "2 windows or files hold one value throughout" in err


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two clips each of two classes, by folder."""
    folder = tmp_path_factory.mktemp("labelled")
    for label in "ab":
        (folder / label).mkdir()
        for take in range(2):
            soundfile.write(folder / label / f"{label}_{take}.wav", TONE[: 4000 + take], RATE)
    return folder


@pytest.fixture
def told(seqdomains, coder, labelled, tmp_path):
    """Train and evaluate on data that will not do; returns the two error lines. Nothing may be left behind."""

    def check(*arguments, data=labelled, code=1):
        options = ("--data", data, *arguments, "--device", "cpu")
        runs, scored = tmp_path / "runs", tmp_path / "scored"
        train = seqdomains("audio", "train", "--preset", "words", *options, "--out", runs / "run")
        evaluate = seqdomains("audio", "evaluate", coder, *options, "--out", scored)
        assert (train.code, evaluate.code) == (code, code), train.err + evaluate.err
        assert train.out == evaluate.out == ""
        assert not runs.exists()
        assert not scored.exists()
        return train.error, evaluate.error

    return check


def test_labels_missing(told, tmp_path):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", TONE, RATE)
    for error in told(data=tmp_path):
        assert "3 of 3 clips have no label, first '0.wav'" in error
        assert "folder of its own" in error


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("a_0.wav\ta\na_1.wav\ta\nb_0.wav\tb\n", ["1 of 4 clips have no label", "'b/b_1.wav'"]),
        ("a_0.wav\ta\na_1.wav\ta\nb_0.wav\tb\nb_1.wav\tb\nc.wav\tb\n", ["1 files that are not there", "'c.wav'"]),
        ("a_0.wav\ta\na_0.wav\tb\n", ["line 2", "labelled 'a' and 'b'"]),
        ("a_0.wav a\n", ["line 1", "file<TAB>label"]),
    ],
)
def test_bad_tables_of_labels(told, tmp_path, table, words):
    (tmp_path / "labels.tsv").write_text(table)
    for error in told("--labels", tmp_path / "labels.tsv"):
        assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"audio_filepath": "a/a_1.wav"}, ["1 of 3 clips have no label", "'a/a_1.wav'"]),
        ({"audio_filepath": "a/a_1.wav", "label": ""}, ["line 3", "expected a name"]),
        ({"audio_filepath": "a/a_7.wav", "label": "a"}, ["1 of 3 files do not exist", "a_7.wav"]),
        ({"label": "a"}, ["line 3", "no file"]),
    ],
)
def test_bad_manifests(told, labelled, row, words):
    rows = [{"audio_filepath": f"{label}/{label}_0.wav", "label": label} for label in "ab"] + [row]
    manifest = labelled / "list.jsonl"
    manifest.write_text("".join(json.dumps(one) + "\n" for one in rows))
    for error in told(data=manifest):
        assert all(word in error for word in words), error


def test_names_without_a_class(told):
    for error in told("--label-from", "name:{label}-{take}"):
        assert "'a_0' is not of the form {label}-{take}" in error


def test_a_class_that_the_model_does_not_know(seqdomains, coder, labelled, tmp_path):
    (tmp_path / "labels.tsv").write_text("a_0.wav\ta\na_1.wav\ta\nb_0.wav\twhale\nb_1.wav\tb\n")
    outcome = seqdomains("audio", "evaluate", coder, "--data", labelled, "--labels", tmp_path / "labels.tsv")
    assert outcome.code == 1
    assert "'whale'" in outcome.error
    assert "a, b, c" in outcome.error


@pytest.mark.parametrize(
    ("classes", "words"),
    [("[a]", ["not among the wanted classes", "'b'"]), ("[a, b, c]", ["no clip of the wanted class 'c'"])],
)
def test_classes_that_the_data_do_not_have(seqdomains, labelled, tmp_path, classes, words):
    outcome = seqdomains(
        *("audio", "train", "--data", labelled, "--set", f"data.classes={classes}", "--out", tmp_path / "run")
    )
    assert outcome.code == 1
    assert all(word in outcome.error for word in words), outcome.error
    assert not (tmp_path / "run").exists()


def test_one_class_is_nothing_to_learn(seqdomains, labelled, tmp_path):
    outcome = seqdomains(
        "audio", "train", "--data", labelled / "a", "--label-from", "folder", "--out", tmp_path / "run"
    )
    assert outcome.code == 1
    assert "one class, 'a'" in outcome.error


def test_a_bad_clip_among_those_to_train_on(seqdomains, labelled, tmp_path):
    shutil.copytree(labelled, tmp_path / "data", ignore=shutil.ignore_patterns("*.jsonl"))
    (tmp_path / "data" / "b" / "b_9.wav").write_bytes(b"")
    options = ("audio", "train", "--preset", "audio-small", "--data", tmp_path / "data", "--out", tmp_path / "run")
    outcome = seqdomains(*options)
    assert outcome.code == 1
    assert "1 of 5 clips cannot be read" in outcome.error
    assert "b_9.wav is empty" in outcome.err
    sizes = ("train.steps=2", "train.batch=2", "model.d_model=16", "model.n_layer=1", "data.on_error=skip")
    outcome = seqdomains(*options, *(f"--set={size}" for size in sizes))
    assert outcome.code == 0, outcome.err
    assert "1 clips could not be read and are left out" in outcome.out


@pytest.mark.parametrize("memory_mb", [0, 1024])
def test_clips_that_cannot_be_decoded(seqdomains, labelled, tmp_path, memory_mb):
    """One on each side: both are named before a run begins, or left out of it and of every evaluation."""
    data = tmp_path / "data"
    shutil.copytree(labelled, data, ignore=shutil.ignore_patterns("*.jsonl"))
    samples = TONE.copy()
    samples[7000] = np.nan
    tested = ("a/a_1.wav", "b/b_1.wav", "b/nan.wav")
    for label in "ab":
        soundfile.write(data / label / "nan.wav", samples, RATE, subtype="FLOAT")
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.wav"))
    rows = [
        {"audio_filepath": name, "label": name[0], "split": "test" if name in tested else "train"} for name in names
    ]
    (data / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    sizes = ("train.steps=2", "train.batch=2", "model.d_model=16", "model.n_layer=1", f"data.memory_mb={memory_mb}")
    train = ("audio", "train", "--preset", "audio-small", "--data", data / "m.jsonl", "--out", run, "--device", "cpu")
    train = (*train, *(f"--set={size}" for size in sizes))
    stopped = seqdomains(*train)
    assert stopped.code == 1
    assert f"2 of {len(rows)} clips cannot be read" in stopped.error
    assert "a/nan.wav, channel 1, frame 7000" in stopped.err
    assert "b/nan.wav, channel 1, frame 7000" in stopped.err
    assert not run.exists()
    for command in (train, train, ("audio", "evaluate", run, "--device", "cpu")):
        skip = ("--set=data.on_error=skip",) if command is train else ()
        outcome = seqdomains(*command, *skip)
        assert outcome.code == 0, outcome.err
        assert "note: 2 clips could not be read and are left out." in outcome.out
        assert outcome.err.count("b/nan.wav") == 1
    other = ("audio", "evaluate", run, "--data", data / "m.jsonl", f"--set=data.memory_mb={memory_mb}")
    stopped = seqdomains(*other, "--device", "cpu")
    assert stopped.code == 1
    assert "b/nan.wav, channel 1, frame 7000" in stopped.err
    skipped = seqdomains(*other, "--set=data.on_error=skip", "--device", "cpu")
    assert skipped.code == 0, skipped.err
    assert "note: 2 clips could not be read and are left out." in skipped.out
