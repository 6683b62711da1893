"""Clips as a task: samples by counter, test clips whole, bad files by the declared policy."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from seqdomains.audio.clip_task import ClipTask
from seqdomains.audio.code_task import CodeTask
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.synthesis import SynthesisConfig, synthesize
from seqdomains.errors import ConfigError, InputError

PATTERN = "name:{label}_{speaker}_{take}"
CODES = SoundInput(rate=8000)
PATCHES = SoundInput(rate=8000, codec="waveform", patch=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, two speakers, four takes each, of 0.1 to 0.4 s."""
    folder = tmp_path_factory.mktemp("clips")
    for label, pitch in (("low", 300), ("high", 1200)):
        for speaker, shift in (("ann", 1.0), ("bob", 1.1)):
            for take in range(4):
                time = np.arange(800 * (take + 1), dtype=np.float32) / 8000
                write_wav(folder / f"{label}_{speaker}_{take}.wav", np.sin(2 * np.pi * pitch * shift * time) / 4, 8000)
    return folder


def task(folder, given=CODES, **options):
    options = {"held": {"take": ("0", "3")}, "seconds": 0.25} | options
    return ClipTask(ClipData(paths=(folder,), label_from=PATTERN, **options), given)


@pytest.mark.parametrize("given", ["manifest.jsonl", ""])
def test_synthesized_clips_are_told_as_such_wherever_they_are_given(folder, tmp_path, given):
    synthesize(SynthesisConfig(kind="tones", clips=12, rate=8000), tmp_path / "sounds")
    data = ClipData(paths=(tmp_path / "sounds" / given,), seconds=0.1)
    assert ClipTask(data, CODES).simulated
    assert CodeTask(data, CODES).simulated
    assert not task(folder).simulated


def test_a_sample_is_a_function_of_seed_and_index(folder):
    found = task(folder, speed=0.1, gain=6.0, noise=(10.0, 40.0))
    whole = found.training_batch(7, 0, 20)
    parts = [found.training_batch(7, first, 5) for first in (0, 5, 10, 15)]
    np.testing.assert_array_equal(whole.tokens, np.concatenate([part.tokens for part in parts]))
    np.testing.assert_array_equal(whole.lengths, np.concatenate([part.lengths for part in parts]))
    assert not np.array_equal(whole.tokens, found.training_batch(8, 0, 20).tokens)
    assert whole.tokens.dtype == np.uint8
    assert whole.tokens.shape == (20, 2000)


def test_mixtures_are_functions_of_seed_and_index(folder):
    given = {"speed": 0.1, "gain": 6.0, "noise": (10.0, 40.0)}
    found = task(folder, PATCHES, mixup=0.5, **given)
    whole = found.training_batch(7, 0, 200)
    parts = [found.training_batch(7, first, 50) for first in (0, 50, 100, 150)]
    np.testing.assert_array_equal(whole.tokens, np.concatenate([part.tokens for part in parts]))
    np.testing.assert_array_equal(whole.targets, np.concatenate([part.targets for part in parts]))
    assert whole.targets.shape == (200, 2)
    np.testing.assert_allclose(whole.targets.sum(axis=1), 1, rtol=1e-6)
    # Half are mixed, and half of these with a clip of the other class.
    between = ((whole.targets > 0) & (whole.targets < 1)).any(axis=1)
    assert between.mean() == pytest.approx(0.25, abs=0.1)
    assert ((whole.targets[between] > 0.1) & (whole.targets[between] < 0.9)).all()
    # A sample that is not mixed is what it was.
    plain = task(folder, PATCHES, **given).training_batch(7, 0, 200)
    same = (whole.tokens == plain.tokens).all(axis=(1, 2))
    assert same.mean() == pytest.approx(0.5, abs=0.12)
    np.testing.assert_array_equal(whole.targets[same].argmax(axis=1), plain.targets[same])
    assert plain.targets.dtype == np.int64


