"""One clip of a simulation: sound, noise, level and truth, a function of the settings and its number alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.synthesis.config import SynthesisConfig
from seqdomains.audio.synthesis.music import melody
from seqdomains.audio.synthesis.sound import Sound, coloured_noise, generator
from seqdomains.audio.synthesis.tones import tone
from seqdomains.audio.synthesis.words import Speaker, word

_CLIP_STREAM = 5 << 32


@dataclass(frozen=True)
class Clip:
    """A simulated recording.

    Parameters
    ----------
    samples : ndarray of float32, shape (frames,)
        Full scale is 1.
    rate : int
        Samples per second, in Hz.
    label : str
        Timbre, word or motif.
    speaker : str or None
        Whose word it is.
    events : tuple of (float, float, str)
        Where that which the label names sounds: start and end in s, label.
    truth : mapping
        Signal-to-noise ratio (power within the events over power of the noise) and peak level in dB, and what else is
        known of the kind: pitch or tonic in Hz, period of a motif in samples.
    """

    samples: NDArray[np.float32]
    rate: int
    label: str
    speaker: str | None
    events: tuple[tuple[float, float, str], ...]
    truth: Mapping[str, float]


def clip(config: SynthesisConfig, index: int) -> Clip:
    """Return a clip of a simulation.

    Neighbouring numbers differ in their label, then in their speaker, so that every speaker says every word.

    Parameters
    ----------
    config : SynthesisConfig
        What is simulated.
    index : int
        Number of the clip, 0 to `len(config) - 1`.

    Returns
    -------
    Clip

    Raises
    ------
    IndexError
        There is no such clip.

    Examples
    --------
    >>> config = SynthesisConfig(kind="words", clips=4, speakers=2, rate=8000)
    >>> [(item.label, item.speaker) for item in (clip(config, index) for index in (0, 1, 10, 20))]
    [('zero', 's00'), ('one', 's00'), ('zero', 's01'), ('zero', 's00')]
    """
    if not 0 <= index < len(config):
        raise IndexError(f"clip {index} of {len(config)}; expected 0 to {len(config) - 1}")
    take, number = divmod(index, len(config.classes))
    label = config.classes[number]
    rng = generator(config.seed, _CLIP_STREAM, index)
    speaker = None
    match config.kind:
        case "tones":
            sound = tone(label, config.frames, config.rate, rng)
        case "words":
            speaker = take % config.speakers
            sound = word(label, Speaker.draw(config.seed, speaker), config.frames, config.rate, rng)
        case "music":
            sound = melody(number, config.frames, config.rate, rng)
    ratio = rng.uniform(*config.noise)
    return Clip(
        samples=_recorded(sound, ratio, rng),
        rate=config.rate,
        label=label,
        speaker=None if speaker is None else f"s{speaker:02d}",
        events=tuple((start / config.rate, end / config.rate, label) for start, end in sound.spans),
        truth={"snr_db": ratio, "level_dbfs": sound.level, **sound.truth},
    )


def _recorded(sound: Sound, ratio: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add noise, then bring the sum to the level: so neither changes the other, and nothing is clipped."""
    power = np.mean(np.concatenate([sound.samples[start:end] for start, end in sound.spans]) ** 2)
    noisy = sound.samples + np.sqrt(power / 10 ** (ratio / 10)) * coloured_noise(len(sound.samples), rng)
    noisy *= 10 ** (sound.level / 20) / np.abs(noisy).max()
    return np.asarray(noisy, dtype=np.float32)
