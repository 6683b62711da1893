"""Codes as a task: every sample is asked, clips need no labels, and the baselines see nothing of what they predict."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from seqdomains.audio import code_task
from seqdomains.audio.code_baselines import LinearPrediction, MarkovChain
from seqdomains.audio.code_task import CodeTask
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import read, write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.errors import ConfigError, InputError

CODES = SoundInput(rate=8000)
SILENCE = 128


def tone(frames, pitch):
    noise = np.random.default_rng(pitch).normal(size=frames) / 300
    return (np.sin(2 * np.pi * pitch * np.arange(frames) / 8000) / 3 + noise).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten clips of 0.1 to 1 s in no folder of a class."""
    folder = tmp_path_factory.mktemp("clips")
    for take in range(10):
        write_wav(folder / f"take_{take}.wav", tone(800 * (take + 1), 200 + 40 * take), 8000)
    return folder


def task(folder, given=CODES, **options):
    data = {"label_from": "name:take_{take}", "held": {"take": ("0", "4")}, "seconds": 0.25} | options
    return CodeTask(ClipData(paths=(folder,), **data), given)


@pytest.mark.parametrize("codec", ["mu-law", "linear"])
def test_a_silence_stands_before_each_window_and_all_samples_are_asked(folder, codec):
    given = SoundInput(rate=8000, codec=codec)
    found = task(folder, given)
    batch = found.training_batch(0, 0, 60)
    assert found.window == 2000
    assert batch.tokens.shape == (60, 2001)
    assert batch.tokens.dtype == np.uint8
    assert (batch.tokens[:, 0] == SILENCE).all()
    assert set(batch.lengths.tolist()) == {1601, 2001}
    assert all((row[length:] == SILENCE).all() for row, length in zip(batch.tokens, batch.lengths, strict=True))
    (test,) = found.test_batches(8)
    assert test.lengths.tolist() == [801, 4001]
    for row, length, name in zip(test.tokens, test.lengths, ("take_0", "take_4"), strict=True):
        codes = given.encode(read(folder / f"{name}.wav", rate=8000)[0])
        np.testing.assert_array_equal(row[:length], [SILENCE, *codes])


def test_a_sample_is_a_function_of_seed_and_index(folder):
    found = task(folder, speed=0.1, gain=6.0, noise=(10.0, 40.0))
    whole, part = found.training_batch(7, 0, 20), found.training_batch(7, 5, 5)
    np.testing.assert_array_equal(whole.tokens[5:10], part.tokens)
    assert not np.array_equal(whole.tokens, found.training_batch(8, 0, 20).tokens)
    assert found.training_batch(7, 0, 2, window=500).tokens.shape == (2, 501)


def test_clips_are_drawn_by_the_windows_that_they_fill(tmp_path):
    for name, frames, level in (("short", 500, 0.1), ("long", 20_000, 0.5), ("test", 500, 0.1)):
        write_wav(tmp_path / f"take_{name}.wav", np.full(frames, level, np.float32), 8000)
    batch = task(tmp_path, held={"take": ("test",)}).training_batch(0, 0, 1000)
    assert np.mean(batch.lengths == 2001) == pytest.approx(10 / 11, abs=0.03)


def test_labels_are_not_asked_for_and_a_class_may_have_one_file(folder, tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        write_wav(tmp_path / name / f"{name}.wav", tone(1000, 300), 8000)
    found = CodeTask(ClipData(paths=(tmp_path,)), CODES)
    assert sum(len(batch.lengths) for batch in found.test_batches(8)) == 1
    found.write_test_windows(tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "test_clips.jsonl").read_text().splitlines()]
    assert row.keys() == {"audio_filepath", "offset"}
    again = CodeTask(ClipData(paths=(tmp_path / "test_clips.jsonl",), split="none"), CODES)
    assert next(again.test_batches(1)).lengths.tolist() == [1001]


def test_what_cannot_be_is_refused(folder):
    with pytest.raises(ConfigError, match=r"input\.codec: log-mel gives real numbers"):
        task(folder, SoundInput(rate=8000, codec="log-mel", patch=80, span=200))
    with pytest.raises(ConfigError, match=r"data\.paths"):
        CodeTask(ClipData(), CODES)
    with pytest.raises(InputError, match="leaves 0 of 10"):
        task(folder, held={"take": tuple("0123456789")})


def test_baselines_are_those_of_the_held_out_clips_in_whatever_pieces(folder, monkeypatch):
    whole = task(folder).baselines()
    assert [one["name"] for one in whole] == ["order-1 Markov chain", "adaptive LPC-32"]
    chain = MarkovChain(CODES)
    chain.fit([CODES.encode(read(folder / f"take_{take}.wav", rate=8000)[0]) for take in (1, 2, 3, 5, 6, 7, 8, 9)])
    held = [CODES.encode(read(folder / f"take_{take}.wav", rate=8000)[0]) for take in (0, 4)]
    assert whole[0]["bits"] == pytest.approx(sum(map(chain.bits, held)) / sum(map(len, held)))
    assert whole[1]["bits"] < whole[0]["bits"] < 8
    monkeypatch.setattr(code_task, "_PIECE", 1000)
    for one, other in zip(task(folder).baselines(), whole, strict=True):
        assert one["bits"] == pytest.approx(other["bits"], abs=0.3)
    monkeypatch.setattr(code_task, "_FITTED", 2500)
    assert sum(map(len, task(folder)._pieces([9, 8], most=2500))) == 2500
    assert task(folder).baselines()[0]["bits"] > whole[0]["bits"]


@pytest.mark.parametrize("model", [MarkovChain, LinearPrediction])
def test_a_baseline_gives_probabilities_that_sum_to_one_and_reads_nothing_of_what_follows(model):
    fitted = model(CODES)
    fitted.fit([CODES.encode(tone(4000, pitch)) for pitch in (200, 300, 400)])
    codes = CODES.encode(tone(400, 250))
    for place in (0, 1, 200):
        before = fitted.bits(codes[:place]) if place else 0.0
        ends = [fitted.bits(np.append(codes[:place], code).astype(np.uint8)) - before for code in range(256)]
        assert np.exp2(-np.array(ends)).sum() == pytest.approx(1)


def test_linear_prediction_of_silence_is_finite():
    fitted = LinearPrediction(CODES)
    silence = np.full(2000, SILENCE, np.uint8)
    fitted.fit([silence])
    assert 0 < fitted.bits(silence) / 2000 < 0.5


def test_real_digits_beside_the_yardsticks():
    data = os.environ.get("SEQDOMAINS_DATA")
    if not data:
        pytest.skip("SEQDOMAINS_DATA is not set")
    found = CodeTask(
        ClipData(
            paths=(Path(data) / "fsdd" / "recordings",),
            label_from="name:{label}_{speaker}_{take}",
            held={"take": tuple("01234")},
        ),
        CODES,
    )
    chain, prediction = found.baselines()
    assert chain["bits"] == pytest.approx(5.54, abs=0.02)
    assert prediction["bits"] == pytest.approx(4.56, abs=0.02)
