"""A batch's pieces of sound files: windows, or whole files, as a model reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.files import SoundFacts, channel_names, examine, resampled_frames, stream
from seqdomains.audio.front_end import Encoder, SoundInput
from seqdomains.errors import InputError
from seqdomains.task import Span

logger = logging.getLogger(__name__)

_told: set[tuple[int, int]] = set()


def measure(path: str, given: SoundInput) -> list[int]:
    """Return how many positions each channel of a file has; the first file of a rate below the model's is logged.

    Raises
    ------
    InputError
        The file is no sound, damaged or empty, or too short for one sample at the model's rate.
    """
    facts = examine(path)
    frames = resampled_frames(facts.frames, facts.rate, given.rate)
    if not frames:
        raise InputError(
            f"{path}: {facts.frames} frames at {facts.rate} Hz are no sample at the model's {given.rate} Hz; leave it "
            "out"
        )
    if facts.rate < given.rate and (facts.rate, given.rate) not in _told:
        _told.add((facts.rate, given.rate))
        logger.warning(
            "%s has %d Hz and the model reads %d Hz: resampling adds no band that was not recorded; other files of %d "
            "Hz are not named",
            path,
            facts.rate,
            given.rate,
            facts.rate,
        )
    return [given.positions(frames)] * len(channel_names(facts, given.channels))


def count_windows(length: int, *, window: int, stride: int) -> int:
    """Return how many windows a sound of `length` positions has; the last one may be shorter, down to half of one.

    Examples
    --------
    >>> [count_windows(length, window=4, stride=4) for length in (1, 4, 5, 6, 8)]
    [1, 1, 1, 2, 2]
    """
    return 1 + max(0, min(-(-(length - window) // stride), (length - _least(window)) // stride))


def _least(window: int) -> int:
    """Return how short a window that ends a sound may be, unless it is the only one."""
    return -(-window // 2)


@dataclass(frozen=True)
class SoundRecords:
    r"""The channels of sound files, whole; a record is named after its channel.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from seqdomains.audio.files import write_wav
    >>> path = Path(tempfile.mkdtemp()) / "beep.wav"
    >>> write_wav(path, np.sin(np.arange(8000, dtype=np.float32)) / 2, 8000)
    >>> records = SoundRecords(SoundInput(rate=16_000)).records(str(path), 0, 1)
    >>> [(name, sum(map(len, pieces))) for name, pieces in records]
    [('mean', 16000)]
    """

    given: SoundInput

    def records(self, path: str, first: int, count: int) -> Iterator[tuple[str, Iterator[NDArray[Any]]]]:
        """Yield channels `first` to `first + count` of a file, each its name and what a model reads of it in pieces.

        Raises
        ------
        InputError
            The file is bad.
        """
        facts = examine(path)
        names = channel_names(facts, self.given.channels)
        for number, name in islice(enumerate(names), first, first + count):
            yield name, self._pieces(facts, number)

    def _pieces(self, facts: SoundFacts, channel: int) -> Iterator[NDArray[Any]]:
        encoder = Encoder(self.given)
        for block in stream(facts.path, rate=self.given.rate, channels=self.given.channels):
            yield encoder.push(block[channel])
        yield encoder.finish()


@dataclass(frozen=True)
class SoundWindows:
    """Windows of sound files by their number, channel by channel.

    Parameters
    ----------
    given : SoundInput
    window, stride : int
        In positions.
    """

    given: SoundInput
    window: int
    stride: int

    def spans(self, path: str, first: int, windows: int) -> Iterator[Span]:
        """Yield `windows` windows of a file from its window `first` on.

        Raises
        ------
        InputError
            The file is bad.
        """
        yield from islice(self._all(path), first, first + windows)

    def blank(self, span: Span) -> bool:
        """Tell whether a window is the same value throughout: digital silence, or a clipped rail."""
        return bool((span.tokens == span.tokens[:1]).all())

    def _all(self, path: str) -> Iterator[Span]:
        for name, pieces in SoundRecords(self.given).records(path, 0, 1 << 31):
            held: NDArray[Any] | None = None
            start = 0
            for piece in pieces:
                held = piece if held is None else np.concatenate([held, piece])
                # One position at least is left, for the last window.
                while len(held) > max(self.window, self.stride):
                    yield Span(name, start, start + self.window, held[: self.window])
                    held, start = held[self.stride :], start + self.stride
            if held is not None and len(held) and (not start or len(held) >= _least(self.window)):
                last = held[: self.window]
                yield Span(name, start, start + len(last), last)
