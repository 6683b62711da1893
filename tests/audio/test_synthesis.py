"""Simulated sound: functions of settings and number, true about times, levels and noise; folders whole or absent."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from seqdomains.audio.synthesis import SynthesisConfig, clip, synthesize
from seqdomains.audio.synthesis.music import MOTIFS, PERIODS, melody, motif
from seqdomains.audio.synthesis.tones import TIMBRES, tone
from seqdomains.audio.synthesis.words import WORDS, Speaker
from seqdomains.errors import InputError
from seqdomains.files import sha256

KINDS = ("tones", "words", "music")
RATES = (8_000, 16_000, 44_100)
SMALL = SynthesisConfig(kind="words", clips=3, speakers=2, rate=8_000, seed=4)


def power(samples):
    return float(np.mean(np.asarray(samples, np.float64) ** 2))


def sounding(item):
    """Say of each sample whether an event covers it."""
    inside = np.zeros(len(item.samples), bool)
    for start, end, _ in item.events:
        inside[round(start * item.rate) : round(end * item.rate)] = True
    return inside


def hashes(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_a_function_of_seed_and_number(kind):
    config = SynthesisConfig(kind=kind, clips=2, rate=8_000, seconds=2, seed=3)
    numbers = range(len(config))
    forward = [clip(config, index) for index in numbers]
    backward = [clip(config, index) for index in reversed(numbers)][::-1]
    other = [clip(config.model_copy(update={"seed": 4}), index) for index in numbers]
    for one, same, changed in zip(forward, backward, other, strict=True):
        assert np.array_equal(one.samples, same.samples)
        assert (one.events, one.truth) == (same.events, same.truth)
        assert one.label == changed.label
        assert not np.array_equal(one.samples, changed.samples)


def test_more_clips_leave_those_before_as_they_are():
    more = SMALL.model_copy(update={"clips": 30})
    assert all(np.array_equal(clip(SMALL, index).samples, clip(more, index).samples) for index in (0, 13, 29))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", KINDS)
def test_form_and_level(kind, rate):
    config = SynthesisConfig(kind=kind, clips=2, rate=rate, seconds=1.6, noise=(0, 40))
    for item in (clip(config, index) for index in range(len(config))):
        assert item.samples.dtype == np.float32
        assert np.isfinite(item.samples).all()
        assert len(item.samples) <= config.frames
        assert kind == "words" or len(item.samples) == config.frames
        assert -30 <= item.truth["level_dbfs"] <= -3
        assert 20 * np.log10(np.abs(item.samples).max()) == pytest.approx(item.truth["level_dbfs"], abs=0.001)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["tones", "words"])
def test_events_are_exact(kind, rate):
    """Nothing sounds outside them, and they begin and end with sound."""
    config = SynthesisConfig(kind=kind, clips=2, rate=rate, noise=(60, 60))
    for item in (clip(config, index) for index in range(len(config))):
        inside = sounding(item)
        ((start, end, label),) = item.events
        assert label == item.label
        assert 0 <= start < end <= len(item.samples) / rate
        # The noise is not white, so that a short stretch of it may have twice its power.
        floor = power(item.samples[inside]) * 1e-6
        for outside in (item.samples[: round(start * rate)], item.samples[round(end * rate) :]):
            assert len(outside) < 0.02 * rate or power(outside) < 2.5 * floor
        edge = rate // 40
        event = item.samples[inside]
        if (item.label, kind) != ("bell", "tones"):
            assert min(power(event[:edge]), power(event[-edge:])) > 5 * floor, item.label


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_of_signal_to_noise_is_true(kind):
    """The same clip without noise gives the signal; what is left of the noisy one is the noise."""
    config = SynthesisConfig(kind=kind, clips=1, rate=8_000, seconds=2, noise=(5, 30))
    silent = config.model_copy(update={"noise": (120.0, 120.0)})
    for index in range(len(config)):
        noisy, clean = clip(config, index), clip(silent, index)
        inside = sounding(noisy)
        signal, mixed = clean.samples.astype(float), noisy.samples.astype(float)
        signal *= signal @ mixed / (signal @ signal)
        ratio = 10 * np.log10(power(signal[inside]) / power(mixed - signal))
        assert ratio == pytest.approx(noisy.truth["snr_db"], abs=0.5)
        assert 5 <= noisy.truth["snr_db"] <= 30


@pytest.mark.parametrize("timbre", ["sine", "triangle", "square", "sawtooth", "pluck"])
@pytest.mark.parametrize("rate", RATES)
def test_the_pitch_is_true(timbre, rate):
    for seed in range(3):
        sound = tone(timbre, 2 * rate, rate, np.random.default_rng(seed))
        spectrum = np.abs(np.fft.rfft(sound.samples, 8 * rate))
        near = slice(round(8 * sound.truth["pitch_hz"] / 1.4), round(8 * sound.truth["pitch_hz"] * 1.4))
        found = (near.start + spectrum[near].argmax()) / 8
        assert found == pytest.approx(sound.truth["pitch_hz"], rel=0.01), (timbre, seed)


@pytest.mark.parametrize("timbre", ["square", "sawtooth"])
def test_no_harmonic_folds_back(timbre):
    rate = 8_000
    sound = tone(timbre, 4 * rate, rate, np.random.default_rng(1))
    ((start, end),) = sound.spans
    steady = sound.samples[start + (end - start) // 3 : end - (end - start) // 3]
    spectrum = np.abs(np.fft.rfft(steady * np.blackman(len(steady))))
    order = np.arange(len(spectrum)) * rate / len(steady) / sound.truth["pitch_hz"]
    between = np.abs(order - np.round(order)) > 0.25
    assert spectrum[between].max() < 1e-3 * spectrum.max()


@pytest.mark.parametrize(("kind", "classes"), [("tones", TIMBRES), ("words", WORDS), ("music", MOTIFS)])
def test_labels_are_balanced(kind, classes):
    config = SynthesisConfig(kind=kind, clips=6, speakers=3, rate=8_000, seconds=2)
    items = [clip(config, index) for index in range(len(config))]
    assert Counter(item.label for item in items) == dict.fromkeys(classes, 6)
    if kind == "words":
        assert set(Counter((item.speaker, item.label) for item in items).values()) == {2}
    else:
        assert {item.speaker for item in items} == {None}


def test_a_speaker_is_a_function_of_seed_and_number_and_within_its_ranges():
    voices = [Speaker.draw(0, number) for number in range(200)]
    assert Speaker.draw(0, 7).pitch == voices[7].pitch != Speaker.draw(1, 7).pitch
    pitches, paces = [voice.pitch for voice in voices], [voice.pace for voice in voices]
    assert 80 <= min(pitches) < 90 < 250 < max(pitches) <= 280
    assert 0.8 <= min(paces) < 0.85 < 1.2 < max(paces) <= 1.25


def test_words_vary_in_length_up_to_the_longest():
    config = SynthesisConfig(kind="words", clips=8, rate=8_000)
    lengths = [len(clip(config, index).samples) / config.rate for index in range(len(config))]
    assert 0.4 < np.mean(lengths) < 0.7
    assert min(lengths) < 0.4 < 0.7 < max(lengths) <= 1
    short = config.model_copy(update={"seconds": 0.5})
    assert max(len(clip(short, index).samples) for index in range(len(short))) <= 4_000


def test_another_word_of_the_same_speaker_is_another_sound():
    """Means over frequency bands of the words of one speaker: none is the double of another."""
    config = SynthesisConfig(kind="words", clips=1, rate=16_000, noise=(40, 40))
    profiles = []
    for index in range(len(config)):
        spectrum = np.abs(np.fft.rfft(clip(config, index).samples, 1 << 14)) ** 2
        bands = np.log([part.mean() for part in np.array_split(spectrum, 32)])
        profiles.append(bands - bands.mean())
    differences = [np.std(one - other) for i, one in enumerate(profiles) for other in profiles[:i]]
    assert min(differences) > 0.2


@pytest.mark.parametrize("rate", RATES)
def test_a_motif_returns_after_its_period_and_nothing_else_does(rate):
    config = SynthesisConfig(kind="music", clips=1, rate=rate, seconds=5, noise=(40, 40))
    for item in (clip(config, index) for index in range(len(config))):
        period = item.truth["period_samples"]
        assert period in PERIODS
        starts = [round(start * rate) for start, _, _ in item.events]
        assert len(starts) >= 2
        assert set(np.diff(starts)) == {period}
        length = round((item.events[0][1] - item.events[0][0]) * rate)
        first = item.samples[starts[0] : starts[0] + length]
        for start in starts[1:]:
            assert np.corrcoef(first, item.samples[start : start + length])[0, 1] > 0.99
        behind = item.samples[starts[0] + length : starts[0] + 2 * length]
        again = item.samples[starts[1] + length : starts[1] + 2 * length]
        if len(again) == len(behind):
            assert np.corrcoef(behind, again)[0, 1] < 0.9


def test_periods_are_as_long_as_the_clip_allows():
    config = SynthesisConfig(kind="music", clips=10)
    drawn = {
        melody(0, config.frames, config.rate, np.random.default_rng(seed)).truth["period_samples"] for seed in range(30)
    }
    assert drawn == set(PERIODS)


def test_motifs_are_distinct_melodies():
    assert len({tuple(motif(number).starts) for number in range(len(MOTIFS))}) == len(MOTIFS)
    for number in range(len(MOTIFS)):
        bar = motif(number)
        assert len(bar.starts) >= 5
        assert np.ptp(bar.degrees) >= 3
        assert (bar.starts[0], bar.ends[-1]) == (0, 8)
        assert (bar.starts[1:] == bar.ends[:-1]).all()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "digits"
    synthesize(SMALL, folder)
    return folder


def test_the_manifest_says_what_the_files_are(written):
    rows = [json.loads(line) for line in (written / "manifest.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows[:11]] == [*WORDS, "zero"]
    assert {row["audio_filepath"] for row in rows} == {
        str(path.relative_to(written)) for path in written.glob("*/*.wav")
    }
    for index, row in enumerate(rows):
        item, facts = clip(SMALL, index), soundfile.info(written / row["audio_filepath"])
        assert (facts.format, facts.subtype, facts.channels, facts.samplerate) == ("WAV", "PCM_16", 1, 8_000)
        assert row["duration"] == facts.frames / 8_000
        assert row["simulated"] is True
        assert (row["label"], row["speaker"]) == (item.label, item.speaker)
        assert [tuple(event) for event in row["events"]] == list(item.events)
        assert row["truth"] == item.truth
        found, _ = soundfile.read(written / row["audio_filepath"], dtype="float32")
        assert np.abs(found - item.samples).max() < 1.5 / 2**15


def test_the_record_names_the_settings(written):
    record = json.loads((written / "simulation.json").read_text())
    assert record["simulated"] is True
    assert SynthesisConfig(**record["config"]) == SMALL


def test_the_same_simulation_is_left_alone_and_anything_else_refused(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    synthesize(SMALL, written)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    with pytest.raises(InputError, match="another simulation"):
        synthesize(SMALL.model_copy(update={"seed": 5}), written)
    with pytest.raises(InputError, match="is a file"):
        synthesize(SMALL, written / "manifest.jsonl")
    with pytest.raises(InputError, match=r"'0\.wav' and no simulation"):
        synthesize(SMALL, written / "zero")
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_the_same_settings_give_the_same_bytes_in_an_empty_folder(written, tmp_path):
    calls = []
    synthesize(SMALL, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert hashes(tmp_path) == hashes(written)
    assert calls == [(number, 30) for number in range(1, 31)]


def test_interruption_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(SMALL, tmp_path / "digits", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        synthesize(SMALL, tmp_path / "file" / "digits")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "speech"}, "'tones', 'words', 'music' or 'piano'"),
        ({"clips": 0}, "greater than or equal to 1"),
        ({"rate": 4_000}, "greater than or equal to 8000"),
        ({"seconds": 0.1}, "greater than or equal to 0.5"),
        ({"speakers": 0}, "greater than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"noise": (30, 10)}, "the lower ratio comes first"),
        ({"kind": "music", "rate": 8_000, "seconds": 1}, "8000 samples; expected 12288 at least"),
        ({"lenght": 5}, "Extra inputs"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        SynthesisConfig(**settings)


@pytest.mark.parametrize("index", [-1, 30])
def test_a_clip_that_there_is_not(index):
    with pytest.raises(IndexError, match="expected 0 to 29"):
        clip(SMALL, index)
