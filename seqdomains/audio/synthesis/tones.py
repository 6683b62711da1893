"""Tones: the label is the timbre, at any pitch, level and onset."""

from __future__ import annotations

import numpy as np

from seqdomains.audio.synthesis.sound import Envelope, Samples, Sound, harmonics, periodic

TIMBRES = ("sine", "triangle", "square", "sawtooth", "pluck", "bell", "chirp", "noise")
PITCH = (80.0, 800.0)


def tone(timbre: str, frames: int, rate: int, rng: np.random.Generator) -> Sound:
    """Draw a tone.

    Parameters
    ----------
    timbre : str
        One of `TIMBRES`.
    frames : int
        Length in samples; the tone takes 30 to 90 % of it, the rest is silent.
    rate : int
        Samples per second, in Hz.
    rng : Generator
        Source of the pitch (80 to 800 Hz), onset, length, envelope and level.

    Returns
    -------
    Sound
        `truth` has the pitch in Hz: of a chirp the first, of a noise band the middle.

    Examples
    --------
    >>> sound = tone("pluck", 8_000, 8_000, np.random.default_rng(0))
    >>> len(sound.samples), 80 < sound.truth["pitch_hz"] < 800
    (8000, True)
    """
    length = int(frames * rng.uniform(0.3, 0.9))
    start = int(rng.integers(frames - length + 1))
    # Whole samples and a half: the periods that the plucked string can have.
    pitch = rate / (int(rate / np.exp(rng.uniform(*np.log(PITCH)))) + 0.5)
    samples = np.zeros(frames)
    wave = _wave(timbre, length, pitch, rate, rng)
    samples[start : start + length] = wave * Envelope.draw(rng).over(length)
    return Sound(samples, rng.uniform(-30, -3), ((start, start + length),), {"pitch_hz": pitch})


def _wave(timbre: str, frames: int, pitch: float, rate: int, rng: np.random.Generator) -> Samples:
    time = np.arange(frames) / rate
    order = harmonics(pitch, rate)
    match timbre:
        case "sine":
            return periodic(pitch * time, np.ones(1))
        case "triangle":
            return periodic(pitch * time, np.sin(np.pi / 2 * order) / order**2)
        case "square":
            return periodic(pitch * time, order % 2 / order)
        case "sawtooth":
            return periodic(pitch * time, 1 / order)
        case "pluck":
            return _pluck(frames, int(rate / pitch), rng)
        case "bell":
            return _bell(time, pitch, rate, rng)
        case "chirp":
            # At most two octaves: 3,200 Hz, which a rate of 8,000 Hz still carries.
            octaves = rng.choice((-1, 1)) * rng.uniform(1, 2) / time[-1]
            return periodic(pitch * (np.exp2(octaves * time) - 1) / (octaves * np.log(2)), np.ones(1))
        case _:
            frequency = np.fft.rfftfreq(frames, 1 / rate)
            spectrum = np.fft.rfft(rng.standard_normal(frames))
            # Half an octave.
            spectrum[(frequency < pitch * 2**-0.25) | (frequency > pitch * 2**0.25)] = 0
            return np.fft.irfft(spectrum, frames)


def _pluck(frames: int, period: int, rng: np.random.Generator) -> Samples:
    """Return a plucked string (Karplus and Strong 1983, doi:10.2307/3680062), `period` and a half samples a cycle.

    Sample n is the mean of samples n - period and n - period - 1; the string starts as noise.
    """
    string = np.append(0.0, rng.uniform(-1, 1, period))
    cycles = [string[1:]]
    for _ in range(frames // period):
        string = np.append(string[-1], (string[1:] + string[:-1]) / 2)
        cycles.append(string[1:])
    return np.concatenate(cycles)[:frames]


def _bell(time: Samples, pitch: float, rate: int, rng: np.random.Generator) -> Samples:
    """Return a bell by frequency modulation (Chowning 1973, J. Audio Eng. Soc. 21:526): ratio 1.4, index dying away."""
    ratio = 1.4
    # Carson's rule: the highest side band of note, pitch (1 + ratio (index + 1)), stays below half the rate.
    most = (rate / 2 / pitch - 1) / ratio - 1
    decay = np.exp(-time / rng.uniform(0.1, 0.5))
    swing = min(5.0, most) * decay * np.sin(2 * np.pi * ratio * pitch * time)
    return np.asarray(decay * np.sin(2 * np.pi * pitch * time + swing))
