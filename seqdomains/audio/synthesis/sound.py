"""What tones, words and melodies are made of: draws by number, waves, envelopes, noise; and a sound with its truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.sampling import counter_words

Samples = NDArray[np.floating[Any]]

# Points of one period. Between them lines: 100 harmonics are exact to 0.3 % of the amplitude of the hundredth.
_TABLE = 4096


@dataclass(frozen=True)
class Sound:
    """A sound before its noise.

    Parameters
    ----------
    samples : ndarray of float64, shape (frames,)
        At any scale.
    level : float
        Peak of the clip that it becomes, in dB below full scale.
    spans : tuple of (int, int)
        Where that which the label names sounds: first sample and end, half-open.
    truth : mapping
        What else is known, by name with unit.
    """

    samples: Samples
    level: float
    spans: tuple[tuple[int, int], ...]
    truth: Mapping[str, float]


def generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """Return the random numbers of one clip, speaker or motif: a function of the three arguments alone.

    Examples
    --------
    >>> generator(0, 1, 5).random() == generator(0, 1, 5).random() != generator(0, 1, 6).random()
    True
    """
    return np.random.Generator(np.random.Philox(key=counter_words(seed, stream, number, 1, words=4)[0, :2]))


def harmonics(pitch: float, rate: int) -> Samples:
    """Return the numbers of the harmonics that lie below half the sampling rate, so that none folds back.

    Examples
    --------
    >>> harmonics(1_500.0, 8_000)
    array([1., 2.])
    """
    return np.arange(1.0, np.ceil(rate / 2 / pitch))


def periodic(phase: Samples, amplitudes: Samples) -> Samples:
    """Return a sum of sines: harmonic k has amplitude `amplitudes[k - 1]`.

    Parameters
    ----------
    phase : ndarray, shape (frames,)
        In periods, not in radians.
    amplitudes : ndarray, shape (harmonics,)

    Returns
    -------
    ndarray, shape (frames,)

    Examples
    --------
    >>> periodic(np.array([0.0, 0.25, 0.75]), np.array([1.0, 0.5])).round(6).tolist()
    [0.0, 1.0, -1.0]
    """
    spectrum = np.zeros(_TABLE // 2 + 1, complex)
    spectrum[1 : len(amplitudes) + 1] = -0.5j * _TABLE * amplitudes
    return np.interp(phase * _TABLE, np.arange(_TABLE), np.fft.irfft(spectrum), period=_TABLE)


@dataclass(frozen=True)
class Envelope:
    """Attack, decay and release as shares of a note's length, and the amplitude between decay and release.

    Examples
    --------
    >>> Envelope(attack=0.25, decay=0.25, sustain=0.5, release=0.25).over(5).tolist()
    [0.0, 1.0, 0.5, 0.5, 0.0]
    """

    attack: float
    decay: float
    sustain: float
    release: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Envelope:
        """Draw an envelope with some of each."""
        return cls(*rng.uniform((0.01, 0.05, 0.4, 0.1), (0.1, 0.2, 0.9, 0.3)).tolist())

    def over(self, frames: int) -> Samples:
        """Return the amplitudes, in straight lines, over a note of so many samples."""
        at = (0.0, self.attack, self.attack + self.decay, 1 - self.release, 1.0)
        return np.interp(np.linspace(0, 1, frames), at, (0.0, 1.0, self.sustain, self.sustain, 0.0))


def coloured_noise(frames: int, rng: np.random.Generator) -> Samples:
    """Return noise of power 1 whose spectrum falls by 0 (white) to 3 (pink) dB an octave, as drawn.

    Examples
    --------
    >>> noise = coloured_noise(1000, np.random.default_rng(0))
    >>> round(float(np.mean(noise**2)), 6)
    1.0
    """
    tilt = rng.uniform(0, 0.5)
    spectrum = np.fft.rfft(rng.standard_normal(frames))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** -tilt
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, frames)
    noise /= noise.std()
    return noise
