"""Sound that is written while it comes: WAV whose header is right at every moment, FLAC, and WAV into a pipe."""

from __future__ import annotations

import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import atomic_file

STDOUT: Final = "-"
SUFFIXES: Final = (".wav", ".wave", ".flac")
_WIDTH: Final = 2  # bytes of a sample
_LARGEST: Final = 0xFFFFFFFF  # what a 32-bit size can state
_LONGEST_COMMENT: Final = 400  # bytes
_FULL: Final = "the disk is full, or another limit is met"


class SoundWriter(Protocol):
    """Takes one channel of sound."""

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append samples, of which full scale is 1; what is beyond is clipped."""


def check_output(output: Path | str, frames: int) -> None:
    """Refuse a name whose form isn't written, or can't hold so much.

    Raises
    ------
    ConfigError
        Another suffix than .wav, .wave or .flac; or more than 4 GiB of WAV.

    Examples
    --------
    >>> check_output("long.flac", 1 << 40)
    >>> check_output("long.wav", 1 << 40)
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: -o long.wav: WAV holds 2147483391 samples at most; write .flac, or less
    """
    suffix = Path(output).suffix.lower()
    if not _is_stream(output) and suffix not in SUFFIXES:
        raise ConfigError(f"-o {output}: expected a name that ends in {', '.join(SUFFIXES)}, or - for WAV on stdout")
    # Room for the comment is left.
    most = (_LARGEST - 512) // _WIDTH
    if suffix != ".flac" and frames > most:
        raise ConfigError(f"-o {output}: WAV holds {most} samples at most; write .flac, or less")


@contextmanager
def open_writer(output: Path | str, *, rate: int, frames: int, comment: str = "") -> Iterator[SoundWriter]:
    """Open a file of one channel of 16 bits, of which all that was written is there whenever the block ends in order.

    It stands under its name once the block has ended, and not at all if it fails. The header of a WAV file is right
    after each `write`, so that the temporary file of a process that was killed can be played too.

    Parameters
    ----------
    output : Path or str
        ``.wav``, ``.wave`` or ``.flac``; ``-`` is stdout, which like any pipe or device gets WAV as it comes, whose
        header states `frames`.
    rate : int
        In Hz.
    frames : int
        How many samples are to come.
    comment : str
        Kept in the file: how it was made, at most 400 bytes of ASCII.

    Raises
    ------
    ConfigError
        As `check_output`.
    InputError
        The file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> from seqdomains.audio.files import read
    >>> path = Path(tempfile.mkdtemp()) / "click.wav"
    >>> with open_writer(path, rate=8000, frames=3) as writer:
    ...     writer.write(np.array([0, 0.5], np.float32))
    >>> read(path, rate=8000).tolist()
    [[0.0, 0.5]]
    """
    check_output(output, frames)
    path = Path(output)
    # Only what is done here is told in these words: what the block meets may be of another file.
    with ExitStack() as stack:
        with _told(output):
            writer = _opened(path, stack, rate, frames, comment)
        yield writer
        with _told(output):
            stack.close()


def _opened(path: Path, stack: ExitStack, rate: int, frames: int, comment: str) -> _Wav | _Flac:
    if str(path) == STDOUT:
        return _Wav(path, sys.stdout.buffer, rate, comment, frames=frames)
    if _is_stream(path):
        return _Wav(path, stack.enter_context(path.open("wb", buffering=0)), rate, comment, frames=frames)
    partial = stack.enter_context(atomic_file(path))
    handle = stack.enter_context(partial.open("wb", buffering=0))
    if path.suffix.lower() != ".flac":
        return _Wav(path, handle, rate, comment)
    file = soundfile.SoundFile(handle.fileno(), "w", rate, 1, "PCM_16", format="FLAC", closefd=False)
    stack.callback(_close_flac, file, partial)
    if comment:
        file.comment = comment
    return _Flac(path, file)


@contextmanager
def _told(output: Path | str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, soundfile.LibsndfileError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error.error_string
        name = "stdout" if str(output) == STDOUT else output
        raise InputError(f"cannot write {name}: {reason}; choose another -o") from error


def _is_stream(output: Path | str) -> bool:
    path = Path(output)
    return str(output) == STDOUT or (path.exists() and not stat.S_ISREG(path.stat().st_mode))


def _integers(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    whole: NDArray[np.float32] = np.clip(np.rint(samples * np.float32(1 << 15)), -(1 << 15), (1 << 15) - 1)
    return whole.astype("<i2")


class _Wav:
    """RIFF with a format, a comment and the sound; `frames` states how much will come where the header can't follow."""

    def __init__(self, output: Path, handle: IO[bytes], rate: int, comment: str, *, frames: int | None = None) -> None:
        self._output = output
        self._handle = handle
        self._rate = rate
        self._comment = comment
        self._follows = frames is None
        self._written = 0
        self._put(self._header(frames or 0))

    def write(self, samples: NDArray[np.float32]) -> None:
        with _told(self._output):
            self._put(_integers(samples).tobytes())
            self._written += len(samples)
            if self._follows:
                self._handle.seek(0)
                self._put(self._header(self._written))
                self._handle.seek(0, os.SEEK_END)
            self._handle.flush()

    def _put(self, data: bytes) -> None:
        # A raw file may take less than it is given, as on a disk that is nearly full.
        view = memoryview(data)
        while view:
            view = view[self._handle.write(view) :]

    def _header(self, frames: int) -> bytes:
        size = frames * _WIDTH
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, self._rate, self._rate * _WIDTH, _WIDTH, 8 * _WIDTH)
        body = b"WAVE" + form + self._note() + struct.pack("<4sI", b"data", size)
        return struct.pack("<4sI", b"RIFF", len(body) + size) + body

    def _note(self) -> bytes:
        if not self._comment:
            return b""
        text = self._comment.encode("ascii", "replace")[:_LONGEST_COMMENT] + b"\0"
        text += b"\0" * (len(text) % 2)
        return struct.pack("<4sI4s4sI", b"LIST", 12 + len(text), b"INFO", b"ICMT", len(text)) + text


class _Flac:
    def __init__(self, output: Path, file: soundfile.SoundFile) -> None:
        self._output = output
        self._file = file

    def write(self, samples: NDArray[np.float32]) -> None:
        with _told(self._output):
            try:
                self._file.write(_integers(samples).astype(np.int16))
            except AssertionError:
                # How soundfile says that libsndfile took less than it was given.
                raise OSError(_FULL) from None


def _close_flac(file: soundfile.SoundFile, path: Path) -> None:
    """Close a file, and count what is there: libFLAC writes its last blocks now, and nobody tells of an error."""
    frames = file.frames
    file.close()
    if sys.exc_info()[0] is None and soundfile.info(path).frames != frames:
        raise OSError(_FULL)
