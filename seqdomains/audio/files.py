"""Sound files: what they hold, their samples as a stream at any rate, parts of them by time, and WAV output.

libsndfile decodes, soxr resamples. A file is read block by block, so that memory follows neither its length nor what
its header claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from seqdomains.audio.decoder import FORMATS, Decoder, advise, open_sound
from seqdomains.errors import InputError
from seqdomains.files import atomic_file

ChannelPolicy = Literal["mean", "left", "right", "each"]

_BLOCK: Final = 1 << 16  # frames
_LARGEST_BLOCK: Final = 1 << 20  # samples, before and after resampling: 64 channels or 100 Hz to 48 kHz
# Largest magnitude that is taken for sound: a float file of 32-bit integers as they are. Beyond, filters overflow.
_LARGEST_SAMPLE: Final = float(1 << 31)
# Frames that are decoded ahead of a part: after a seek, Vorbis is wrong for up to a packet, and MP3 as long as packets
# borrow bits from earlier ones: 511 bytes, which are 14,400 frames at 8 kbit/s.
_SEEK_CONTEXT: Final = 1 << 14
_FILTER_REACH: Final = 128  # frames at the lower rate: soxr's HQ filter falls below 1e-5 within 90 (measured)


@dataclass(frozen=True)
class SoundFacts:
    """What a sound file holds. To resample from `rate` to a higher one adds samples but no band: warn the user.

    Parameters
    ----------
    path : Path
    format : str
        The container as libsndfile calls it: WAV, WAVEX, RF64, W64, FLAC, OGG, MP3, AIFF or AU.
    subtype : str
        The coding: PCM_16, FLOAT, ULAW, VORBIS, ...
    rate : int
        Frames per second, in Hz.
    channels : int
    frames : int
        Samples of each channel.
    """

    path: Path
    format: str
    subtype: str
    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """How long it sounds."""
        return self.frames / self.rate


def is_sound_file(path: Path | str) -> bool:
    """Tell by its suffix, in any case, whether a file should be sound.

    Examples
    --------
    >>> is_sound_file("bird.WAV"), is_sound_file("bird.txt")
    (True, False)
    """
    return Path(path).suffix.lower() in FORMATS


def examine(path: Path | str) -> SoundFacts:
    """Read what a sound file holds, and refuse one that is damaged as far as that shows without decoding it.

    The content decides, not the name; a name that says otherwise is logged. WAV whose sizes were never filled in, as
    programs write it to a pipe, has all the sound that follows. An MP3 without a length header is measured. Ogg that
    was cut between two pages looks whole.

    Raises
    ------
    InputError
        No such file, empty, no sound, without frames, truncated, over 64 channels, or a rate outside 100 Hz to 1 MHz.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "silence.wav"
    >>> write_wav(path, np.zeros((2, 4000), dtype=np.float32), 8000)
    >>> facts = examine(path)
    >>> facts.format, facts.subtype, facts.rate, facts.channels, facts.seconds
    ('WAV', 'PCM_16', 8000, 2, 0.5)
    """
    with open_sound(Path(path)) as (sound, frames):
        return _facts(Path(path), sound, frames)


def channel_names(facts: SoundFacts, policy: ChannelPolicy) -> tuple[str, ...]:
    """Name the channels that `stream` and `read` give of a file.

    "mean" averages all channels, "left" takes the first and "right" the second, of however many there are; "each" takes
    all. The one channel of a mono file is its mean, left and right.

    Examples
    --------
    >>> facts = SoundFacts(Path("a.wav"), "WAV", "PCM_16", 8000, channels=2, frames=1)
    >>> channel_names(facts, "mean"), channel_names(facts, "each")
    (('mean',), ('1', '2'))
    """
    return tuple(str(number + 1) for number in range(facts.channels)) if policy == "each" else (policy,)


def resampled_frames(frames: int, source_rate: int, rate: int) -> int:
    """Count the frames that `frames` of them become at another rate; 0 where they last less than half a frame there.

    Examples
    --------
    >>> resampled_frames(44_100, 44_100, 16_000), resampled_frames(1, 48_000, 8_000)
    (16000, 0)
    """
    # soxr's own arithmetic, in doubles: exact fractions round otherwise where a half is met.
    return frames if source_rate == rate else int(frames / (source_rate / rate) + 0.5)


def stream(
    path: Path | str, *, rate: int, channels: ChannelPolicy = "mean", block: int = _BLOCK
) -> Iterator[NDArray[np.float32]]:
    """Read a sound file block by block at a rate.

    Parameters
    ----------
    path : Path or str
    rate : int
        Of the result, in Hz. Where the file's is another, soxr's HQ filter resamples across blocks.
    channels : {"mean", "left", "right", "each"}
        See `channel_names`.
    block : int
        Frames of the source to read at a time, at most; the result doesn't depend on it, bit for bit.

    Yields
    ------
    ndarray of float32, shape (channels, frames)
        `resampled_frames` in all. Integer files are in [-1, 1]; float files as they are, and one that goes beyond is
        logged.

    Raises
    ------
    InputError
        As `examine`; or the file ends early or cannot be decoded, or a sample isn't finite or is beyond 2**31.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
    >>> write_wav(path, np.sin(np.arange(8000, dtype=np.float32)) / 2, 8000)
    >>> sum(piece.shape[1] for piece in stream(path, rate=16_000, block=999))
    16000
    """
    with open_sound(Path(path)) as (sound, frames):
        facts = _facts(Path(path), sound, frames)
        for piece in _resampled(sound, facts, channels, rate, first=0, last=frames, block=block):
            if len(piece):
                yield np.ascontiguousarray(piece.T)


def read(
    path: Path | str,
    *,
    rate: int,
    channels: ChannelPolicy = "mean",
    start: float = 0.0,
    seconds: float | None = None,
) -> NDArray[np.float32]:
    """Read a sound file or a part of it at a rate.

    A part is what the whole holds there, within 1e-4; of Opus, whose decoder settles slowly after a seek, within 0.01.
    For that, 16,384 frames of the source before it and up to a second more are read too, and the filter's reach on both
    sides.

    Parameters
    ----------
    path, rate, channels
        See `stream`.
    start : float
        Where the part begins, in s.
    seconds : float, optional
        How long it is; less where the file ends before. To the end if not given.

    Returns
    -------
    ndarray of float32, shape (channels, frames)
        From frame ``round(start * rate)`` on, ``round(seconds * rate)`` frames.

    Raises
    ------
    InputError
        As `stream`; or `start` is not within the file, or `seconds` not above 0.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
    >>> write_wav(path, np.sin(np.arange(8000, dtype=np.float32)) / 2, 8000)
    >>> read(path, rate=16_000, start=0.25, seconds=0.5).shape
    (1, 8000)
    """
    with open_sound(Path(path)) as (sound, frames):
        facts = _facts(Path(path), sound, frames)
        if not 0 <= start < facts.seconds:
            raise InputError(
                f"{path} lasts {facts.seconds:.3f} s and a part of it begins at {start:g} s; expected an earlier start"
            )
        if seconds is not None and not seconds > 0:
            raise InputError(f"a part of {path} lasts {seconds:g} s; expected more than 0: give its length in s")
        begin, end, first, last = _frames_under(facts, rate, start, seconds)
        pieces = list(_resampled(sound, facts, channels, rate, first=first, last=last, block=_BLOCK))
    skipped = first * rate // facts.rate
    return np.ascontiguousarray(np.concatenate(pieces)[begin - skipped : end - skipped].T)


def decode(path: Path | str, parts: Sequence[tuple[float, float | None]] = ((0.0, None),), *, rate: int) -> None:
    """Decode what `read` decodes of parts of a sound file and keep nothing: it says whether they can be read.

    Parameters
    ----------
    path : Path or str
    parts : sequence of (float, float or None)
        Where each begins and how long it is, in s, as `read` has it; the whole file if not given. What lies in several
        is decoded once.
    rate : int
        At which they are to be read, in Hz. Nothing is resampled.

    Raises
    ------
    InputError
        As `stream`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "bad.wav"
    >>> samples = np.zeros(32_000, dtype=np.float32)
    >>> samples[30_000] = np.nan
    >>> soundfile.write(path, samples, 8000, subtype="FLOAT")
    >>> decode(path, [(0.0, 1.0), (0.5, 2.0)], rate=8000)
    >>> decode(path, rate=8000)
    Traceback (most recent call last):
        ...
    seqdomains.errors.InputError: ... channel 1, frame 30000 (3.75 s): the sample is nan; expected finite numbers ...
    """
    with open_sound(Path(path)) as (sound, frames):
        facts = _facts(Path(path), sound, frames)
        stretches: list[tuple[int, int]] = []
        for first, last in sorted(_frames_under(facts, rate, *part)[2:] for part in parts):
            if stretches and first <= stretches[-1][1]:
                stretches[-1] = stretches[-1][0], max(last, stretches[-1][1])
            else:
                stretches.append((first, last))
        for first, last in stretches:
            for _ in _blocks(sound, facts, first, last, min(_BLOCK, _LARGEST_BLOCK // facts.channels)):
                pass


def write_wav(path: Path | str, samples: NDArray[np.floating[Any]], rate: int, subtype: str = "PCM_16") -> None:
    """Write a WAV file, whole or not at all.

    Parameters
    ----------
    path : Path or str
    samples : ndarray of float, shape (channels, frames) or (frames,)
        Beyond [-1, 1] they are clipped in integer subtypes.
    rate : int
        In Hz.
    subtype : str
        PCM_16, PCM_24, FLOAT, or another that libsndfile writes in WAV.

    Raises
    ------
    InputError
        A sample isn't finite, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "click.wav"
    >>> write_wav(path, np.array([0, 0.5, 0], dtype=np.float32), 8000)
    >>> read(path, rate=8000).tolist()
    [[0.0, 0.5, 0.0]]
    """
    path, frames = Path(path), np.atleast_2d(np.asarray(samples, dtype=np.float32)).T
    _check_finite(frames, path, first=0, rate=rate)
    try:
        with atomic_file(path) as partial, partial.open("wb") as handle:
            soundfile.write(handle.fileno(), frames, rate, subtype, format="WAV", closefd=False)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error.error_string
        raise InputError(f"cannot write {path}: {reason}") from error


def _frames_under(facts: SoundFacts, rate: int, start: float, seconds: float | None) -> tuple[int, int, int, int]:
    """Return the ends of a part of a file in frames at a rate, and those of what is decoded for it in its own."""
    begin, end = round(start * rate), resampled_frames(facts.frames, facts.rate, rate)
    if seconds is not None:
        end = min(end, begin + round(min(seconds, facts.seconds) * rate))
    # The first frame read is one that falls on a frame of the result, so that the filter stands as in the whole.
    step = facts.rate // math.gcd(facts.rate, rate)
    reach = math.ceil(_FILTER_REACH * max(1, facts.rate / rate))
    first = max(0, begin * facts.rate // rate - reach - _SEEK_CONTEXT) // step * step
    return begin, end, first, min(facts.frames, end * facts.rate // rate + reach)


def _facts(path: Path, sound: Decoder, frames: int) -> SoundFacts:
    return SoundFacts(path, sound.format, sound.subtype, sound.samplerate, sound.channels, frames)


def _resampled(
    sound: Decoder, facts: SoundFacts, policy: ChannelPolicy, rate: int, *, first: int, last: int, block: int
) -> Iterator[NDArray[np.float32]]:
    """Yield frames `first` to `last` of a file at another rate, shape (frames, channels of the policy)."""
    channels = len(channel_names(facts, policy))
    block = max(1, min(block, int(_LARGEST_BLOCK / max(facts.channels, channels * rate / facts.rate))))
    pieces = (_taken(samples, policy) for samples in _blocks(sound, facts, first, last, block))
    if rate == facts.rate:
        yield from pieces
        return
    resampler = soxr.ResampleStream(facts.rate, rate, channels, dtype="float32", quality="HQ")
    for piece in pieces:
        yield resampler.resample_chunk(piece)
    yield resampler.resample_chunk(np.empty((0, channels), dtype=np.float32), last=True)


def _blocks(sound: Decoder, facts: SoundFacts, first: int, last: int, block: int) -> Iterator[NDArray[np.float32]]:
    """Yield what a file holds from frame `first` to `last`, checked, shape (frames, channels)."""
    if first:
        sound.seek(first)
    peak, beyond = 0.0, 0
    for at in range(first, last, block):
        expected = min(block, last - at)
        samples = sound.read(expected, dtype="float32", always_2d=True)
        if len(samples) < expected:
            raise InputError(
                f"{facts.path} is truncated or damaged: it ends after {(at + len(samples)) / facts.rate:.3f} s of the "
                f"{facts.seconds:.3f} s that its header states; copy or make it again"
            )
        _check_finite(samples, facts.path, first=at, rate=facts.rate)
        if facts.subtype in ("FLOAT", "DOUBLE"):  # lossy codings go slightly beyond by their nature
            magnitude = np.abs(samples)
            peak, beyond = max(peak, float(magnitude.max())), beyond + int(np.count_nonzero(magnitude > 1))
        yield samples
    if beyond:
        words = f"has {beyond} samples beyond [-1, 1], up to {peak:.6g}; sample codes will clip them"
        advise(facts.path, "peak", words)


def _taken(samples: NDArray[np.float32], policy: ChannelPolicy) -> NDArray[np.float32]:
    if policy == "each":
        return samples
    if policy == "mean":
        mean: NDArray[np.float32] = samples.mean(axis=1, keepdims=True)
        return mean
    channel = min(("left", "right").index(policy), samples.shape[1] - 1)
    return np.ascontiguousarray(samples[:, channel : channel + 1])


def _check_finite(samples: NDArray[np.float32], path: Path, *, first: int, rate: int) -> None:
    """Refuse samples, shape (frames, channels) from frame `first` on, of which one is no sound."""
    bad = ~(np.abs(samples) <= _LARGEST_SAMPLE)  # NaN compares as false
    if bad.any():
        frame, channel = np.unravel_index(bad.argmax(), bad.shape)
        at = first + int(frame)
        raise InputError(
            f"{path}, channel {channel + 1}, frame {at} ({at / rate:.6g} s): the sample is {samples[frame, channel]}; "
            "expected finite numbers in [-1, 1]: make it again"
        )