def test_a_mixture_is_the_sum_of_its_sounds(folder):
    alone = {"seconds": 0.1, "balanced": False}
    given = SoundInput(rate=8000, codec="waveform", patch=8, scale=1.0)
    found = task(folder, given, mixup=1.0, mixup_alpha=1.0, **alone).training_batch(5, 0, 100)
    for row, length, target in zip(found.tokens, found.lengths, found.targets, strict=True):
        heard = np.abs(np.fft.rfft(row[:length].ravel() * np.hanning(length * 8)))
        low, high = heard[20:60].sum(), heard[80:160].sum()
        # Classes are in the order high, low; the tones are as loud as one another.
        assert high / (low + high) == pytest.approx(target[0], abs=0.12)


def test_only_classes_are_mixed(folder):
    data = ClipData(paths=(folder,), seconds=0.1, mixup=0.5)
    with pytest.raises(ConfigError, match=r"data\.mixup: mixes clips and their classes, which are not asked for here"):
        CodeTask(data, CODES)


def test_short_clips_are_padded_behind_their_end(folder):
    batch = task(folder).training_batch(0, 0, 50)
    for row, length in zip(batch.tokens, batch.lengths, strict=True):
        assert (row[length:] == 128).all()
    assert set(batch.lengths.tolist()) == {1600, 2000}


def test_a_shorter_window_is_another_part(folder):
    batch = task(folder, PATCHES).training_batch(0, 0, 6, window=50)
    assert batch.tokens.shape == (6, 50, 8)
    assert batch.tokens.dtype == np.float32
    assert (batch.lengths == 50).all()


def test_real_numbers_have_the_deviation_of_the_training_clips(folder):
    found = task(folder, PATCHES)
    rows = np.concatenate([batch.tokens.ravel() for batch in found.test_batches(1)])
    assert rows.std() == pytest.approx(1, abs=0.05)
    assert found.signature()["input"]["scale"] == found.input.scale
    assert found.signature()["window"] == 250


def test_test_clips_are_whole_and_in_order(folder, tmp_path):
    found = task(folder)
    batches = list(found.test_batches(3))
    assert [len(batch.targets) for batch in batches] == [3, 3, 2]
    lengths = np.concatenate([batch.lengths for batch in batches])
    assert sorted(lengths.tolist()) == [800] * 4 + [3200] * 4
    found.write_test_windows(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "test_clips.jsonl").read_text().splitlines()]
    targets = np.concatenate([batch.targets for batch in batches])
    assert [found.classes[target] for target in targets] == [row["label"] for row in rows]
    again = ClipTask(ClipData(paths=(tmp_path / "test_clips.jsonl",), split="none"), CODES)
    np.testing.assert_array_equal(np.concatenate([batch.lengths for batch in again.test_batches(3)]), lengths)


def test_what_is_not_held_in_memory_is_read_from_its_file(folder):
    held = task(folder, speed=0.1)
    read = task(folder, speed=0.1, memory_mb=0)
    np.testing.assert_array_equal(held.training_batch(1, 0, 8).tokens, read.training_batch(1, 0, 8).tokens)


def test_another_rate_is_resampled_and_said(folder):
    found = task(folder, SoundInput(rate=16_000), memory_mb=0)
    assert found.training_batch(1, 0, 4).tokens.shape == (4, 4000)
    assert "resampling adds no band" in " ".join(found.notes())


def test_classes_are_drawn_alike_or_as_often_as_they_are(folder, tmp_path):
    for path in folder.iterdir():
        if not path.name.startswith("high_bob"):
            os.link(path, tmp_path / path.name)
    alike = task(tmp_path).training_batch(0, 0, 600).targets
    as_often = task(tmp_path, balanced=False).training_batch(0, 0, 600).targets
    assert np.mean(alike) == pytest.approx(0.5, abs=0.06)
    assert np.mean(as_often == 0) == pytest.approx(1 / 3, abs=0.06)


def test_every_channel_is_a_sound(folder, tmp_path):
    time = np.arange(800, dtype=np.float32) / 8000
    for label, pitch in (("low", 300), ("high", 1200)):
        for take in range(4):
            tone = np.sin(2 * np.pi * pitch * time) / 4
            write_wav(tmp_path / f"{label}_ann_{take}.wav", np.stack([tone, tone / 2]), 8000)
    found = ClipTask(
        ClipData(paths=(tmp_path,), label_from=PATTERN, held={"take": ("0",)}, seconds=0.1),
        SoundInput(rate=8000, channels="each"),
    )
    assert sum(len(batch.targets) for batch in found.test_batches(10)) == 4
    found.write_test_windows(tmp_path)
    assert len((tmp_path / "test_clips.jsonl").read_text().splitlines()) == 2


