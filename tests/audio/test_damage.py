"""Clips whose samples cannot be decoded: found before a model works on them, whether or not all are held in memory."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from seqdomains.audio import damage, decoder
from seqdomains.audio.clip import Clip
from seqdomains.audio.clip_task import ClipTask
from seqdomains.audio.code_task import CodeTask
from seqdomains.audio.damage import undecodable
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import decode, examine, read, write_wav
from seqdomains.audio.frame_task import FrameTask
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.masking import MaskConfig
from seqdomains.audio.patch_task import PatchTask
from seqdomains.audio.store import SoundStore
from seqdomains.errors import InputError

CODES = SoundInput(rate=8000)
SPECTRA = SoundInput(rate=8000, codec="log-mel", patch=80, span=200, mels=8)
TASKS = {
    "classes": lambda data: ClipTask(data, CODES),
    "codes": lambda data: CodeTask(data, CODES),
    "frames": lambda data: FrameTask(data, CODES),
    "patches": lambda data: PatchTask(data, SPECTRA, MaskConfig(span=0.05)),
}
MEMORY = pytest.mark.parametrize("memory_mb", [0, 1024], ids=["read", "held"])


def tone(seconds, pitch=300, rate=8000):
    return (np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate) / 4).astype(np.float32)


def with_nan(path, samples, *at):
    samples = samples.copy()
    for frame in at:
        samples[frame] = np.nan
    soundfile.write(path, samples, 8000, subtype="FLOAT")


def damaged_flac(path, samples):
    """Whole by its header and at its end, and not in its middle."""
    soundfile.write(path, samples, 8000)
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 0xFF
    path.write_bytes(found)
    assert examine(path).frames == len(samples)


@pytest.fixture
def spoilt(tmp_path):
    """Two classes of five takes with segments: of take 0, which is held out, one has a NaN; two others are bad too."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for label, pitch in (("low", 300), ("high", 1200)):
        for take in range(5):
            name = f"{label}_{take}"
            write_wav(folder / f"{name}.wav", tone(0.3 + 0.1 * take, pitch), 8000)
            (folder / f"{name}.txt").write_text(f"0.05\t0.2\t{label}\n")
    with_nan(folder / "low_0.wav", tone(0.3), 2000)
    (folder / "high_2.wav").write_bytes(b"")
    (folder / "low_3.wav").unlink()
    damaged_flac(folder / "low_3.flac", np.random.default_rng(0).normal(0, 0.1, 12_000))
    return folder


def data_of(folder, task, **options):
    frames = {"frames": True} if task == "frames" else {"label_from": "name:{label}_{take}"}
    options = {"paths": (folder,), "seconds": 0.25, "test_fraction": 0.3} | frames | options
    return ClipData(**options)


@MEMORY
@pytest.mark.parametrize("task", TASKS)
def test_all_are_named_before_anything_is_computed(spoilt, task, memory_mb):
    with pytest.raises(InputError, match="3 of 10 clips cannot be read") as caught:
        TASKS[task](data_of(spoilt, task, memory_mb=memory_mb))
    said = str(caught.value)
    assert "data.on_error=skip" in said
    assert "high_2.wav is empty (0 bytes)" in said
    assert "low_0.wav, channel 1, frame 2000 (0.25 s): the sample is nan" in said
    assert "low_3.flac cannot be decoded" in said


@MEMORY
@pytest.mark.parametrize("task", TASKS)
def test_they_are_left_out_of_both_sides(spoilt, tmp_path, task, memory_mb):
    """Those of one store are those of data that never had them: split, labels, windows and test clips."""
    options = {"memory_mb": memory_mb, "on_error": "skip", "speed": 0.1}
    found = TASKS[task](data_of(spoilt, task, **options))
    assert "3 clips could not be read and are left out." in found.notes()
    clean = tmp_path / "clean"
    clean.mkdir()
    for path in spoilt.iterdir():
        if path.stem not in ("low_0", "high_2", "low_3"):
            (clean / path.name).write_bytes(path.read_bytes())
    other = TASKS[task](data_of(clean, task, **options))
    assert [one.clip.path.name for one in found._sounds] == [one.clip.path.name for one in other._sounds]
    assert np.array_equal(found.split.train, other.split.train)
    ours, theirs = ([one.training_batch(3, 0, 20), *one.test_batches(2)] for one in (found, other))
    assert len(ours) == len(theirs) > 1
    for mine, their in zip(ours, theirs, strict=True):
        assert np.array_equal(mine.tokens, their.tokens)
        if task in ("classes", "frames"):
            assert np.array_equal(mine.targets, their.targets)
    found.write_test_windows(tmp_path)
    assert len((tmp_path / "test_clips.jsonl").read_text().splitlines()) == len(found._held)


