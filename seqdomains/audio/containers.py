"""What a sound file's first bytes and its chunks say, read without a decoder.

libsndfile gives what is left of a truncated file as if it were whole, so the size that a header states is compared with
the file's own here. It also guesses among 25 formats, many of them unknown to anybody; only those of `kind` reach it.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Final, Literal

from seqdomains.errors import InputError

Kind = Literal["WAV", "W64", "AIFF", "AU", "FLAC", "OGG", "MP3"]

HEAD: Final = 16  # bytes that `kind` looks at
_MOST_CHUNKS: Final = 10_000  # before the sound: a file of a gigabyte may hold 10**8 empty ones
_LARGEST_WAV: Final = 0xFFFFFFFF  # bytes of sound that a 32-bit size can state
# What ffmpeg states when it writes to a pipe and cannot go back, and sox (MS_UNSPEC of its wav.c, in whole frames).
_UNSTATED: Final = (*range(0x7FFFF000 - 511, 0x7FFFF001), 0xFFFFFFFF)
_UNSTATED_64: Final = 1 << 63
_LARGEST_OGG_PAGE: Final = 65_307  # bytes: RFC 3533, section 6
_LARGEST_MP3_PACKET: Final = 1441  # bytes: 320 kbit/s at 32 kHz
_MP3_KILOBITS: Final = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_LOW_KILOBITS: Final = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MP3_TAILS: Final = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", bytes(HEAD))
_MAGIC: Final[tuple[tuple[bytes, Kind], ...]] = ((b"riff", "W64"), (b".snd", "AU"), (b"fLaC", "FLAC"), (b"OggS", "OGG"))

_CONVERT: Final = "convert it with `ffmpeg -i INPUT output.flac`"
_CONVERTIBLE: Final = (
    (4, b"ftyp", "MP4 (M4A, AAC, ALAC)"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"0&\xb2u", "Windows Media (WMA)"),
    (0, b"caff", "Core Audio (CAF)"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"#!AMR", "AMR"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"BW64", "BW64"),
    (0, b"RIFF", "RIFF without WAVE, such as a film in AVI"),
    (0, b"\xff", "AAC, or MPEG audio that is not layer III"),
)
_OTHERS: Final = (
    (b"MThd", "MIDI, which holds notes and no sound: render it first"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "gzip: unpack it"),
    (b"version https://", "a Git LFS pointer in place of the file: run `git lfs pull`"),
)


@dataclass(frozen=True)
class DataChunk:
    """Where a container keeps its sound.

    Parameters
    ----------
    start : int
        Byte at which the sound begins.
    stated : int or None
        Bytes of sound by the header; None where the writer could not know, as on a pipe: the rest of the file is sound.
    there : int
        Bytes from `start` to the end of the file.
    size_at : int
        Byte at which the header states the size.
    size_format : str
        How it is packed there, in the terms of `struct`.
    """

    start: int
    stated: int | None
    there: int
    size_at: int
    size_format: str


@dataclass(frozen=True)
class _Layout:
    """How a container strings its chunks together."""

    first: int  # byte of the first chunk
    sound: bytes  # the tag of the chunk that holds the sound
    size_format: str
    align: int
    head_counts: bool = False  # whether a chunk's size includes its tag and itself


_GUID: Final = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # ends the tags of Sony's Wave64
_LAYOUTS: Final = {
    b"RIFF": _Layout(12, b"data", "<I", 2),
    b"RF64": _Layout(12, b"data", "<I", 2),
    b"RIFX": _Layout(12, b"data", ">I", 2),
    b"FORM": _Layout(12, b"SSND", ">I", 2),
    b"riff": _Layout(40, b"data" + _GUID, "<Q", 8, head_counts=True),
}


def kind(head: bytes) -> Kind | None:
    r"""Tell the containers that are read apart by their first `HEAD` bytes.

    Examples
    --------
    >>> kind(b"RIFF\x00\x00\x00\x00WAVEfmt "), kind(b"fLaC\x00\x00\x00\x22"), kind(b">chr1\nACGT")
    ('WAV', 'FLAC', None)
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return "WAV" if head[8:12] == b"WAVE" else None
    if head[:4] == b"FORM":
        return "AIFF" if head[8:12] in (b"AIFF", b"AIFC") else None
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "MP3" if _mp3_packet(head) else None


def looks_like(head: bytes) -> str:
    r"""Say what a file that is none of the containers looks like, and what to do about it.

    Examples
    --------
    >>> looks_like(b"\x1f\x8b\x08"), looks_like(b"hello\n").split(":")[0]
    ('it looks like gzip: unpack it', "it looks like text that begins with 'hello'")
    """
    if not head:
        return "nothing follows its ID3 tag: copy or make it again"
    for at, magic, found in _CONVERTIBLE:
        if head[at:].startswith(magic):
            return f"it looks like {found}: {_CONVERT}"
    for magic, found in _OTHERS:
        if head.startswith(magic):
            return f"it looks like {found}"
    if head.isascii() and all(byte > 31 or byte in b"\t\r\n" for byte in head):
        return f"it looks like text that begins with {head.decode().strip()!r}: give the path of a sound file"
    return f"it begins with the bytes {head[:8].hex(' ')}: give another file, or {_CONVERT}"