def test_the_baseline_tells_tones_apart(folder):
    baseline = task(folder).baseline()
    assert baseline["name"] == "MFCC + SVM"
    assert baseline["accuracy"] == 1.0
    assert baseline["training_windows"] == 8


@pytest.fixture
def spoilt(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "low_ann_1.wav").write_bytes(b"")
    whole = (tmp_path / "high_bob_2.wav").read_bytes()
    (tmp_path / "high_bob_2.wav").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def test_bad_files_end_the_run_and_are_named(spoilt):
    with pytest.raises(InputError, match="2 of 16 clips cannot be read") as caught:
        task(spoilt)
    assert "low_ann_1.wav" in str(caught.value)
    assert "high_bob_2.wav" in str(caught.value)
    assert "data.on_error=skip" in str(caught.value)


def test_bad_files_are_left_out_where_that_is_wanted(spoilt):
    found = task(spoilt, on_error="skip")
    assert "2 clips could not be read and are left out." in found.notes()
    assert "low_ann_1.wav" not in {Path(sound.clip.path).name for sound in found._sounds}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"offset": 9.0}], "begins at 9 s"),
        ([{"offset": 0.0, "duration": 5.0}], "ends at 5 s"),
    ],
)
def test_parts_that_a_file_lacks_are_refused(folder, tmp_path, rows, words):
    path = tmp_path / "m.jsonl"
    lines = [{"audio_filepath": str(folder / "low_ann_0.wav"), "label": "low", **row} for row in rows]
    lines.append({"audio_filepath": str(folder / "high_ann_0.wav"), "label": "high"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=words):
        ClipTask(ClipData(paths=(path,), split="none"), CODES)


def test_parts_of_a_file_are_clips(folder, tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [
        {"audio_filepath": str(folder / "low_ann_3.wav"), "label": "low", "offset": 0.1, "duration": 0.2},
        {"audio_filepath": str(folder / "high_ann_0.wav"), "label": "high"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = ClipTask(ClipData(paths=(path,), split="none"), CODES)
    lengths = np.concatenate([batch.lengths for batch in found.test_batches(8)])
    assert lengths.tolist() == [1600, 800]


def test_what_cannot_be_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.paths"):
        ClipTask(ClipData(), CODES)
    with pytest.raises(InputError, match="leaves 0 of 16 clips to train on"):
        task(folder, held={"take": ("0", "1", "2", "3")})
    with pytest.raises(InputError, match="one class"):
        ClipTask(ClipData(paths=(folder / "low_ann_0.wav",), label_from=PATTERN, split="none"), CODES)


def test_spectra_are_masked_in_training_alone(folder):
    spectra = SoundInput(rate=8000, codec="log-mel", patch=80, span=256, mels=16)
    found = task(folder, spectra, time_mask=0.1, frequency_mask=4)
    batch = found.training_batch(0, 0, 40)
    real = [row[:length] for row, length in zip(batch.tokens, batch.lengths, strict=True)]
    assert any((row == 0).all(1).any() for row in real)
    assert any((row == 0).all(0).any() for row in real)
    for test in found.test_batches(8):
        for row, length in zip(test.tokens, test.lengths, strict=True):
            assert not (row[:length] == 0).all(1).any()
    with pytest.raises(ConfigError, match="log-mel"):
        task(folder, CODES, frequency_mask=4)


def test_real_digits_beside_the_yardstick():
    data = os.environ.get("SEQDOMAINS_DATA")
    if not data:
        pytest.skip("SEQDOMAINS_DATA is not set")
    recordings = Path(data) / "fsdd" / "recordings"
    found = ClipTask(
        ClipData(paths=(recordings,), label_from=PATTERN, held={"take": tuple("01234")}, seconds=0.8), CODES
    )
    assert found.classes == tuple("0123456789")
    assert found.baseline()["accuracy"] > 0.95
