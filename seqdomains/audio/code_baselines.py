"""What simple models know of the next sample code: those before it, one or 32, by counting and by linear prediction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.front_end import LEVELS, SoundInput, decode_linear, decode_mu_law

Codes = NDArray[np.uint8]

_ORDER: Final = 32
# Of 8 kHz digits 0.04 s costs as much and 0.08 s 0.03 bits more; one set of coefficients for all sounds costs 0.9.
_HEARD: Final = 0.05
# Samples between two sets of coefficients.
_EVERY: Final = 16
# Added to the power, so that digital silence has coefficients too, as a share of it and as such: that of a code or two.
_RIDGE: Final = (1e-4, 1e-8)
# Frames of which coefficients are found at once: 8 MiB of equations.
_AT_ONCE: Final = 1024
# Samples whose mean error says how sure a prediction is, and how many levels of that, half an octave each.
_RECENT: Final = 16
_LEVELS_OF_ERROR: Final = 16
# Counts that a distribution over all levels of error is worth beside that of its own.
_PSEUDO: Final = 64


class CodeModel(Protocol):
    """A model of codes that is fitted in a pass or two."""

    name: str

    def fit(self, clips: Iterable[Codes]) -> None:
        """Learn from clips of codes, each of shape (frames,)."""

    def bits(self, codes: Codes) -> float:
        """Return what the codes of a clip cost together, each given those before it."""


class MarkovChain:
    """The probability of a code given the one before it, from counts with one added to each.

    Parameters
    ----------
    given : SoundInput
        Its code of silence stands before the first sample.

    Examples
    --------
    >>> chain = MarkovChain(SoundInput())
    >>> clip = np.tile(np.array([10, 20], np.uint8), 500)
    >>> chain.fit([clip])
    >>> round(chain.bits(clip) / len(clip), 2)
    0.6
    """

    name = "order-1 Markov chain"

    def __init__(self, given: SoundInput) -> None:
        self._first = given.pad
        self._bits = np.zeros((LEVELS, LEVELS))

    def fit(self, clips: Iterable[Codes]) -> None:
        """See `CodeModel`."""
        counts = np.ones((LEVELS, LEVELS))
        for codes in clips:
            np.add.at(counts, (self._before(codes), codes), 1)
        self._bits = _bits_of(counts)

    def bits(self, codes: Codes) -> float:
        """See `CodeModel`."""
        return float(self._bits[self._before(codes), codes].sum())

    def _before(self, codes: Codes) -> Codes:
        return np.concatenate([np.array([self._first], np.uint8), codes[:-1]])


class LinearPrediction:
    """Prediction of each sample from the 32 before it, and how often each code came where that one was predicted.

    The coefficients are the least squares of the last 50 ms (the autocorrelation method, Makhoul 1975,
    doi:10.1109/PROC.1975.9792), anew every 16 samples. Codes are counted by the predicted code and by the mean of the
    last 16 errors. All of it is causal: nothing is read of a sample, or of what follows it, before it is predicted.

    Parameters
    ----------
    given : SoundInput
        Rate and codec.

    Examples
    --------
    >>> given = SoundInput(rate=8000)
    >>> time = np.arange(8000, dtype=np.float32) / 8000
    >>> clips = [given.encode(np.sin(2 * np.pi * pitch * time) / 2) for pitch in (200, 330, 441)]
    >>> model, chain = LinearPrediction(given), MarkovChain(given)
    >>> model.fit(clips)
    >>> chain.fit(clips)
    >>> unheard = given.encode(np.sin(2 * np.pi * 277 * time) / 2)
    >>> model.bits(unheard) < chain.bits(unheard)
    True
    """

    name = "adaptive LPC-32"

    def __init__(self, given: SoundInput) -> None:
        self._given = given
        heard = max(2 * _ORDER, round(_HEARD * given.rate))
        # Rising: the last samples say most.
        self._window = np.sin(np.pi / 2 * (np.arange(heard) + 0.5) / heard)
        self._bits = np.zeros((_LEVELS_OF_ERROR, LEVELS, LEVELS))

    def fit(self, clips: Iterable[Codes]) -> None:
        """See `CodeModel`."""
        counts = np.zeros((_LEVELS_OF_ERROR, LEVELS, LEVELS))
        for codes in clips:
            np.add.at(counts, (*self._context(codes), codes), 1)
        whole = counts.sum(axis=0) + 1
        self._bits = _bits_of(counts + _PSEUDO * whole / whole.sum(axis=1, keepdims=True))

    def bits(self, codes: Codes) -> float:
        """See `CodeModel`."""
        return float(self._bits[(*self._context(codes), codes)].sum())

    def _context(self, codes: Codes) -> tuple[NDArray[np.int64], Codes]:
        """Return of each sample the level of the errors before it, and the predicted code."""
        predicted: Codes = self._given.encode(self._predicted(codes))
        errors = np.abs(codes.astype(np.float64) - predicted)
        sums = np.concatenate([np.zeros(_RECENT + 1), np.cumsum(errors)])
        recent = (sums[_RECENT:-1] - sums[: -_RECENT - 1]) / _RECENT
        level = (2 * np.log2(recent + 0.25) + 4).astype(np.int64)
        return np.clip(level, 0, _LEVELS_OF_ERROR - 1), predicted

    def _predicted(self, codes: Codes) -> NDArray[np.float32]:
        decode = decode_mu_law if self._given.codec == "mu-law" else decode_linear
        heard = len(self._window)
        samples = np.concatenate([np.zeros(heard), decode(codes).astype(np.float64)])
        frames = np.lib.stride_tricks.sliding_window_view(samples, heard)[:-1:_EVERY]
        before = np.lib.stride_tricks.sliding_window_view(samples[heard - _ORDER :], _ORDER)[:-1, ::-1]
        found = []
        for first in range(0, len(frames), _AT_ONCE):
            coefficients = self._coefficients(frames[first : first + _AT_ONCE])
            rows = before[first * _EVERY : (first + _AT_ONCE) * _EVERY]
            found.append(np.einsum("tk,tk->t", rows, np.repeat(coefficients, _EVERY, axis=0)[: len(rows)]))
        return np.concatenate(found).astype(np.float32)

    def _coefficients(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coefficients that each frame, shape (n, heard), gives what follows it; shape (n, 32)."""
        size = 1 << (frames.shape[1] + _ORDER).bit_length()
        power = np.square(np.abs(np.fft.rfft(frames * self._window, size)))
        correlation = np.fft.irfft(power, size)[:, : _ORDER + 1]
        lags = np.abs(np.subtract.outer(np.arange(_ORDER), np.arange(_ORDER)))
        ridge = _RIDGE[0] * correlation[:, :1] + _RIDGE[1] * frames.shape[1]
        equations = correlation[:, lags] + ridge[:, :, None] * np.eye(_ORDER)
        found: NDArray[np.float64] = np.linalg.solve(equations, correlation[:, 1:, None])[:, :, 0]
        return found


def _bits_of(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    bits: NDArray[np.float64] = np.log2(counts.sum(axis=-1, keepdims=True)) - np.log2(counts)
    return bits