@MEMORY
def test_what_is_held_is_of_the_sound_that_it_is_told_for(tmp_path, memory_mb):
    """Every channel of every clip that is left, though one before it failed in one channel alone."""
    for number in range(4):
        samples = np.stack([tone(0.2, 200 + 100 * number), tone(0.2, 900 + 100 * number)])
        if number == 1:
            samples[1, 700] = np.inf
        soundfile.write(tmp_path / f"{number}.wav", samples.T, 8000, subtype="FLOAT")
    clips = [Clip(tmp_path / f"{number}.wav", None, {}, name=str(number)) for number in range(4)]
    store = SoundStore(clips, SoundInput(rate=8000, channels="each"), memory_mb=memory_mb, on_error="skip")
    assert [one.name for one in store.sounds] == ["0#1", "0#2", "2#1", "2#2", "3#1", "3#2"]
    assert len(store._held) == (6 if memory_mb else 0)
    for number, sound in enumerate(store.sounds):
        whole = read(sound.clip.path, rate=8000, channels="each")
        assert np.array_equal(store.samples(number), whole[sound.channel])


@MEMORY
def test_parts_of_a_file_fail_where_it_is_bad(tmp_path, memory_mb):
    path = tmp_path / "long.wav"
    with_nan(path, tone(30), 10 * 8000 + 5)
    starts = (0, 4, 9, 10, 20, 25)
    clips = [Clip(path, None, {}, float(start), 1.5, name=str(start)) for start in starts]
    store = SoundStore(clips, CODES, memory_mb=memory_mb, on_error="skip")
    # 16,384 frames before a part are decoded for it, and 128 behind it.
    assert [one.name for one in store.sounds] == ["0", "4", "20", "25"]
    assert len(store.failures) == 2


def test_a_file_is_read_once_however_many_clips_are_parts_of_it(tmp_path, monkeypatch):
    decoded = []
    blocks = damage.decode.__globals__["_blocks"]

    def counted(sound, facts, first, last, block):
        decoded.append((facts.path.name, first, last))
        return blocks(sound, facts, first, last, block)

    monkeypatch.setitem(damage.decode.__globals__, "_blocks", counted)
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", tone(60), 8000)
    parts = [(name, float(start)) for start in (40, 2, 1, 0) for name in ("a", "b")]
    clips = {number: Clip(tmp_path / f"{name}.wav", None, {}, at, 2.0) for number, (name, at) in enumerate(parts)}
    assert undecodable(clips, rate=8000) == {}
    # Frames 0 to 4 s with the filter's reach, and from 40 s with what is decoded ahead of it.
    once = [(0, 32_128), (40 * 8000 - 128 - 16_384, 42 * 8000 + 128)]
    assert sorted(decoded) == [(f"{name}.wav", *ends) for name in ("a", "b") for ends in once]