def data_chunk(handle: io.FileIO) -> DataChunk | None:
    """Find the sound of a WAV, RF64, W64, AIFF or AU file; None where there is none or the container has no such size.

    Raises
    ------
    InputError
        There are over 10,000 chunks before the sound.
    """
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    head = handle.read(40)
    if head.startswith(b".snd") and len(head) >= 12:
        start, stated = struct.unpack(">II", head[4:12])
        return DataChunk(start, None if stated in _UNSTATED else stated, max(0, size - start), 8, ">I")
    layout = _LAYOUTS.get(head[:4])
    if layout is None:
        return None
    at, tag_length = layout.first, len(layout.sound)
    head_length = tag_length + struct.calcsize(layout.size_format)
    large: int | None = None
    for _ in range(_MOST_CHUNKS):
        handle.seek(min(at, size))
        chunk = handle.read(head_length + 16)
        if len(chunk) < head_length:
            return None
        (length,) = struct.unpack_from(layout.size_format, chunk, tag_length)
        length = max(0, length - head_length) if layout.head_counts else length
        start = at + head_length
        if chunk.startswith(b"ds64") and len(chunk) >= 24:  # EBU Tech 3306: the sizes that 32 bits cannot state
            large, large_at = struct.unpack_from("<Q", chunk, 16)[0], at + 16
        elif chunk.startswith(layout.sound):
            there = max(0, size - start)
            if large is not None and length == _LARGEST_WAV:
                return DataChunk(start, large if 0 < large < _UNSTATED_64 else None, there, large_at, "<Q")
            whole = struct.unpack_from(layout.size_format, head, 4)[0] + 8 == size
            unstated = length in _UNSTATED or (length == 0 < there and not whole and not layout.head_counts)
            return DataChunk(start, None if unstated else length, there, at + tag_length, layout.size_format)
        at = start + -(-length // layout.align) * layout.align
    raise InputError(
        f"{handle.name} has over {_MOST_CHUNKS} chunks before its sound; expected a few: it is damaged, make it again"
    )


class SizeFilledIn(io.FileIO):
    """A file whose data chunk reads as if it stated the rest of the file as its size.

    libsndfile takes a size of 0 for an empty file, and fails on what ffmpeg writes in RF64 to a pipe.

    Parameters
    ----------
    handle : FileIO
        The open file; it stays open.
    chunk : DataChunk
        What `data_chunk` found.

    Raises
    ------
    InputError
        More sound follows than the header can state.
    """

    def __init__(self, handle: io.FileIO, chunk: DataChunk) -> None:
        super().__init__(handle.fileno(), closefd=False)
        if chunk.size_format.endswith("I") and chunk.there > _LARGEST_WAV:
            raise InputError(
                f"{handle.name} holds {chunk.there} bytes of sound; expected at most the 4 GiB that its header can "
                "state: write it as RF64, W64 or FLAC"
            )
        self._at = chunk.size_at
        self._size = struct.pack(chunk.size_format, chunk.there)

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Read as FileIO does, with the size in place."""
        start = self.tell()
        count = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for at, byte in enumerate(self._size, self._at - start):
            if 0 <= at < count:
                view[at] = byte
        return count


def ends_within_ogg_page(handle: io.FileIO) -> bool:
    """Tell whether an Ogg file was cut off: its last page should end where the file does, or be followed by little.

    A cut between two pages cannot be told from a recording that was stopped.
    """
    size = handle.seek(0, io.SEEK_END)
    handle.seek(max(0, size - _LARGEST_OGG_PAGE))
    tail = handle.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return True
    table = tail[page + 27 :][: tail[page + 26]] if len(tail) > page + 26 else b""
    return not table or page + 27 + len(table) + sum(table) > len(tail)


def id3_length(head: bytes) -> int:
    """Return the bytes of the ID3 tag that begins here, 0 if none does: 10 and a number in 4 bytes of 7 bits.

    Examples
    --------
    >>> id3_length(bytes.fromhex("4944330300000000010a")), id3_length(b"fLaC")
    (148, 0)
    """
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def mp3_frames(handle: io.FileIO, start: int) -> tuple[int, bool]:
    """Walk over the packets of an MP3 from byte `start` on.

    libsndfile takes the length from the first packet, which may state it, or may only have a bit rate to guess by; and
    it goes through whatever lies between packets at length, with a line on stderr for each kilobyte.

    Returns
    -------
    frames : int
        Of whole packets, with those that decoders leave out at both ends.
    stated : bool
        Whether the first packet states the length; it isn't counted.

    Raises
    ------
    InputError
        Something else follows a packet and is no tag.
    """
    size = handle.seek(0, io.SEEK_END)
    with open(handle.fileno(), "rb", closefd=False) as packets:
        packets.seek(start)
        first = packets.read(64)
        stated = any(name in first for name in (b"Xing", b"Info", b"VBRI"))
        at, frames = start, 0
        while at < size:
            packets.seek(at)
            head = packets.read(HEAD)
            if packet := _mp3_packet(head):
                length, count = packet
                if at + length <= size and not (stated and at == start):
                    frames += count
                at += length
            elif length := id3_length(head):
                at += length
            elif size - at < _LARGEST_MP3_PACKET or head.startswith(_MP3_TAILS):
                break
            else:
                raise InputError(
                    f"{handle.name} is damaged: no MP3 packet begins at byte {at}, where the one before ends; "
                    f"{_CONVERT}"
                )
    return frames, stated


def _mp3_packet(head: bytes) -> tuple[int, int] | None:
    """Return the bytes and the frames of the packet that begins here (ISO/IEC 11172-3 and 13818-3, layer III)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, bits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return None
    kilobits = (_MP3_KILOBITS if version == 3 else _MP3_LOW_KILOBITS)[bits - 1]
    hertz = (44_100, 48_000, 32_000)[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    frames = 1152 if version == 3 else 576
    return frames * 125 * kilobits // hertz + (head[2] >> 1 & 1), frames
