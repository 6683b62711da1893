"""Opens sound files: everything that can be wrong with one is found here, in words, before samples are read."""

from __future__ import annotations

import io
import logging
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import soundfile

from seqdomains.audio.containers import (
    HEAD,
    DataChunk,
    Kind,
    SizeFilledIn,
    data_chunk,
    ends_within_ogg_page,
    id3_length,
    kind,
    looks_like,
    mp3_frames,
)
from seqdomains.errors import InputError

logger = logging.getLogger(__name__)

MOST_CHANNELS: Final = 64
RATES: Final = (100, 1_000_000)  # Hz
_WAV: Final = ("WAV", "WAVEX", "RF64")
# The containers that a suffix promises, as libsndfile calls them.
FORMATS: Final = {
    ".wav": _WAV,
    ".wave": _WAV,
    ".rf64": _WAV,
    ".w64": ("W64",),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".oga": ("OGG",),
    ".opus": ("OGG",),
    ".mp3": ("MP3",),
    ".aif": ("AIFF",),
    ".aiff": ("AIFF",),
    ".au": ("AU",),
}
_UNKNOWN_FRAMES: Final = (1 << 63) - 1  # libsndfile's SF_COUNT_MAX
_MP3_SLACK: Final = 3456  # frames of three packets: what encoders add at both ends, and what decoders leave out
_advised: set[tuple[Path, str]] = set()


class Decoder(soundfile.SoundFile):  # type: ignore[misc]
    """A file that isn't sought in after each read, as soundfile does: that breaks MP3 in small blocks, and is slow."""

    def seekable(self) -> bool:
        """Say no, so that soundfile leaves the position alone; `seek` works."""
        return False


@contextmanager
def open_sound(path: Path) -> Iterator[tuple[Decoder, int]]:
    """Open a file at its first frame, and count the frames that it gives.

    Raises
    ------
    InputError
        As `seqdomains.audio.files.examine`; also where what is done with it meets a libsndfile error.
    """
    try:
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "is a pipe or device" if path.exists() else "does not exist"
            raise InputError(f"{path} {found}; expected a sound file: give its path")
        with path.open("rb", buffering=0) as handle:
            found, start = _kind_and_start(handle, path)
            chunk = data_chunk(handle)
            if found == "OGG" and ends_within_ogg_page(handle):
                raise InputError(f"{path} is truncated: it ends within an Ogg page; copy or make it again")
            packets = mp3_frames(handle, start) if found == "MP3" else None
            handle.seek(0)  # libsndfile takes the descriptor's position for the beginning of the file
            source = SizeFilledIn(handle, chunk) if chunk and chunk.stated is None else handle.fileno()
            with Decoder(source, closefd=False) as sound:
                _check_plausible(sound, path)
                if chunk:
                    _check_all_there(sound, chunk, path)
                frames = _decodable_frames(sound, packets, path)
                _check_name(sound, path)
                yield sound, frames
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path} cannot be decoded ({error.error_string}): it is damaged, or of a coding that libsndfile doesn't "
            "know; copy it again, or convert it with `ffmpeg -i INPUT output.flac`"
        ) from error


def _kind_and_start(handle: io.FileIO, path: Path) -> tuple[Kind, int]:
    head = handle.read(HEAD)
    if not head:
        raise InputError(f"{path} is empty (0 bytes); expected sound: copy or make it again")
    start = 0
    while length := id3_length(head):
        start = handle.seek(start + length)
        head = handle.read(HEAD)
    found = kind(head)
    if found is None or (start and found not in ("MP3", "FLAC")):
        raise InputError(f"{path} is not WAV, FLAC, OGG, MP3, AIFF or AU: {looks_like(head)}")
    return found, start


def _check_plausible(sound: Decoder, path: Path) -> None:
    if sound.channels > MOST_CHANNELS:
        raise InputError(f"{path} has {sound.channels} channels; expected at most {MOST_CHANNELS}: split it")
    if not RATES[0] <= sound.samplerate <= RATES[1]:
        raise InputError(
            f"{path} states a rate of {sound.samplerate} Hz; expected {RATES[0]} to {RATES[1]}: its header is damaged"
        )


def _check_all_there(sound: Decoder, chunk: DataChunk, path: Path) -> None:
    lost = (chunk.stated or 0) - chunk.there
    if lost > 0 and lost * sound.frames >= chunk.there:  # one frame or more; some writers leave out the last byte
        seconds = sound.frames / sound.samplerate
        lasts = f", {seconds:.3f} s of {seconds * (1 + lost / chunk.there):.3f} s" if chunk.there else ""
        raise InputError(
            f"{path} is truncated: {chunk.there} of the {chunk.stated} bytes of sound that its header states are "
            f"there{lasts}; copy or make it again"
        )


def _decodable_frames(sound: Decoder, packets: tuple[int, bool] | None, path: Path) -> int:
    """Count the frames of a file; FLAC and MP3 are sought to their ends, since they may be cut.

    `packets` is what `mp3_frames` found of an MP3.
    """
    stated = int(sound.frames)
    if stated == _UNKNOWN_FRAMES:
        raise InputError(
            f"{path} does not state its length: it was written to a pipe; convert it with `ffmpeg -i INPUT output.flac`"
        )
    if stated < 1:
        raise InputError(f"{path} has a header and no sound (0 frames): make it again, or leave it out")
    if sound.format not in ("FLAC", "MP3"):
        return stated
    there, exact = packets or (stated, True)
    slack = _MP3_SLACK if packets else 1
    if there - stated > slack:
        raise InputError(
            f"{path} lasts {there / sound.samplerate:.3f} s and its first packet tells of "
            f"{stated / sound.samplerate:.3f} s; mend it with `ffmpeg -i INPUT -c copy output.mp3`"
        )

    def gives(frame: int) -> bool:
        try:
            sound.seek(frame)
            return len(sound.read(1)) == 1
        except soundfile.LibsndfileError:
            return False

    most = min(stated, there)
    least = max(0, most - slack)
    frames = most if gives(most - 1) else bisect_left(range(most), True, least, key=lambda frame: not gives(frame))
    if frames == least or (exact and stated - there > slack):
        raise InputError(
            f"{path} is truncated or damaged: it cannot be decoded up to the end that its header states "
            f"({stated / sound.samplerate:.3f} s); copy or make it again"
        )
    sound.seek(0)
    return frames


def _check_name(sound: Decoder, path: Path) -> None:
    expected = FORMATS.get(path.suffix.lower(), (sound.format,))
    if sound.format not in expected:
        advise(path, "name", f"is {sound.format}, though its name says {expected[0]}: it is read as {sound.format}")


def advise(path: Path, about: str, words: str) -> None:
    """Log a warning once for each file and thing to warn about."""
    if (path.absolute(), about) not in _advised:
        _advised.add((path.absolute(), about))
        logger.warning("%s %s", path, words)
