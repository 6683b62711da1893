"""Ten spoken words: a source, glottal pulses or noise, shaped by formants that move from phone to phone.

The formant model is Klatt's cascade (1980, doi:10.1121/1.383940), applied frame by frame in the frequency domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seqdomains.audio.synthesis.phones import PHONES, SPELLING
from seqdomains.audio.synthesis.sound import Samples, Sound, generator, harmonics, periodic

Spectra = NDArray[np.complex128]

WORDS = tuple(SPELLING)

_SPEAKER_STREAM = 6 << 32
_FRAMES_PER_SECOND = 200
_BANDWIDTHS = (60.0, 90.0, 150.0)
# In Hz, those of an even tube of 17.5 cm. Without them a third formant of 2,500 Hz would lie 14 dB lower.
_HIGHER_FORMANTS = (3_500.0, 4_500.0, 5_500.0, 6_500.0, 7_500.0)
_HIGHER_BANDWIDTHS = (200.0, 300.0, 400.0, 500.0, 600.0)


@dataclass(frozen=True)
class Speaker:
    """Traits of a voice.

    Parameters
    ----------
    pitch : float
        Fundamental frequency in Hz.
    fall : float
        By how many octaves it falls in a word.
    tract : ndarray, shape (3,)
        Factor on each formant: the length of the vocal tract, and what is not the same for all of it (Fant 1966).
    pace : float
        Factor on the speed.
    breath : float
        Noise in the glottal source, relative to its pulses.
    slope : float
        The harmonics' amplitudes fall with this power.
    level : float
        Peak in dB below full scale.
    """

    pitch: float
    fall: float
    tract: Samples
    pace: float
    breath: float
    slope: float
    level: float

    @classmethod
    def draw(cls, seed: int, number: int) -> Speaker:
        """Return the speaker of a number.

        Examples
        --------
        >>> voice = Speaker.draw(seed=0, number=3)
        >>> 80 < voice.pitch < 280, 0.8 < voice.pace < 1.25
        (True, True)
        """
        rng = generator(seed, _SPEAKER_STREAM, number)
        return cls(
            pitch=float(np.exp(rng.uniform(*np.log((80, 280))))),
            fall=rng.uniform(-0.1, 0.5),
            tract=rng.uniform(0.85, 1.2) * np.exp(0.08 * rng.standard_normal(3)),
            pace=rng.uniform(0.8, 1.25),
            breath=rng.uniform(0.02, 0.3),
            slope=rng.uniform(0.7, 1.8),
            level=rng.uniform(-27, -6),
        )


def word(name: str, speaker: Speaker, most: int, rate: int, rng: np.random.Generator) -> Sound:
    """Let a speaker say a word, with silence before and behind.

    Parameters
    ----------
    name : str
        One of `WORDS`.
    speaker : Speaker
        Whose voice it is.
    most : int
        Longest length in samples; a word that does not fit is spoken faster.
    rate : int
        Samples per second, in Hz.
    rng : Generator
        Source of what differs from one take to the next: durations, formants, pitch, level, silence.

    Returns
    -------
    Sound

    Examples
    --------
    >>> sound = word("seven", Speaker.draw(0, 0), 8_000, 8_000, np.random.default_rng(0))
    >>> ((start, end),) = sound.spans
    >>> 0 < start < end < len(sound.samples) <= 8_000
    True
    """
    segments = [segment for phone in SPELLING[name] for segment in PHONES[phone]]
    if not (segments[0].voice or segments[0].friction):
        del segments[0]  # the closure of a stop, which is not heard behind silence
    lead, trail = (int(rate * silence) for silence in rng.uniform(0.03, 0.15, 2))
    seconds = np.array([item.seconds for item in segments]) * rng.lognormal(0, 0.12, len(segments)) / speaker.pace
    seconds *= min(1.0, (most - lead - trail) / rate / seconds.sum())
    length = int(rate * seconds.sum())

    hop = rate // _FRAMES_PER_SECOND
    frames = length // hop + 1
    middle = np.arange(1, frames + 1) * hop / rate
    segment = np.minimum(np.searchsorted(np.cumsum(seconds), middle), len(segments) - 1)
    # Articulators need about 50 ms from one target to the next, larynx and constriction 15 ms.
    targets = np.array([item.formants for item in segments]) * speaker.tract
    targets *= np.exp(0.06 * rng.standard_normal(targets.shape))
    formants = _smooth(targets[segment], 5)
    band = np.array([item.band for item in segments])[segment] * speaker.tract.mean()
    strengths = np.array([(item.voice, item.friction) for item in segments])
    gains = _smooth((strengths * rng.lognormal(0, 0.3, strengths.shape))[segment], 2)

    size = 1 << (6 * hop).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / rate)
    tract = gains[:, :1] * _resonance(formants, _BANDWIDTHS, frequency)
    tract *= _resonance(float(speaker.tract.mean()) * np.array([_HIGHER_FORMANTS]), _HIGHER_BANDWIDTHS, frequency)
    constriction = gains[:, 1:] * np.exp(-0.5 * ((frequency - band[:, :1]) / band[:, 1:]) ** 2)
    spectra = _spectra(_glottal_source(speaker, middle, hop, rate, rng), hop, size) * tract
    spectra += _spectra(rng.standard_normal((frames + 1) * hop), hop, size) * constriction
    spoken = _overlap_add(np.fft.irfft(spectra), hop)[:length]

    # 5 ms at the start, so that there is no click; at the end the voice takes 40 ms to die away.
    edges = np.minimum(np.arange(length) / hop, np.arange(length)[::-1] / (8 * hop))
    padded = np.pad(spoken * np.minimum(edges, 1), (lead, trail))
    return Sound(padded, speaker.level + rng.uniform(-3, 3), ((lead, lead + length),), {"pitch_hz": speaker.pitch})


def _glottal_source(speaker: Speaker, middle: Samples, hop: int, rate: int, rng: np.random.Generator) -> Samples:
    """Return pulses at a pitch that falls and wavers, with breath; `middle` has the time of each frame in s."""
    octaves = speaker.fall * (0.5 - middle / middle[-1]) + 0.05 * rng.standard_normal()
    octaves += _smooth(0.04 * rng.standard_normal((len(middle), 1)), 5)[:, 0]
    time = np.arange((len(middle) + 1) * hop) / rate
    pitch = np.interp(time, middle, speaker.pitch * np.exp2(octaves))
    pulses = periodic(np.cumsum(pitch) / rate, harmonics(float(pitch.max()), rate) ** -speaker.slope)
    return np.asarray(pulses / pulses.std() + speaker.breath * rng.standard_normal(len(time)))


def _smooth(track: Samples, width: int) -> Samples:
    """Average over a Hann window of `width` frames to either side; `track` has shape (frames, n)."""
    window = np.hanning(2 * width + 3)[1:-1]
    padded = np.pad(track, ((width, width), (0, 0)), mode="edge")
    return np.asarray(sliding_window_view(padded, len(window), axis=0) @ window / window.sum())


def _resonance(formants: Samples, bandwidths: tuple[float, ...], frequency: Samples) -> Spectra:
    """Return the response of resonators in a row, each of gain 1 at 0 Hz, of shape (frames, frequencies)."""
    centre = formants[:, :, None]
    width = np.array(bandwidths)[:, None]
    return np.asarray(np.prod(centre**2 / (centre**2 - frequency**2 + 1j * frequency * width), axis=1))


def _spectra(samples: Samples, hop: int, size: int) -> Spectra:
    """Return the spectra of frames of two hops under a Hann window, whose halves add up to 1."""
    chunks = samples.reshape(-1, hop)
    return np.fft.rfft(np.hstack((chunks[:-1], chunks[1:])) * np.hanning(2 * hop + 1)[:-1], size)


def _overlap_add(frames: Samples, hop: int) -> Samples:
    """Add frames, each a hop after the one before it, and six hops long: in 20 ms a formant of 60 Hz falls by 33 dB."""
    joined = np.zeros((len(frames) + 6, hop))
    for part in range(6):
        joined[part : part + len(frames)] += frames[:, part * hop : (part + 1) * hop]
    return joined.ravel()