def test_the_pass_keeps_nothing(tmp_path):
    write_wav(tmp_path / "long.wav", np.zeros(4_000_000, np.float32), 8000)
    tracemalloc.start()
    try:
        decode(tmp_path / "long.wav", rate=16_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A block of 65,536 floats and what checks it; the file has 16 MB of them.
    assert peak < 2e6


def test_the_pass_is_told_with_files_and_time(tmp_path, caplog):
    write_wav(tmp_path / "a.wav", tone(60), 8000)
    write_wav(tmp_path / "b.wav", tone(90), 8000)
    parts = [("a", 0.0, None), ("b", 0.0, 60.0), ("b", 60.0, None)]
    clips = [Clip(tmp_path / f"{name}.wav", None, {}, at, seconds) for name, at, seconds in parts]
    with caplog.at_level(logging.INFO):
        SoundStore(clips, CODES, memory_mb=1024)
        assert not caplog.messages
        SoundStore(clips, CODES, memory_mb=0)
    (said,) = caplog.messages
    assert said.startswith("decoding 2 files once (2 min of sound), which are more than data.memory_mb holds")


@MEMORY
def test_nothing_is_told_twice_of_a_file(tmp_path, caplog, memory_mb):
    """Neither why its clips are left out, nor that its samples are loud."""
    decoder._advised.clear()
    damaged_flac(tmp_path / "bad.flac", np.random.default_rng(0).normal(0, 0.1, 12_000))
    soundfile.write(tmp_path / "loud.wav", 8 * tone(1), 8000, subtype="FLOAT")
    write_wav(tmp_path / "low.wav", tone(1, rate=4000), 4000)
    rows = [("bad.flac", 0.0, 1.0), ("bad.flac", 0.2, 1.0), ("loud.wav", 0.0, 0.5), ("loud.wav", 0.5, 0.5)]
    clips = [Clip(tmp_path / name, None, {}, at, seconds) for name, at, seconds in rows]
    clips.append(Clip(tmp_path / "low.wav", None, {}))
    with caplog.at_level(logging.WARNING):
        store = SoundStore(clips, CODES, memory_mb=memory_mb, on_error="skip")
        store.samples(0)
        store.samples(1)
    assert len(store.failures) == 2
    assert sum("bad.flac" in said for said in caplog.messages) == 1
    assert sum("loud.wav" in said for said in caplog.messages) == 1
    assert len(caplog.messages) == 2
    assert store.upsampled == 1
    with pytest.raises(InputError, match="2 of 5 clips cannot be read") as caught:
        SoundStore(clips, CODES, memory_mb=memory_mb)
    assert str(caught.value).count("bad.flac") == 1


def test_clips_of_a_lower_rate_that_are_left_out_are_not_counted(tmp_path):
    samples = tone(0.5, rate=4000)
    samples[10] = np.nan
    soundfile.write(tmp_path / "bad.wav", samples, 4000, subtype="FLOAT")
    write_wav(tmp_path / "low.wav", tone(0.5, rate=4000), 4000)
    clips = [Clip(tmp_path / f"{name}.wav", None, {}) for name in ("bad", "low")]
    assert SoundStore(clips, CODES, memory_mb=0, on_error="skip").upsampled == 1


def test_files_that_all_fail_end_the_run_whatever_is_wanted(tmp_path):
    with_nan(tmp_path / "a.wav", tone(0.5), 3)
    with pytest.raises(InputError, match="1 of 1 clips cannot be read"):
        SoundStore([Clip(tmp_path / "a.wav", None, {})], CODES, memory_mb=0, on_error="skip")


def test_a_file_that_changes_later_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, tone(0.5), 8000)
    store = SoundStore([Clip(path, None, {})], CODES, memory_mb=0, on_error="skip")
    path.unlink()
    with pytest.raises(InputError, match=r"a\.wav does not exist"):
        store.samples(0)


def test_parts_in_a_manifest_that_are_bad(tmp_path):
    """A class that has a clip left is trained on; one that has none is named, as with files that cannot be opened."""
    with_nan(tmp_path / "a.wav", tone(30), 20 * 8000)
    spans = [(0, "x"), (2, "y"), (4, "x"), (6, "y"), (19, "y"), (26, "x")]
    lines = [{"audio_filepath": "a.wav", "offset": at, "duration": 2, "label": label} for at, label in spans]
    manifest = Path(tmp_path / "m.jsonl")
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = ClipData(paths=(manifest,), split="none", memory_mb=0, on_error="skip", seconds=1)
    found = ClipTask(data, CODES)
    assert np.concatenate([batch.targets for batch in found.test_batches(8)]).tolist() == [0, 1, 0, 1, 0]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], lines[4]]))
    with pytest.raises(InputError, match="class 'y' has no clip to train on"):
        ClipTask(data, CODES)
