"""What a model reads of sound: sample codes, the waveform itself in patches, or a log-mel spectrogram.

All three are made block by block with the same result however a sound is cut, so that files of any length are read in
constant memory. No window is ever rescaled by its own extremes: levels are information, and a stream has no end to wait
for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.audio.files import ChannelPolicy
from seqdomains.errors import InputError

Codec = Literal["mu-law", "linear", "waveform", "log-mel"]
LEVELS: Final = 256
# Of mu-law in telephony (ITU-T G.711), and torchaudio's.
_MU = LEVELS - 1
# A digital silence has no logarithm; -100 dB of full scale is below the noise of 16 bits.
_LEAST_POWER = 1e-10


def encode_mu_law(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn samples into 8-bit mu-law codes, as torchaudio's `mu_law_encoding` does; what is beyond [-1, 1] is clipped.

    Examples
    --------
    >>> encode_mu_law(np.array([-1.0, 0.0, 0.001, 1.0, 2.0], np.float32)).tolist()
    [0, 128, 133, 255, 255]
    """
    clipped = np.clip(samples, -1, 1)
    return _quantised(np.sign(clipped) * np.log1p(_MU * np.abs(clipped)) / np.float32(np.log1p(_MU)))


def decode_mu_law(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn mu-law codes into samples; codes 127 and 128 lie on either side of zero.

    Examples
    --------
    >>> [round(float(one), 6) for one in decode_mu_law(np.array([0, 127, 128, 255], np.uint8))]
    [-1.0, -8.6e-05, 8.6e-05, 1.0]
    """
    level = decode_linear(codes)
    expanded = np.sign(level) * np.expm1(np.abs(level) * np.float32(np.log1p(_MU))) / _MU
    return expanded.astype(np.float32)


def encode_linear(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn samples into 256 even levels; what is beyond [-1, 1] is clipped.

    Examples
    --------
    >>> encode_linear(np.array([-1.0, 0.0, 1.0], np.float32)).tolist()
    [0, 128, 255]
    """
    return _quantised(np.clip(samples, -1, 1))


def decode_linear(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn even levels into samples.

    Examples
    --------
    >>> decode_linear(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    return codes.astype(np.float32) * np.float32(2 / _MU) - 1


def _quantised(level: NDArray[np.float32]) -> NDArray[np.uint8]:
    return ((level + 1) / 2 * _MU + np.float32(0.5)).astype(np.uint8)


class SoundInput(BaseModel):
    """How sound becomes what a model reads; an artefact carries it, and its input is made by it.

    Parameters
    ----------
    rate : int
        Hz; files of another rate are resampled.
    channels : {"mean", "left", "right", "each"}
        What becomes of several channels; see `seqdomains.audio.files.stream`.
    codec : {"mu-law", "linear", "waveform", "log-mel"}
        Codes of 8 bits, one per sample; `patch` samples as real numbers; or the log power of `mels` bands every `patch`
        samples.
    patch : int
        Samples from one position to the next; 1 for codes.
    span : int
        Samples under the window of a spectrum (log-mel).
    mels : int
        Bands (log-mel).
    shift, scale : float or None
        Real numbers are read as (x - shift) * scale; None: from the training clips, so that their mean is 0 (0 is
        kept for a waveform) and their deviation 1.

    Examples
    --------
    >>> SoundInput(rate=8000).features, SoundInput(codec="waveform", patch=16).features
    (None, 16)
    >>> SoundInput(codec="waveform", patch=4, scale=1.0).encode(np.arange(6, dtype=np.float32)).tolist()
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 0.0, 0.0]]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: Annotated[int, Field(ge=100, le=1_000_000)] = 16_000
    channels: ChannelPolicy = "mean"
    codec: Codec = "mu-law"
    patch: Annotated[int, Field(ge=1, le=1 << 14)] = 1
    span: Annotated[int, Field(ge=2, le=1 << 16)] = 400
    mels: Annotated[int, Field(ge=1, le=512)] = 64
    shift: float | None = None
    scale: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.codes and self.patch != 1:
            raise ValueError(f"patch {self.patch}: {self.codec} has one code a sample, expected 1")
        if self.codec == "log-mel" and self.span < self.patch:
            raise ValueError(f"span {self.span} is below patch {self.patch}: samples between the windows would be lost")
        return self

    @property
    def codes(self) -> bool:
        """Whether a position is a code, and not real numbers."""
        return self.codec in ("mu-law", "linear")

    @property
    def features(self) -> int | None:
        """Real numbers of a position; None where it is a code."""
        return None if self.codes else self.patch if self.codec == "waveform" else self.mels

    @property
    def per_second(self) -> float:
        """Positions per second of sound."""
        return self.rate / self.patch

    @property
    def lead(self) -> float:
        """By how much the border between two positions lies behind the patches before it, s: spectra overlap."""
        return (self.span - self.patch) / 2 / self.rate if self.codec == "log-mel" else 0.0

    @property
    def pad(self) -> int:
        """What stands behind the end of a clip in a batch: the code of silence, or 0."""
        return LEVELS // 2 if self.codes else 0

    def positions(self, frames: int) -> int:
        """Return how many positions a sound of `frames` samples at `rate` has.

        Examples
        --------
        >>> mel = SoundInput(codec="log-mel", patch=160)
        >>> [mel.positions(frames) for frames in (1, 400, 559, 560)]
        [1, 1, 1, 2]
        """
        if self.codec == "log-mel":
            return 1 + max(0, frames - self.span) // self.patch
        return -(-frames // self.patch)

    def frames(self, positions: int) -> int:
        """Return how many samples at `rate` the first `positions` positions of a sound are made of.

        Examples
        --------
        >>> SoundInput(codec="log-mel", patch=160).frames(2), SoundInput(codec="waveform", patch=8).frames(2)
        (560, 16)
        """
        return positions * self.patch + (self.span - self.patch if self.codec == "log-mel" else 0)

    def encode(self, samples: NDArray[np.float32]) -> NDArray[Any]:
        """Turn a whole sound, shape (frames,), into codes, shape (L,), or real numbers, shape (L, features).

        A patch that the end cuts off is filled with zeros; a spectrum is not begun within `span` samples of the end,
        unless the sound is shorter than that.
        """
        encoder = Encoder(self)
        return np.concatenate([encoder.push(samples), encoder.finish()])

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn codes back into samples, of which each is the middle of its code's range.

        Raises
        ------
        ValueError
            A position is no code.

        Examples
        --------
        >>> SoundInput(codec="linear").decode(np.array([0, 255], np.uint8)).tolist()
        [-1.0, 1.0]
        """
        if not self.codes:
            raise ValueError(f"{self.codec} gives real numbers, which are not turned back into sound")
        return decode_mu_law(codes) if self.codec == "mu-law" else decode_linear(codes)

    def normalised(self, values: NDArray[Any]) -> NDArray[Any]:
        """Apply `shift` and `scale` to real numbers; codes are left as they are."""
        if self.codes:
            return values
        return ((values - np.float32(self.shift or 0)) * np.float32(self.scale or 1)).astype(np.float32)

    def measured(self, clips: Iterable[NDArray[np.float32]]) -> SoundInput:
        """Fill in `shift` and `scale` from sounds where they are None; of codes no sound is asked for.

        Examples
        --------
        >>> found = SoundInput(codec="waveform").measured([np.array([0.5, -0.5], np.float32)])
        >>> found.shift, found.scale
        (0.0, 2.0)
        """
        if self.codes or (self.shift is not None and self.scale is not None):
            return self
        raw = self.model_copy(update={"shift": 0.0, "scale": 1.0})
        values = np.concatenate([raw.encode(clip).ravel() for clip in clips]).astype(np.float64)
        shift = self.shift if self.shift is not None else float(values.mean()) if self.codec == "log-mel" else 0.0
        deviation = float(np.sqrt(np.square(values - shift).mean()))
        scale = self.scale if self.scale is not None else 1 / deviation if deviation > 0 else 1.0
        return self.model_copy(update={"shift": shift, "scale": scale})

    def signature(self) -> dict[str, Any]:
        """Return what an artefact carries."""
        return {"domain": "audio", "input": self.model_dump(mode="json")}

    @cached_property
    def filters(self) -> NDArray[np.float32]:
        """The triangular mel filters, shape (span // 2 + 1, mels), as torchaudio's `MelSpectrogram` has them."""
        from librosa.filters import mel

        filters: NDArray[np.float32] = mel(sr=self.rate, n_fft=self.span, n_mels=self.mels, htk=True, norm=None).T
        return np.ascontiguousarray(filters, dtype=np.float32)


def input_of(signature: Mapping[str, Any]) -> SoundInput:
    """Return how sound is made ready for an artefact.

    Raises
    ------
    InputError
        The artefact is of another domain, or doesn't say.

    Examples
    --------
    >>> input_of(SoundInput(rate=8000).signature()).rate
    8000
    """
    domain = signature.get("domain")
    if domain != "audio":
        raise InputError(
            f"the artefact's domain is {domain!r} and this command reads 'audio': use an artefact that a command of "
            "`seqdomains audio` wrote"
        )
    try:
        return SoundInput.model_validate(signature.get("input"))
    except ValueError as error:
        raise InputError(
            f"the artefact's input is {str(signature.get('input'))[:200]}, which this version doesn't know ({error}): "
            "train it again"
        ) from error


class Encoder:
    """Makes one sound ready, block by block.

    Parameters
    ----------
    given : SoundInput

    Examples
    --------
    >>> given = SoundInput(codec="log-mel", patch=160)
    >>> sound = np.sin(np.arange(2000, dtype=np.float32))
    >>> encoder = Encoder(given)
    >>> parts = [encoder.push(sound[:701]), encoder.push(sound[701:]), encoder.finish()]
    >>> np.allclose(np.concatenate(parts), given.encode(sound), atol=1e-5)
    True
    """

    def __init__(self, given: SoundInput) -> None:
        self._given = given
        self._held = np.zeros(0, np.float32)
        self._begun = False

    def push(self, samples: NDArray[np.float32]) -> NDArray[Any]:
        """Take the next samples, shape (frames,); returns the positions that are complete with them."""
        given = self._given
        if given.codes:
            return encode_mu_law(samples) if given.codec == "mu-law" else encode_linear(samples)
        held = np.concatenate([self._held, samples])
        count = len(held) // given.patch
        if given.codec == "log-mel":
            count = max(0, (len(held) - given.span) // given.patch + 1)
        used = count * given.patch
        self._held, self._begun = held[used:].copy(), self._begun or bool(count)
        if given.codec == "waveform":
            return given.normalised(held[:used].reshape(count, given.patch))
        return self._spectra(held, count)

    def finish(self) -> NDArray[Any]:
        """Return what is left when the sound has ended."""
        given = self._given
        if given.codes:
            return np.zeros(0, np.uint8)
        whole = given.patch if given.codec == "waveform" else given.span
        wanted = bool(len(self._held)) and not (given.codec == "log-mel" and self._begun)
        if not wanted:
            return np.zeros((0, given.features or 0), np.float32)
        filled = np.zeros(whole, np.float32)
        filled[: len(self._held)] = self._held
        self._held = np.zeros(0, np.float32)
        return self.push(filled)

    def _spectra(self, samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        given = self._given
        if not count:
            return np.zeros((0, given.mels), np.float32)
        # Periodic, as torch's default.
        window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(given.span) / given.span)).astype(np.float32)
        framed = np.lib.stride_tricks.sliding_window_view(samples, given.span)[:: given.patch][:count]
        found = np.empty((count, given.mels), np.float32)
        # Spectra of a minute are 100 MB at once.
        for first in range(0, count, 512):
            power = np.square(np.abs(np.fft.rfft(framed[first : first + 512] * window)))
            # Row by row: BLAS shares one large product among threads, which wait for the cores that the model uses
            # (8 ms for 0.3 on 2 cores), and rounds by how the sound is cut.
            bands = (power[:, None] @ given.filters)[:, 0]
            found[first : first + 512] = np.log(np.maximum(bands, _LEAST_POWER))
        normalised: NDArray[np.float32] = given.normalised(found)
        return normalised
