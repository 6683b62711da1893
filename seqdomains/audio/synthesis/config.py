"""What a user may choose of simulated sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.audio.synthesis.music import LEAST_FRAMES, MOTIFS
from seqdomains.audio.synthesis.piano import LEAST_SECONDS
from seqdomains.audio.synthesis.tones import TIMBRES
from seqdomains.audio.synthesis.words import WORDS

CLASSES = {"tones": TIMBRES, "words": WORDS, "music": MOTIFS, "piano": ("piano",)}
SECONDS = {"tones": 1.0, "words": 1.0, "music": 10.0, "piano": 60.0}

Decibels = Annotated[float, Field(ge=-20, le=120)]


class SynthesisConfig(BaseModel):
    """Settings of simulated sound.

    Parameters
    ----------
    kind : {"tones", "words", "music", "piano"}
        Tones of eight timbres; ten spoken words, zero to nine; melodies in which one of six motifs returns; chorales of
        Bach on a sampled piano, which needs ``seqdomains[piano]``.
    clips : int
        Clips of each class.
    rate : int
        Samples per second, in Hz.
    seconds : float, optional
        Length of a clip in s, for words the longest that one may be; by default 1, for music 10, for piano 60, of which
        5 is the least.
    speakers : int
        How many speakers take turns at the words.
    seed : int
        The same settings give the same clips.
    noise : tuple of float, optional
        Lowest and highest signal-to-noise ratio in dB; by default 10 and 40, for piano there is no noise.
    soundfont : Path, optional
        Of piano: a sound font of General MIDI (.sf2); by default TimGM6mb, which pretty-midi brings.

    Examples
    --------
    >>> config = SynthesisConfig(kind="tones", clips=5, rate=8000)
    >>> len(config), config.frames, config.classes[:3]
    (40, 8000, ('sine', 'triangle', 'square'))
    >>> SynthesisConfig(kind="music", seconds=0.5)
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for SynthesisConfig
      Value error, seconds: 8000 samples; expected 12288 at least for a motif to return ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["tones", "words", "music", "piano"] = "words"
    clips: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    rate: Annotated[int, Field(ge=8_000, le=192_000)] = 16_000
    # Of half a second, silences of 0.15 s before and behind leave 0.2 s for a word.
    seconds: Annotated[float, Field(ge=0.5, le=3_600)] | None = None
    speakers: Annotated[int, Field(ge=1, le=10_000)] = 20
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    noise: tuple[Decibels, Decibels] | None = None
    soundfont: Path | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.noise is not None and self.noise[0] > self.noise[1]:
            raise ValueError(f"noise: {self.noise[0]:g} to {self.noise[1]:g} dB; the lower ratio comes first")
        if self.kind == "music" and self.frames < LEAST_FRAMES:
            raise ValueError(f"seconds: {self.frames} samples; expected {LEAST_FRAMES} at least for a motif to return")
        if self.kind == "piano" and self.seconds is not None and self.seconds < LEAST_SECONDS:
            raise ValueError(
                f"seconds: {self.seconds:g}; expected {LEAST_SECONDS:g} at least of piano: shorter clips may be pauses"
            )
        if self.soundfont is not None and self.kind != "piano":
            raise ValueError(f"soundfont: is of kind piano; this is {self.kind}")
        return self

    @property
    def ratios(self) -> tuple[float, float] | None:
        """Lowest and highest signal-to-noise ratio in dB; None: no noise."""
        return self.noise or (None if self.kind == "piano" else (10.0, 40.0))

    @property
    def frames(self) -> int:
        """Length of a clip, for words the longest, in samples."""
        return round((self.seconds or SECONDS[self.kind]) * self.rate)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the kind."""
        return CLASSES[self.kind]

    def __len__(self) -> int:
        return self.clips * len(self.classes)
