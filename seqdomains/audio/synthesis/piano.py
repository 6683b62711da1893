"""Recitals of Bach's chorales on a sampled piano, cut into clips of a minute: what long contexts can be tried on."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from seqdomains.audio.synthesis.chorales import Chorale, by_tune, chorales, installed, require
from seqdomains.audio.synthesis.sound import Samples, generator
from seqdomains.errors import InputError
from seqdomains.files import sha256

Side = Literal["train", "test"]

EVERY = 8
"""One clip in so many is a test clip, and so is one tune in so many."""

LEAST_SECONDS = 5.0
"""Of a clip, which then has a note: at the lowest tempo no key is held for up to 4.7 s, in the longest rest of a score,
or from the end of one to the first note of the next (tests/audio/test_piano.py)."""

PACKAGES = ("music21", "midirenderer", "pretty-midi")
_SOUNDFONT = "TimGM6mb.sf2"
_ORDER_STREAM = {"train": 7 << 32, "test": 8 << 32}
_PLAYED_STREAM = {"train": 9 << 32, "test": 10 << 32}
_SIDE_STREAM = 11 << 32
# Quarters a minute, and MIDI's velocity, whose least is 1.
_TEMPO = (56.0, 108.0)
_VELOCITY = (40.0, 96.0)
# Seconds from the end of one piece to the next, and how long the last note may ring.
_PAUSE = (1.0, 2.5)
_RING = 4.0
# The renderer leaves room for 16 instruments. With this the loudest of 96 clips peaks at -4.7 dB.
_GAIN = 3.0


@dataclass(frozen=True)
class Performance:
    """A chorale as it is played once.

    Parameters
    ----------
    score : Chorale
    begin : float
        In s from the beginning of the recital.
    tempo : float
        Quarters a minute.
    velocity : float
        Mean velocity of the keys, as in MIDI.
    rng : tuple of int
        Seed, stream and number of what differs from note to note.
    """

    score: Chorale
    begin: float
    tempo: float
    velocity: float
    rng: tuple[int, int, int]

    @property
    def seconds(self) -> float:
        """Until the last key is released."""
        return self.score.quarters * 60 / self.tempo

    def midi(self) -> bytes:
        """Return a file of MIDI in ticks of 1 ms, a channel for each voice: two may hold one key."""
        rng = generator(*self.rng)
        events = []
        swell = rng.uniform(0, 2 * math.pi)
        for note in self.score.notes:
            late, held, loud = rng.normal(0, 8), rng.uniform(0.88, 1.0), rng.normal(0, 4)
            begin = max(0, round(60_000 * note.start / self.tempo + late))
            end = max(begin + 30, round(60_000 * (note.start + held * (note.end - note.start)) / self.tempo + late))
            # The tune stands out, and phrases of about 16 quarters swell.
            loud += self.velocity + (6 if note.voice == 0 else 0) + 5 * math.sin(swell + note.start * 2 * math.pi / 16)
            velocity = min(127, max(1, round(loud)))
            events += [(begin, 1, 0x90 | note.voice, note.key, velocity), (end, 0, 0x80 | note.voice, note.key, 0)]
        return _midi_file(sorted(events), tail=round(1000 * _RING))


class Recital:
    """Performances one after the other without end, each chorale of a side once before any is played again.

    Parameters
    ----------
    seed : int
    side : {"train", "test"}
        No tune is on both.

    Examples
    --------
    >>> recital = Recital(seed=0, side="test")  # doctest: +SKIP
    >>> [performance.score.name for performance in recital.between(0, 60)]  # doctest: +SKIP
    ['bwv244.25']
    """

    def __init__(self, seed: int, side: Side) -> None:
        self._seed, self._side = seed, side
        groups = by_tune(chorales())
        places = generator(seed, _SIDE_STREAM, 0).permutation(len(groups))
        mine = [group for place, group in zip(places, groups, strict=True) if (place % EVERY == 0) == (side == "test")]
        self._scores = [chorale for group in mine for chorale in group]
        self._played: list[Performance] = []
        self._until = 0.0

    @property
    def scores(self) -> list[str]:
        """The names of all chorales of the side."""
        return [chorale.name for chorale in self._scores]

    def between(self, first: float, end: float) -> list[Performance]:
        """Return the performances that are heard between two times, in s."""
        while self._until < end:
            self._play_next()
        return [one for one in self._played if one.begin < end and one.begin + one.seconds + _RING > first]

    def _play_next(self) -> None:
        turn, place = divmod(len(self._played), len(self._scores))
        order = generator(self._seed, _ORDER_STREAM[self._side], turn).permutation(len(self._scores))
        key = (self._seed, _PLAYED_STREAM[self._side], 2 * len(self._played))
        rng = generator(*key)
        tempo = float(np.exp(rng.uniform(*np.log(_TEMPO))))
        begin = self._until + rng.uniform(*_PAUSE)
        notes = (*key[:2], key[2] + 1)
        performance = Performance(self._scores[order[place]], begin, tempo, rng.uniform(*_VELOCITY), notes)
        self._played.append(performance)
        self._until = begin + performance.seconds


def recorded(
    index: int, frames: int, rate: int, seed: int, soundfont: Path | None
) -> tuple[Samples, Side, list[Performance]]:
    """Return the samples of a clip, the side that it is on, and what is played in it.

    Clips of a side follow one another as if a recital had been recorded and cut.

    Raises
    ------
    InputError
        A package is not installed, or the sound font cannot be read.
    """
    side: Side = "train" if index % EVERY else "test"
    number = index // EVERY if side == "test" else index - index // EVERY - 1
    first = number * frames
    font = font_of(soundfont)
    heard = recital(seed, side).between(first / rate, (first + frames) / rate)
    samples = np.zeros(frames)
    for performance in heard:
        sound = _rendered(performance, rate, font)
        start = round(performance.begin * rate) - first
        into, of = max(0, start), max(0, -start)
        taken = sound[of : of + frames - into]
        samples[into : into + len(taken)] += taken
    return samples, side, heard


@cache
def recital(seed: int, side: Side) -> Recital:
    """Return the recital of a seed and side."""
    return Recital(seed, side)


def font_of(soundfont: Path | None) -> Path:
    """Return the sound font that is played, that of pretty-midi if none is given.

    Raises
    ------
    InputError
        There is none.
    """
    path = soundfont or require("pretty_midi") / _SOUNDFONT
    if not path.is_file():
        raise InputError(f"sound font {path}: no such file; give one of General MIDI (.sf2), which has a piano")
    return path


def made_with(soundfont: Path | None) -> dict[str, str]:
    """Return what decides the samples beside the settings: versions, and the digest of the sound font.

    Raises
    ------
    InputError
        A package is not installed, there is no such sound font, or it cannot be played.
    """
    for package in ("music21", "midirenderer"):
        require(package)
    font = font_of(soundfont)
    # Nothing is played, for which the font is read as a whole: 6 ms (measured), before hours of rendering.
    _played(font, _midi_file([], tail=0))
    return {name: installed(name) for name in PACKAGES[:2]} | {"soundfont": sha256(font)}


@lru_cache(maxsize=2)
def _rendered(performance: Performance, rate: int, soundfont: Path) -> Samples:
    """Return a performance as sound. Clips that follow one another share one."""
    samples, rendered = soundfile.read(io.BytesIO(_played(soundfont, performance.midi())), dtype="float32")
    return np.asarray(_GAIN * soxr.resample(samples.mean(axis=1), rendered, rate), dtype=np.float64)


def _played(soundfont: Path, midi: bytes) -> bytes:
    """Return a file of MIDI as one of WAV."""
    require("midirenderer")
    from midirenderer import render_wave_from

    try:
        wave: bytes = render_wave_from(_font_bytes(soundfont), midi)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"sound font {soundfont}: cannot be played ({error}); give an .sf2 of General MIDI") from error
    return wave


@lru_cache(maxsize=1)
def _font_bytes(path: Path) -> bytes:
    """Return a sound font, which is a RIFF file of form sfbk (SoundFont 2.04, section 4)."""
    try:
        found = path.read_bytes()
    except OSError as error:
        raise InputError(f"sound font {path}: {error.strerror or error}; give another") from error
    if found[:4] != b"RIFF" or found[8:12] != b"sfbk":
        begins = f"begins with {found[:12]!r}" if found else "is empty (0 bytes)"
        raise InputError(
            f"sound font {path}: {begins}; expected RIFF of form sfbk: give an .sf2 of General MIDI, which has a piano"
        )
    return found


def _midi_file(events: list[tuple[int, int, int, int, int]], *, tail: int) -> bytes:
    """Return a Standard MIDI File (1.0) of one track: 500 ticks a quarter of half a second, so that a tick is 1 ms."""
    track = bytearray(b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big"))
    at = 0
    for time, _, status, key, velocity in events:
        track += _varying(time - at) + bytes((status, key, velocity))
        at = time
    track += _varying(tail) + b"\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _varying(number: int) -> bytes:
    """Return a number of seven bits a byte, of which all but the last have the eighth set.

    Examples
    --------
    >>> _varying(0).hex(), _varying(127).hex(), _varying(128).hex(), _varying(4000).hex()
    ('00', '7f', '8100', '9f20')
    """
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(0x80 | number & 0x7F)
    return bytes(reversed(digits))
