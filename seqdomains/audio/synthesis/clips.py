"""One clip of a simulation: sound, noise, level and truth, a function of the settings and its number alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.synthesis.config import SynthesisConfig
from seqdomains.audio.synthesis.music import melody
from seqdomains.audio.synthesis.piano import recorded
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
        Timbre, word or motif; of piano, piano.
    speaker : str or None
        Whose word it is.
    events : tuple of (float, float, str)
        Where that which the label names sounds: start and end in s, label.
    truth : mapping
        Signal-to-noise ratio (power within the events over power of the noise) and peak level in dB, and what else is
        known of the kind: pitch or tonic in Hz, period of a motif in samples.
    said : mapping
        What else a manifest says of the clip: of piano its side, scores, tempo and velocity.
    """

    samples: NDArray[np.float32]
    rate: int
    label: str
    speaker: str | None
    events: tuple[tuple[float, float, str], ...]
    truth: Mapping[str, float]
    said: Mapping[str, object] = field(default_factory=dict)


def clip(config: SynthesisConfig, index: int) -> Clip:
    """Return a clip of a simulation.

    Neighbouring numbers differ in their label, then in their speaker, so that every speaker says every word. Of piano
    each eighth clip from the first on is a test clip, of other tunes than all others.

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
    InputError
        Of piano: a package is not installed, or the sound font cannot be played.

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
    if config.kind == "piano":
        return _of_a_recital(config, index, rng)
    match config.kind:
        case "tones":
            sound = tone(label, config.frames, config.rate, rng)
        case "words":
            speaker = take % config.speakers
            sound = word(label, Speaker.draw(config.seed, speaker), config.frames, config.rate, rng)
        case "music":
            sound = melody(number, config.frames, config.rate, rng)
    ratio = rng.uniform(*(config.ratios or (120.0, 120.0)))
    return Clip(
        samples=_recorded(sound, ratio, rng),
        rate=config.rate,
        label=label,
        speaker=None if speaker is None else f"s{speaker:02d}",
        events=tuple((start / config.rate, end / config.rate, label) for start, end in sound.spans),
        truth={"snr_db": ratio, "level_dbfs": sound.level, **sound.truth},
    )


def _of_a_recital(config: SynthesisConfig, index: int, rng: np.random.Generator) -> Clip:
    """Return a clip of piano at the level that it is played at: loud and soft clips stay so."""
    samples, side, heard = recorded(index, config.frames, config.rate, config.seed, config.soundfont)
    truth: dict[str, float] = {}
    if config.ratios is not None:
        truth["snr_db"] = rng.uniform(*config.ratios)
        power = np.mean(samples**2) / 10 ** (truth["snr_db"] / 10)
        samples = samples + np.sqrt(power) * coloured_noise(len(samples), rng)
    # A sound font of one's own may be louder than full scale.
    truth["clipped_samples"] = int((np.abs(samples) > 1).sum())
    samples = np.clip(samples, -1, 1)
    truth["level_dbfs"] = float(20 * np.log10(max(np.abs(samples).max(), 1e-9)))
    return Clip(
        samples=samples.astype(np.float32),
        rate=config.rate,
        label="piano",
        speaker=None,
        events=((0.0, config.frames / config.rate, "piano"),),
        truth=truth,
        said={
            "split": side,
            "scores": [one.score.name for one in heard],
            "tempo_bpm": [round(one.tempo, 1) for one in heard],
            "velocity": [round(one.velocity) for one in heard],
        },
    )


def _recorded(sound: Sound, ratio: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add noise, then bring the sum to the level: so neither changes the other, and nothing is clipped."""
    power = np.mean(np.concatenate([sound.samples[start:end] for start, end in sound.spans]) ** 2)
    noisy = sound.samples + np.sqrt(power / 10 ** (ratio / 10)) * coloured_noise(len(sound.samples), rng)
    noisy *= 10 ** (sound.level / 20) / np.abs(noisy).max()
    return np.asarray(noisy, dtype=np.float32)
