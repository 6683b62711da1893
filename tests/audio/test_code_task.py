"""Codes as a task: every sample is asked, clips need no labels, and the baselines see nothing of what they predict."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from seqdomains.audio import code_task
from seqdomains.audio.code_baselines import LinearPrediction, MarkovChain
from seqdomains.audio.code_task import CodeTask
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import read, write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.metrics import read_metrics
from seqdomains.pipelines.objectives import NextToken
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train

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


def test_windows_of_nearly_a_clip_begin_at_each_sample_that_is_possible_and_each_gives_as_much(tmp_path):
    """Clips of a minute have 960,000 samples at 16 kHz, windows of the paper 958,464: here the same in small."""
    sounds = [np.random.default_rng(take).uniform(-0.5, 0.5, 960).astype(np.float32) for take in range(3)]
    for take, sound in enumerate(sounds):
        write_wav(tmp_path / f"take_{take}.wav", sound, 8000)
    found = task(tmp_path, held={"take": ("0",)}, seconds=952 / 8000)
    batch = found.training_batch(0, 0, 600)
    assert (batch.lengths == 953).all()
    codes = [CODES.encode(read(tmp_path / f"take_{take}.wav", rate=8000)[0]) for take in (1, 2)]
    possible = {(take, start): codes[take][start : start + 952].tobytes() for take in (0, 1) for start in range(9)}
    seen = Counter(row[1:].tobytes() for row in batch.tokens)
    assert seen.keys() == set(possible.values())
    assert min(seen.values()) > 600 / 18 / 3
    seconds = 958_464 / 16_000
    assert ClipData(seconds=seconds).seconds * 16_000 == 958_464


def test_held_codes_are_those_of_the_files_and_a_quarter_of_the_samples(folder, tmp_path):
    """Whatever is held, a window is the same; of another rate and with an offset too."""
    rows = [{"audio_filepath": str(folder / f"take_{take}.wav"), "take": str(take)} for take in range(10)]
    rows += [{**rows[9], "offset": 0.3, "duration": 0.45, "take": "part"}]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for given in (CODES, SoundInput(rate=6000), SoundInput(rate=8000, codec="linear")):
        data = ClipData(paths=(manifest,), held={"take": ("0", "4")}, seconds=0.25)
        held = CodeTask(data, given)
        assert {one.dtype for one in held._store._held.values()} == {np.dtype(np.uint8)}
        read_again = CodeTask(data.model_copy(update={"memory_mb": 0}), given)
        assert not read_again._store._held
        floats = CodeTask(data.model_copy(update={"gain": 1e-9}), given)
        assert {one.dtype for one in floats._store._held.values()} == {np.dtype(np.float32)}
        for other in (read_again, floats):
            for mine, theirs in ((held.training_batch(3, 0, 40), other.training_batch(3, 0, 40)),
                                 *zip(held.test_batches(2), other.test_batches(2), strict=True)):  # fmt: skip
                assert np.array_equal(mine.lengths, theirs.lengths)
                # A part that is resampled alone is within 1e-4 of that of the whole: a step of mu-law near silence.
                far = np.abs(mine.tokens.astype(int) - theirs.tokens)
                assert far.max() <= (0 if given.rate == 8000 or other is floats else 1)
        assert held.baselines() == floats.baselines()
    memory = CodeTask(data.model_copy(update={"memory_mb": 1}), CODES)._store
    assert sum(one.nbytes for one in memory._held.values()) == sum(one.frames for one in memory.sounds)


def test_long_files_are_held_without_their_samples(tmp_path):
    """The peak of what numpy holds while a file is read is that of its codes and a few blocks."""
    for name in ("a", "b"):
        write_wav(tmp_path / f"take_{name}.wav", np.zeros(6_000_000, np.float32), 8000)
    tracemalloc.start()
    try:
        found = task(tmp_path, held={"take": ("a",)}, seconds=700)
        batch = found.training_batch(0, 0, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert batch.tokens.shape == (1, 5_600_001)
    # Two files of codes, one of them twice while its blocks are joined, and the window: 24 MB. Samples of one are 24.
    assert peak < 32e6


def test_shorter_clips_are_padded_or_left_out_and_counted(folder):
    padded, skipped = task(folder), task(folder, shorter="skip")
    assert set(padded.training_batch(0, 0, 60).lengths.tolist()) == {1601, 2001}
    assert set(skipped.training_batch(0, 0, 60).lengths.tolist()) == {2001}
    # Of 8 training clips of 1,600 to 8,000 samples one is shorter than 2,000: 24 windows of which it gives one.
    windows = sum(-(-800 * take // 2000) for take in (2, 3, 4, 6, 7, 8, 9, 10))
    assert f"{1 - 400 / 2000 / windows:.0%} of what is read counts" in padded.notes()[-1]
    assert padded.notes()[-1].startswith("1 of 8 training clips are shorter than a window of 0.25 s and padded")
    assert skipped.notes()[-1] == "1 of 8 training clips are shorter than a window of 0.25 s and left out."
    with pytest.raises(InputError, match=r"all 8 training clips are shorter than a window of 2 s: lower data\.seconds"):
        task(folder, shorter="skip", seconds=2)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_windows_of_a_minute_train_on_a_gpu_however_they_are_computed(tmp_path):
    """Of 958,464 samples, drawn from files of 960,000: two steps, recomputed and in chunks, with the same losses."""
    for take in range(3):
        samples = (0.3 * np.sin(0.05 * (take + 1) * np.arange(960_000))).astype(np.float32)
        write_wav(tmp_path / f"take_{take}.wav", samples, 16_000)
    found = task(tmp_path, SoundInput(), held={"take": ("0",)}, seconds=958_464 / 16_000)
    sizes = MambaConfig(
        d_model=32, n_layer=1, vocab_size=256, pool=(16, 16), states="complex", time_invariant="outer", d_state=8
    )
    losses = []
    for name, how in {"recomputed": {}, "chunks": {"time_chunk": 119_808}}.items():
        config = TrainConfig(steps=2, batch=1, recompute=True, precision="fp32", log_every=1, **how)
        run = RunFolder.prepare(tmp_path / name, {})
        with seeded(0):
            model = MambaLM(sizes)
        train(model, found, config, run, objective=NextToken(), device="cuda", progress=False)
        losses.append([row["loss"] for row in read_metrics(run.metrics)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert 3 < losses[0][0] < 8


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
