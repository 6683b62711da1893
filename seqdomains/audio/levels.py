"""How a sound of codes goes, second by second, and whether it has run away from how it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.front_end import LEVELS, SoundInput

# Whole seconds of what a sound is compared with, and of a state that lasts to its end.
LASTING: Final = 3
# Rules of thumb, which docs/audio.md declares. A note or a rest changes the level of a second by less, and what is left
# of speech or music that is played too loud clips fewer samples.
_LOUDER: Final = 12.0  # dB above the loudest second
_SOFTER: Final = 24.0  # dB below the softest one
_CLIPPED: Final = 0.05
_MORE_BITS: Final = 1.0
_FEWER: Final = 0.5
_LEAST_POWER: Final = 1e-10


@dataclass(frozen=True)
class Second:
    """A second of sound, or less at its end.

    Parameters
    ----------
    start, end : int
        Samples from the beginning, half-open.
    level, peak : float
        Root mean square and largest magnitude, in dB of full scale: a sine of full scale has -3 and 0.
    entropy : float
        Mean entropy of what its samples were drawn by, in bits.
    clipped : float
        Share of samples that have one of the two outermost codes.
    """

    start: int
    end: int
    level: float
    peak: float
    entropy: float
    clipped: float


class SecondMeter:
    """Measures a sound of codes, block by block.

    Parameters
    ----------
    given : SoundInput
        Rate and codec.

    Examples
    --------
    >>> meter = SecondMeter(SoundInput(rate=100))
    >>> meter.push(np.full(150, 255, np.uint8), np.full(150, 2.0, np.float32))
    [Second(start=0, end=100, level=0.0, peak=0.0, entropy=2.0, clipped=1.0)]
    >>> [(second.start, second.end) for second in meter.finish()]
    [(100, 150)]
    """

    def __init__(self, given: SoundInput) -> None:
        self._given = given
        self._start = 0
        self._codes = np.zeros(0, np.uint8)
        self._bits = np.zeros(0, np.float32)

    def push(self, codes: NDArray[np.uint8], bits: NDArray[np.float32]) -> list[Second]:
        """Take the next samples with the entropies that they were drawn by; returns the seconds that are whole now."""
        self._codes, self._bits = np.concatenate([self._codes, codes]), np.concatenate([self._bits, bits])
        return [self._next(self._given.rate) for _ in range(len(self._codes) // self._given.rate)]

    def finish(self) -> list[Second]:
        """Return what is left when the sound has ended: a part of a second, or nothing."""
        return [self._next(len(self._codes))] if len(self._codes) else []

    def _next(self, samples: int) -> Second:
        codes, bits = self._codes[:samples], self._bits[:samples]
        self._codes, self._bits = self._codes[samples:], self._bits[samples:]
        magnitude = np.abs(self._given.decode(codes).astype(np.float64))
        power = max(_LEAST_POWER, float(np.square(magnitude).mean()))
        start, self._start = self._start, self._start + samples
        return Second(
            start,
            self._start,
            level=10 * float(np.log10(power)),
            peak=20 * float(np.log10(max(float(magnitude.max()), _LEAST_POWER**0.5))),
            entropy=float(bits.mean(dtype=np.float64)),
            clipped=float(np.mean((codes == 0) | (codes == LEVELS - 1))),
        )


class RunawayWatch:
    """Tells whether a sound has run away: into the rails, into silence, or into what is drawn otherwise than before.

    A whole second is taken for run away if more than 5 % of its samples are clipped, and
    more than in the reference, or it is over 12 dB louder than the
    loudest second of the reference; over 24 dB softer than the softest one; or its entropy is over 1 bit above the
    highest one, or below half of the lowest one. A sound has run away if that lasts from some second to its end, 3 s or
    more: a rest is none. The reference is the prompt, or where that has less than 3 whole seconds, the first 3 s that
    were written.

    Parameters
    ----------
    rate : int
        Samples per second, in Hz.
    prompt : sequence of Second
        Of the sound that was gone on from.

    Examples
    --------
    >>> watch = RunawayWatch(100)
    >>> for at in range(8):
    ...     level = -20.0 if at < 4 else -3.0
    ...     watch.see(Second(100 * at, 100 * at + 100, level, 0.0, entropy=2.0, clipped=0.0))
    >>> watch.verdict()
    'from 4 s on it is at -3.0 dBFS, and -20.0 at most in its first 3 s'
    """

    def __init__(self, rate: int, prompt: Sequence[Second] = ()) -> None:
        self._rate = rate
        heard = [second for second in prompt if self._whole(second)]
        self._name = "in the prompt"
        self._reference = heard if len(heard) >= LASTING else []
        if not self._reference:
            self._name = f"in its first {LASTING} s"
        self._learns = not self._reference
        self._since: int | None = None
        self._last: list[str] = []
        self._seen = 0

    def see(self, second: Second) -> None:
        """Take the next second; one that the end cuts off is passed over."""
        if not self._whole(second):
            return
        self._seen = second.end
        if self._learns and len(self._reference) < LASTING:
            self._reference.append(second)
            return
        self._last = self._states(second)
        if not self._last:
            self._since = None
        elif self._since is None:
            self._since = second.start

    def verdict(self) -> str | None:
        """Say since when the sound has run away and where to, or None."""
        if self._since is None or self._seen - self._since < LASTING * self._rate:
            return None
        return f"from {self._since // self._rate} s on it is {'; '.join(self._last)}"

    def _whole(self, second: Second) -> bool:
        return second.end - second.start == self._rate

    def _states(self, second: Second) -> list[str]:
        levels = [one.level for one in self._reference]
        entropies = [one.entropy for one in self._reference]
        level, bits = f"at {second.level:.1f} dBFS", f"drawn with {second.entropy:.2f} bits a sample"
        found = []
        if second.level > max(levels) + _LOUDER:
            found.append(f"{level}, and {max(levels):.1f} at most {self._name}")
        elif second.clipped > max(_CLIPPED, *(one.clipped for one in self._reference)):
            found.append(f"clipped in {second.clipped:.0%} of its samples")
        if second.level < min(levels) - _SOFTER:
            found.append(f"{level}, and {min(levels):.1f} at least {self._name}")
        if second.entropy > max(entropies) + _MORE_BITS:
            found.append(f"{bits}, and {max(entropies):.2f} at most {self._name}")
        if second.entropy < min(entropies) * _FEWER:
            found.append(f"{bits}, and {min(entropies):.2f} at least {self._name}")
        return found
