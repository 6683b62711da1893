"""Patches as a task: what is hidden is of the sample, and references see what is visible alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import read, write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.masking import MaskConfig
from seqdomains.audio.patch_task import PatchTask, between_neighbours, last_before
from seqdomains.errors import ConfigError, InputError

MELS = SoundInput(rate=8000, codec="log-mel", patch=80, span=200, mels=8)


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


SHORT = MaskConfig(span=0.05)


def task(folder, given=MELS, mask=SHORT, **options):
    data = {"label_from": "name:take_{take}", "held": {"take": ("0", "6")}, "seconds": 0.25} | options
    return PatchTask(ClipData(paths=(folder,), **data), given, mask)


def test_a_sample_is_a_function_of_its_index(folder):
    found = task(folder, speed=0.1, gain=6.0, noise=(10.0, 30.0))
    whole = found.training_batch(7, 0, 12)
    for first, count in ((0, 5), (5, 7)):
        part = task(folder, speed=0.1, gain=6.0, noise=(10.0, 30.0)).training_batch(7, first, count)
        assert np.array_equal(part.tokens, whole.tokens[first : first + count])
        assert np.array_equal(part.masked, whole.masked[first : first + count])
    assert not np.array_equal(whole.masked, found.training_batch(8, 0, 12).masked)
    assert len({row.tobytes() for row in whole.masked}) > 6
    shorter = found.training_batch(7, 0, 4, window=10)
    assert shorter.tokens.shape == (4, 10, 8)
    assert set(shorter.masked.sum(1).tolist()) == {5}


def test_padding_is_never_hidden(folder):
    batch = task(folder, seconds=0.8).training_batch(0, 0, 60)
    assert len(set(batch.lengths.tolist())) > 2
    for masked, length in zip(batch.masked, batch.lengths.tolist(), strict=True):
        assert masked.sum() == round(length / 2)
        assert not masked[length:].any()


def test_held_out_clips_are_cut_into_windows_that_join_to_the_whole(folder):
    found = task(folder)
    rows = [
        row[:length]
        for batch in found.test_batches(3)
        for row, length in zip(batch.tokens, batch.lengths.tolist(), strict=True)
    ]
    whole = [found.input.encode(read(folder / f"take_{take}.wav", rate=8000)[0]) for take in (0, 6)]
    assert max(map(len, rows)) == found.window
    np.testing.assert_allclose(np.concatenate(rows), np.concatenate(whole), atol=1e-5)


def test_what_is_hidden_of_a_test_window_does_not_depend_on_the_batch(folder):
    one, other = ([row.tobytes() for batch in task(folder).test_batches(size) for row in batch.masked[:, :2]]
                  for size in (1, 4))  # fmt: skip
    assert one == other


def test_references_see_what_is_visible_alone(folder):
    found = task(folder)
    baselines = found.baselines()
    assert [one["name"] for one in baselines] == [
        "mean of the training patches",
        "line between the visible neighbours",
        "last visible patch",
    ]
    train = [found.input.encode(read(folder / f"take_{take}.wav", rate=8000)[0]) for take in (1, 2, 3, 4, 5, 7, 8, 9)]
    mean = np.concatenate(train).mean(0)
    (batch,) = found.test_batches(100)
    expected = np.square(batch.tokens - mean)[batch.masked].mean()
    assert baselines[0]["error"] == pytest.approx(expected, rel=1e-4)
    random = np.random.default_rng(0)
    patches, hidden = random.normal(size=(30, 4)), random.random(30) < 0.5
    for fill in (between_neighbours, last_before):
        before = fill(patches, hidden)
        assert np.array_equal(before[~hidden], patches[~hidden])
        assert np.array_equal(fill(np.where(hidden[:, None], 99.0, patches), hidden)[hidden], before[hidden])


def test_clips_that_are_only_scored_have_the_mean_of_other_files(folder, tmp_path):
    data = ClipData(paths=(folder,), seconds=0.25)
    found = PatchTask(data, MELS, MaskConfig(), scored_only=True)
    assert sum(len(batch.lengths) for batch in found.test_batches(8)) > 10
    assert any("the mean is that of the other files" in note for note in found.notes())
    assert not any("trained on" in note for note in found.notes())
    write_wav(tmp_path / "alone.wav", tone(4000, 300), 8000)
    alone = PatchTask(ClipData(paths=(tmp_path / "alone.wav",), seconds=0.25), MELS, MaskConfig(), scored_only=True)
    assert [one["name"] for one in alone.baselines()] == ["line between the visible neighbours", "last visible patch"]
    assert any("which has no other file for a mean" in note for note in alone.notes())


def test_an_artefact_carries_what_was_hidden(folder):
    signature = json.loads(json.dumps(task(folder, mask=MaskConfig(share=0.3)).signature()))
    assert signature["mask"] == {"share": 0.3, "span": 0.2}
    assert signature["window"] == 23
    assert signature["input"]["shift"] is not None


def test_clips_of_several_labels_are_clips_like_any_other(folder, tmp_path):
    rows = [{"audio_filepath": str(folder / f"take_{take}.wav"), "label": ["a", "b"]} for take in range(10)]
    (tmp_path / "clips.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = PatchTask(ClipData(paths=(tmp_path / "clips.jsonl",), seconds=0.25), MELS, SHORT)
    assert "Held out: 2 of 10 clips, drawn from all files." in found.notes()
    found.write_test_windows(tmp_path)
    lines = (tmp_path / "test_clips.jsonl").read_text().splitlines()
    assert [json.loads(line).keys() for line in lines] == [{"audio_filepath", "offset"}] * 2


def test_what_cannot_be_is_refused(folder):
    with pytest.raises(ConfigError, match=r"input\.codec: linear gives codes, and what is hidden are patches"):
        task(folder, SoundInput(rate=8000, codec="linear"))
    with pytest.raises(ConfigError, match=r"data\.time_mask, data\.frequency_mask: would be asked of the model"):
        task(folder, time_mask=0.1)
    with pytest.raises(InputError, match="leaves 0 of 10"):
        task(folder, held={"take": tuple("0123456789")})
