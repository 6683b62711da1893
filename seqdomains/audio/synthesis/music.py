"""Melodies in which one bar, the motif, returns exactly after a long period, so that context has something to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.synthesis.sound import Envelope, Samples, Sound, generator, harmonics, periodic

MOTIFS = tuple(f"motif{number}" for number in range(6))
PERIODS = tuple(2**power for power in range(13, 18))
"""After how many samples a motif may return."""
LEAST_FRAMES = PERIODS[0] * 3 // 2
"""The shortest period with a bar of half its length behind it."""

STEPS = 8
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}

_MOTIF_KEY = 206  # the first that gives six rhythms, of five notes or more, and melodies that move
_MOTIF_STREAM = 0


@dataclass(frozen=True)
class Bar:
    """Notes of one bar: the first of `STEPS` steps, the end, and the degree of the scale of each."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    degrees: NDArray[np.int64]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Bar:
        """Draw a rhythm and a walk along the scale."""
        starts = np.flatnonzero(np.append(True, rng.random(STEPS - 1) < 0.6))
        walk = rng.integers(0, 8) + np.cumsum(rng.integers(-2, 3, len(starts)))
        return cls(starts, np.append(starts[1:], STEPS), np.clip(walk, -3, 9))


@dataclass(frozen=True)
class Instrument:
    """How notes sound: tonic in Hz, semitones of the scale, fall of the harmonics, envelope."""

    tonic: float
    scale: tuple[int, ...]
    slope: float
    envelope: Envelope

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Instrument:
        """Draw an instrument with its key."""
        scale = tuple(SCALES.values())[rng.integers(len(SCALES))]
        return cls(165 * 2 ** rng.uniform(0, 1), scale, rng.uniform(1, 3), Envelope.draw(rng))

    def play(self, bar: Bar, frames: int, rate: int) -> Samples:
        """Return a bar as sound, silent at both ends."""
        samples = np.zeros(frames)
        for start, end, degree in zip(bar.starts, bar.ends, bar.degrees, strict=True):
            octave, tone = divmod(int(degree), len(self.scale))
            pitch = self.tonic * 2 ** (octave + self.scale[tone] / 12)
            part = samples[start * frames // STEPS : end * frames // STEPS]
            wave = periodic(pitch / rate * np.arange(len(part)), harmonics(pitch, rate) ** -self.slope)
            part[:] = wave * self.envelope.over(len(part))
        return samples


def motif(number: int) -> Bar:
    """Return a motif: the same for every seed, so that a model trained on one simulation knows those of another.

    Examples
    --------
    >>> motif(0).degrees.tolist()
    [6, 6, 8, 9, 8, 9]
    """
    return Bar.draw(generator(_MOTIF_KEY, _MOTIF_STREAM, number))


def periods(frames: int, rate: int) -> tuple[int, ...]:
    """Return the periods after which a motif can return in so many samples; a bar is half a period or 1 s at most.

    Examples
    --------
    >>> periods(80_000, 16_000)
    (8192, 16384, 32768)
    """
    return tuple(period for period in PERIODS if period + min(period // 2, rate) <= frames)


def melody(number: int, frames: int, rate: int, rng: np.random.Generator) -> Sound:
    """Draw a melody in which a motif returns, sample for sample, while the bars between are new each time.

    Parameters
    ----------
    number : int
        Of the motif, an index into `MOTIFS`.
    frames : int
        Length in samples, all of it melody.
    rate : int
        Samples per second, in Hz.
    rng : Generator
        Source of the period, tempo, instrument, other bars and level.

    Returns
    -------
    Sound
        `spans` are the motif's returns that are heard whole, two at least; `truth` has its period in samples.

    Examples
    --------
    >>> sound = melody(0, 40_000, 8_000, np.random.default_rng(0))
    >>> (first, end), (again, _) = sound.spans[:2]
    >>> period = int(sound.truth["period_samples"])
    >>> again - first == period, bool((sound.samples[again : end + period] == sound.samples[first:end]).all())
    (True, True)
    """
    period = int(rng.choice(periods(frames, rate)))
    # Bars of half a second to one, two in a period at least.
    bars = int(rng.integers(max(2, -(-period // rate)), max(2, 2 * period // rate) + 1))
    length = period // bars
    instrument = Instrument.draw(rng)
    own = instrument.play(motif(number), length, rate)
    first = int(rng.integers(min(period - 1, frames - period - length) + 1))
    # With a period before and one behind, bars that the clip cuts need no care.
    canvas = np.zeros(frames + 2 * period)
    spans = []
    for start in range(first - period, frames, period):
        for bar in range(bars):
            begin = start + bar * period // bars
            end = begin + length
            if bar == 0 and begin >= 0 and end <= frames:
                canvas[period + begin : period + end] = own
                spans.append((begin, end))
            elif begin < frames:
                canvas[period + begin : period + end] = instrument.play(Bar.draw(rng), length, rate)
    truth = {"period_samples": period, "tonic_hz": instrument.tonic}
    return Sound(canvas[period : period + frames], rng.uniform(-30, -3), tuple(spans), truth)
