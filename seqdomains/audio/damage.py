"""Which clips cannot be decoded: one pass through the files of all, before a model works on them for hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from seqdomains.audio.clip import Clip
from seqdomains.audio.files import decode
from seqdomains.cores import usable_cores
from seqdomains.errors import InputError

# libsndfile decodes without Python's lock: two threads take half the time of one for long FLAC (measured). Of short
# files much is Python, so that more threads than these would wait for each other.
_MOST_THREADS = 8


def undecodable(clips: Mapping[int, Clip], *, rate: int) -> dict[int, str]:
    """Return why clips cannot be decoded, by their numbers, without those that can.

    Each file is read once, block by block, in memory that does not grow with its length; where it has a clip that
    cannot be decoded, its clips are tried one by one.

    Parameters
    ----------
    clips : mapping of int to Clip
        By number.
    rate : int
        At which they are to be read, in Hz.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import soundfile
    >>> path = Path(tempfile.mkdtemp()) / "bad.wav"
    >>> samples = np.zeros(80_000, dtype=np.float32)
    >>> samples[70_000] = np.nan
    >>> soundfile.write(path, samples, 8000, subtype="FLOAT")
    >>> parts = {7: Clip(path, None, {}, 0.0, 2.0), 8: Clip(path, None, {}, 8.0, 2.0)}
    >>> {number: reason.split(", ", 1)[1] for number, reason in undecodable(parts, rate=8000).items()}
    {8: 'channel 1, frame 70000 (8.75 s): the sample is nan; expected finite numbers in [-1, 1]: make it again'}
    """
    numbers: dict[Path, list[int]] = defaultdict(list)
    for number, clip in clips.items():
        numbers[clip.path].append(number)
    with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool:
        found = list(pool.map(partial(_failures, clips, rate=rate), numbers.values()))
    return {number: reason for failures in found for number, reason in failures.items()}


def _failures(clips: Mapping[int, Clip], numbers: Sequence[int], *, rate: int) -> dict[int, str]:
    """Return why clips of one file cannot be decoded."""
    parts = [(clips[number].start, clips[number].seconds) for number in numbers]
    try:
        decode(clips[numbers[0]].path, parts, rate=rate)
    except InputError as error:
        if len(numbers) == 1:
            return {numbers[0]: str(error)}
        return {number: reason for one in numbers for number, reason in _failures(clips, [one], rate=rate).items()}
    return {}
