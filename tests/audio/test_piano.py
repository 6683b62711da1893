"""Recitals on a piano: scores as they are written, clips that follow one another, tunes on one side, the same bytes."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from seqdomains.audio.synthesis import SynthesisConfig, clip, synthesize
from seqdomains.audio.synthesis import chorales as chorales_module
from seqdomains.audio.synthesis import piano as piano_module
from seqdomains.audio.synthesis.chorales import Note, by_tune, chorales, read_chorale
from seqdomains.audio.synthesis.piano import EVERY, Performance, Recital, recorded
from seqdomains.errors import InputError
from seqdomains.files import sha256

PACKAGES = ("music21", "midirenderer", "pretty_midi")
needs_packages = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES), reason="needs pip install 'seqdomains[piano]'"
)

FAKE_RENDERER = '''
import io, numpy as np, soundfile

def render_wave_from(font, midi):
    """A second of noise that the two decide, and four of silence."""
    seed = np.frombuffer(font + midi, np.uint8).astype(np.uint32)
    sound = np.zeros((5 * 48000, 2), np.float32)
    sound[:48000] = 0.1 * np.random.default_rng(seed).standard_normal((48000, 1))
    out = io.BytesIO()
    soundfile.write(out, sound, 48000, format="WAV", subtype="PCM_16")
    return out.getvalue()
'''


def note(step, octave, duration, *, alter=0, tie=(), chord=False):
    ties = "".join(f'<tie type="{one}"/>' for one in tie)
    pitch = f"<pitch><step>{step}</step><alter>{alter}</alter><octave>{octave}</octave></pitch>"
    return f"<note>{'<chord/>' if chord else ''}{pitch}<duration>{duration}</duration>{ties}</note>"


def rest(duration):
    return f"<note><rest/><duration>{duration}</duration></note>"


def measure(*inside, divisions=None, repeat=None):
    before = "" if divisions is None else f"<attributes><divisions>{divisions}</divisions></attributes>"
    after = "" if repeat is None else f'<barline><repeat direction="{repeat}"/></barline>'
    return f"<measure>{before}{''.join(inside)}{after}</measure>"


def write_score(path, *parts):
    text = "".join(f"<part>{''.join(part)}</part>" for part in parts)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr("score.xml", f"<score-partwise>{text}</score-partwise>")


def scale(first, steps="CDEFGABCDEFGAB"):
    return [measure(*(note(step, 4, 1) for step in first + steps), divisions=1)]


@pytest.fixture
def empty_caches():
    for cached in (chorales, piano_module.recital, piano_module._rendered, piano_module._font_bytes):
        cached.cache_clear()
    yield
    for cached in (chorales, piano_module.recital, piano_module._rendered, piano_module._font_bytes):
        cached.cache_clear()


@pytest.fixture
def stage(tmp_path, monkeypatch, empty_caches):
    """Packages in place of the real ones: twenty chorales of ten tunes, a renderer of noise, a sound font."""
    corpus = tmp_path / "site" / "music21" / "corpus" / "bach"
    corpus.mkdir(parents=True)
    (tmp_path / "site" / "music21" / "__init__.py").write_text("raise ImportError('its code is not to be run')")
    renderer = tmp_path / "site" / "midirenderer"
    renderer.mkdir()
    (renderer / "__init__.py").write_text(FAKE_RENDERER)
    font = tmp_path / "site" / "pretty_midi"
    font.mkdir()
    (font / "__init__.py").write_text("")
    (font / "TimGM6mb.sf2").write_bytes(b"RIFF\x04\x00\x00\x00sfbk")
    voice = scale("")
    for number in range(10):
        tune = "C" * number + "D"
        write_score(corpus / f"bwv{number}.mxl", scale(tune), voice, voice, voice)
        write_score(corpus / f"bwv{number}-other.mxl", scale(tune), voice, voice, scale("A"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    # Those of this stage: the real ones, if they were imported, come back with the patch.
    for name in PACKAGES:
        sys.modules.pop(name, None)


def test_a_score_is_read_as_it_is_written(tmp_path):
    """Divisions, alterations, ties over a bar, chords, rests, cursors that move, and a repeat."""
    path = tmp_path / "bwv1.mxl"
    upper = [
        measure(note("C", 5, 2), note("F", 4, 2, alter=1, tie=("start",)), divisions=2, repeat="backward"),
        measure(note("F", 4, 2, alter=1, tie=("stop",)), rest(2)),
    ]
    moved = [
        measure(note("G", 3, 1), note("B", 3, 1, alter=-1, chord=True), "<backup><duration>1</duration></backup>",
                "<forward><duration>2</duration></forward>", note("A", 2, 2), divisions=1),
        measure(note("A", 2, 1)),
    ]  # fmt: skip
    low = [measure(note("C", 3, 1), divisions=1), measure(rest(1))]
    write_score(path, upper, moved, low, low)
    found = read_chorale(path)
    assert found.name == "bwv1"
    # The first bar is played twice. Its longest voice has four quarters, so that the next begins with all.
    assert [one for one in found.notes if one.voice == 0] == [
        Note(0, 1, 72, 0),
        Note(1, 2, 66, 0),
        Note(4, 5, 72, 0),
        Note(5, 6, 66, 0),
        Note(8, 9, 66, 0),
    ]
    assert [(one.start, one.end, one.key) for one in found.notes if one.voice == 1] == [
        (0, 1, 55), (0, 1, 58), (2, 4, 45), (4, 5, 55), (4, 5, 58), (6, 8, 45), (8, 9, 45),
    ]  # fmt: skip
    assert found.quarters == 9
    assert found.tune == (-6, 6, -6, 0)


def test_tied_notes_are_one(tmp_path):
    path = tmp_path / "bwv1.mxl"
    tied = [measure(note("C", 4, 4, tie=("start",)), divisions=1), measure(note("C", 4, 2, tie=("stop",)))]
    again = [measure(note("C", 4, 4), divisions=1), measure(note("C", 4, 2))]
    write_score(path, tied, again, again, again)
    notes = read_chorale(path).notes
    assert [(one.start, one.end) for one in notes if one.voice == 0] == [(0, 6)]
    assert [(one.start, one.end) for one in notes if one.voice == 1] == [(0, 4), (4, 6)]


def test_scores_that_are_no_chorale_or_damaged(tmp_path):
    three = tmp_path / "three.mxl"
    write_score(three, *[scale("C")] * 3)
    assert read_chorale(three) is None
    bad = tmp_path / "bad.mxl"
    bad.write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="install music21 anew"):
        read_chorale(bad)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("score.xml", "<score-partwise><part>")
    with pytest.raises(InputError, match="no MusicXML"):
        read_chorale(bad)


def test_no_tune_is_on_both_sides_and_each_score_is_played_before_any_again(stage):
    tunes = {}
    for side in ("train", "test"):
        recital = Recital(3, side)
        played = [one.score.name for one in recital.between(0, 1000)]
        count = len(recital.scores)
        assert len(played) > 2 * count
        assert set(played[:count]) == set(played[count : 2 * count]) == set(recital.scores)
        assert len(set(played[:count])) == count
        tunes[side] = {one.score.tune for one in recital.between(0, 1000)}
    assert len(tunes["train"]) + len(tunes["test"]) == 10 == len(by_tune(chorales()))
    assert not tunes["train"] & tunes["test"]
    assert sorted(tunes["train"]) != sorted({one.score.tune for one in Recital(4, "train").between(0, 1000)})


def test_clips_follow_one_another_as_if_a_recital_had_been_cut(stage):
    """Whatever the length of a clip, the samples are those of one long recording; sides count for themselves."""
    whole, side, _ = recorded(1, 8_000 * 40, 8_000, 0, None)
    parts = [recorded(index, 8_000 * 8, 8_000, 0, None) for index in (1, 2, 3, 4, 5)]
    assert side == "train"
    assert {one for _, one, _ in parts} == {"train"}
    assert np.allclose(np.concatenate([samples for samples, _, _ in parts]), whole, atol=1e-12)
    assert np.abs(whole).max() > 0.1
    tests, sides, _ = zip(*(recorded(index, 8_000 * 8, 8_000, 0, None) for index in (0, EVERY)), strict=True)
    assert sides == ("test", "test")
    assert np.allclose(np.concatenate(tests), recorded(0, 8_000 * 16, 8_000, 0, None)[0], atol=1e-12)


def test_synthesized_folders_are_the_same_bytes_and_say_what_they_are(stage):
    config = SynthesisConfig(kind="piano", clips=10, seconds=5, rate=8_000, seed=5)
    for name in ("one", "two"):
        for cached in (piano_module.recital, piano_module._rendered):
            cached.cache_clear()
        synthesize(config, stage / name)
    one, two = ({path.name: sha256(path) for path in (stage / name).rglob("*.*")} for name in ("one", "two"))
    assert one == two
    assert len(one) == 12
    synthesize(config.model_copy(update={"seed": 6}), stage / "other")
    assert sha256(stage / "other" / "piano" / "1.wav") != one["1.wav"]
    rows = [json.loads(line) for line in (stage / "one" / "manifest.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["test", *["train"] * 7, "test", "train"]
    assert all(row["simulated"] and row["scores"] and len(row["scores"]) == len(row["tempo_bpm"]) for row in rows)
    heard = {
        side: {name for row in rows if row["split"] == side for name in row["scores"]} for side in ("train", "test")
    }
    assert heard["test"]
    assert not heard["test"] & heard["train"]
    record = json.loads((stage / "one" / "simulation.json").read_text())
    assert "Greentree" in record["attribution"]
    assert record["made_with"]["soundfont"] == sha256(stage / "site" / "pretty_midi" / "TimGM6mb.sf2")


def test_noise_is_what_is_asked_for_and_levels_are_not_changed(stage):
    config = SynthesisConfig(kind="piano", clips=2, seconds=5, rate=8_000)
    plain, noisy = clip(config, 1), clip(config.model_copy(update={"noise": (20.0, 20.0)}), 1)
    samples, _, _ = recorded(1, 40_000, 8_000, 0, None)
    assert np.array_equal(plain.samples, samples.astype(np.float32))
    assert "snr_db" not in plain.truth
    left = noisy.samples.astype(float) - samples
    assert 10 * np.log10(np.mean(samples**2) / np.mean(left**2)) == pytest.approx(20, abs=0.2)


def test_a_loud_font_is_cut_at_full_scale_and_counted(stage, monkeypatch):
    monkeypatch.setattr(piano_module, "_GAIN", 60.0)
    item = clip(SynthesisConfig(kind="piano", clips=2, seconds=5, rate=8_000), 1)
    assert np.abs(item.samples).max() == 1
    assert item.truth["clipped_samples"] == (np.abs(item.samples) == 1).sum() > 100


def test_midi_has_what_a_performance_plays(stage):
    mido = pytest.importorskip("mido")
    score = chorales()[0]
    performance = Performance(score, 0.0, 60.0, 64.0, (0, 1, 2))
    assert performance.midi() == Performance(score, 9.0, 60.0, 64.0, (0, 1, 2)).midi()
    assert performance.midi() != Performance(score, 0.0, 60.0, 64.0, (0, 1, 3)).midi()
    file = mido.MidiFile(file=io.BytesIO(performance.midi()))
    assert file.length == pytest.approx(performance.seconds + 4, abs=0.3)
    begins, at = [], 0.0
    for message in file:
        at += message.time
        if message.type == "note_on":
            begins.append((at, message.note, message.channel))
    assert len(begins) == len(score.notes)
    for (at, key, voice), one in zip(
        sorted(begins, key=lambda b: (b[2], b[0])), sorted(score.notes, key=lambda n: (n.voice, n.start)), strict=True
    ):
        assert (key, voice) == (one.key, one.voice)
        assert at == pytest.approx(one.start, abs=0.05)


def test_what_is_not_installed_is_said_with_the_command(tmp_path, monkeypatch, empty_caches):
    monkeypatch.setattr(chorales_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"music21.*pip install 'seqdomains\[piano\]'"):
        synthesize(SynthesisConfig(kind="piano", clips=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sound_font_must_be_there_and_is_of_piano(stage):
    with pytest.raises(InputError, match=r"no.sf2: no such file"):
        synthesize(SynthesisConfig(kind="piano", clips=2, soundfont=stage / "no.sf2"), stage / "out")
    with pytest.raises(ValidationError, match="soundfont: is of kind piano"):
        SynthesisConfig(kind="words", soundfont=stage / "no.sf2")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty (0 bytes)"),
        (b"RIFF", "begins with b'RIFF'"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "begins with b'RIFF\\x10\\x00\\x00\\x00WAVE'"),
        (b"<html>not found</html>", "begins with b'<html>not fo'"),
    ],
)
def test_a_file_that_is_no_sound_font_is_refused_before_anything_is_played(stage, monkeypatch, content, found):
    """Whether or not the first clips have a note, which a renderer would find."""
    monkeypatch.setattr(piano_module, "_PAUSE", (1000.0, 1000.0))
    font = stage / "mine.sf2"
    font.write_bytes(content)
    config = SynthesisConfig(kind="piano", clips=2, rate=8_000, seconds=5, soundfont=font)
    with pytest.raises(InputError) as caught:
        synthesize(config, stage / "out")
    assert str(caught.value) == (
        f"sound font {font}: {found}; expected RIFF of form sfbk: give an .sf2 of General MIDI, which has a piano"
    )
    assert not (stage / "out").exists()


def test_clips_that_a_pause_would_fill_are_refused():
    for seconds in (0.5, 1, 4.99):
        with pytest.raises(ValidationError, match=f"seconds: {seconds:g}; expected 5 at least of piano"):
            SynthesisConfig(kind="piano", seconds=seconds)
    assert SynthesisConfig(kind="piano", seconds=5).frames == 80_000


@needs_packages
def test_no_clip_of_the_least_length_is_silent(empty_caches):
    """The longest time without a key held: in a rest, and over the end of one piece and the beginning of the next."""
    quarter = 60 / piano_module._TEMPO[0]
    rests, leads, tails = [], [], []
    for score in chorales():
        until = 0.0
        for one in score.notes:
            # Keys are held for 0.88 of a note at least.
            rests.append(max(0.0, one.start - until))
            until = max(until, one.start + 0.88 * (one.end - one.start))
        leads.append(score.notes[0].start)
        tails.append(score.quarters - until)
    # Onsets and releases are drawn with 8 ms; eight deviations.
    late = 0.064
    assert quarter * max(rests) + late < 4.7 < piano_module.LEAST_SECONDS
    assert quarter * (max(leads) + max(tails)) + piano_module._PAUSE[1] + late < 4.7


@needs_packages
def test_a_font_that_is_cut_is_refused_before_anything_is_played(tmp_path, monkeypatch, empty_caches):
    monkeypatch.setattr(piano_module, "_PAUSE", (1000.0, 1000.0))
    whole = piano_module.font_of(None).read_bytes()
    (tmp_path / "cut.sf2").write_bytes(whole[: len(whole) // 2])
    config = SynthesisConfig(kind="piano", clips=2, seconds=5, soundfont=tmp_path / "cut.sf2")
    with pytest.raises(InputError, match=r"cut\.sf2: cannot be played"):
        synthesize(config, tmp_path / "out")


@needs_packages
def test_the_shortest_clips_are_heard(tmp_path, empty_caches):
    for seed in range(4):
        for index in (0, 1, 2):
            item = clip(SynthesisConfig(kind="piano", clips=3, seconds=5, rate=8_000, seed=seed), index)
            assert np.abs(item.samples).max() > 0.01


@needs_packages
def test_the_real_corpus_on_the_real_piano(tmp_path, empty_caches):
    """Hundreds of chorales; two renderings are the same bytes; a louder performance is louder."""
    scores = chorales()
    assert len(scores) > 300
    assert len(by_tune(scores)) > 200
    assert all(len(one.notes) > 1 and {note.voice for note in one.notes} == {0, 1, 2, 3} for one in scores)
    config = SynthesisConfig(kind="piano", clips=2, seconds=20)
    for name in ("one", "two"):
        piano_module._rendered.cache_clear()
        synthesize(config, tmp_path / name)
        sound, rate = soundfile.read(tmp_path / name / "piano" / "1.wav")
        assert (len(sound), rate) == (20 * 16_000, 16_000)
        assert 0.001 < np.sqrt(np.mean(sound[3 * rate :] ** 2)) < 0.3
    assert sha256(tmp_path / "one" / "piano" / "1.wav") == sha256(tmp_path / "two" / "piano" / "1.wav")
    loud, soft = (
        piano_module._rendered(
            Performance(scores[0], 0.0, 90.0, velocity, (0, 1, 2)), 16_000, piano_module.font_of(None)
        )
        for velocity in (90.0, 45.0)
    )
    assert np.mean(loud**2) > 2 * np.mean(soft**2)


@needs_packages
def test_a_note_has_its_pitch(empty_caches):
    score = chorales_module.Chorale("one", (Note(0, 4, 69, 0),))
    sound = piano_module._rendered(Performance(score, 0.0, 60.0, 80.0, (0, 1, 2)), 16_000, piano_module.font_of(None))
    spectrum = np.abs(np.fft.rfft(sound[8_000:40_000] * np.hanning(32_000)))
    assert spectrum[:1000].argmax() / 2 == pytest.approx(440, rel=0.01)
