"""Bytes that are nearly right: what storage, editors, transfers and attackers do to a file."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

LARGEST = 4 << 20  # bytes of a generated file, before compression

Draw = Callable[[st.SearchStrategy[Any]], Any]

TOKENS = (
    b"\x00",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\r",
    b"\n",
    b"\t",
    b" ",
    b"\x0b\x0c\x1c\x1d\x85",
    b"\x1b[31m\x07",
    "\u2028".encode(),
    "²".encode(),
    "٣".encode(),
    b"0",
    b"-1",
    b"012",
    b"9223372036854775807",
    b"18446744073709551616",
    b"9" * 400,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"1.5",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b"'",
    b"\\ud800",
    b"../canary",
    b"/etc/passwd",
    b"..",
    b">",
    b"@",
    b"#",
    b",",
    b":",
    b"[",
    b"]",
    b"{",
    b"}",
)


def _place(draw: Draw, content: bytes) -> int:
    return int(draw(st.integers(0, len(content))))


def _piece(draw: Draw, content: bytes) -> tuple[int, int]:
    start = _place(draw, content)
    return start, min(len(content), start + draw(st.sampled_from((1, 2, 8, 60, 1000))))


def _flip(draw: Draw, content: bytes) -> bytes:
    if not content:
        return content
    at = min(_place(draw, content), len(content) - 1)
    return content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]


def _cut(draw: Draw, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _drop(draw: Draw, content: bytes) -> bytes:
    start, end = _piece(draw, content)
    return content[:start] + content[end:]


def _repeat(draw: Draw, content: bytes) -> bytes:
    start, end = _piece(draw, content)
    times = min(draw(st.sampled_from((1, 2, 100, 100_000))), LARGEST // max(1, end - start))
    return content[:end] + content[start:end] * times + content[end:]


def _insert(draw: Draw, content: bytes) -> bytes:
    at = _place(draw, content)
    token = draw(st.sampled_from(TOKENS) | st.binary(max_size=6))
    return content[:at] + token * draw(st.sampled_from((1, 1, 1, 2000))) + content[at:]


def _overwrite(draw: Draw, content: bytes) -> bytes:
    start, end = _piece(draw, content)
    return content[:start] + draw(st.sampled_from(TOKENS)) + content[end:]


def _renumber(draw: Draw, content: bytes) -> bytes:
    """Replace one run of digits."""
    digits = [at for at in range(min(len(content), 5000)) if content[at : at + 1].isdigit()]
    if not digits:
        return content
    start = end = draw(st.sampled_from(digits))
    while content[end : end + 1].isdigit():
        end += 1
    return content[:start] + draw(st.sampled_from(TOKENS[14:25])) + content[end:]


def _line_ends(draw: Draw, content: bytes) -> bytes:
    return content.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", b"\n\n", b" \n", b""))))


OPERATIONS = (_flip, _cut, _drop, _repeat, _insert, _overwrite, _renumber, _line_ends)

DAMAGES = (_flip, _cut, _drop, _overwrite)


@st.composite
def mutated(draw: Draw, content: bytes, *, most: int = 4, grow: bool = True) -> bytes:
    """Change a file's bytes up to `most` times; most often a little."""
    # Repeats in what is compressed would grow without bound.
    for _ in range(draw(st.sampled_from((0, 1, 1, min(2, most), most)))):
        content = draw(st.sampled_from(OPERATIONS if grow else DAMAGES))(draw, content)
    return content[:LARGEST]


def bgzip(content: bytes, *, block: int = 0xFF00) -> bytes:
    """Compress as bgzip does (SAM/BAM format specification, section 4.1)."""
    blocks = []
    for at in [*range(0, len(content), block), len(content)]:
        piece = content[at : at + block]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        data = packer.compress(piece) + packer.flush()
        head = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(data) + 25)
        blocks.append(head + data + struct.pack("<II", zlib.crc32(piece), len(piece)))
    return b"".join(blocks)


@st.composite
def packed(draw: Draw, content: bytes) -> bytes:
    """Leave a file plain or compress it, whole or damaged."""
    form = draw(st.sampled_from(("plain", "plain", "gzip", "bgzip", "damaged gzip", "damaged bgzip")))
    if form == "plain":
        return content
    small = bgzip(content) if form.endswith("bgzip") else gzip.compress(content, mtime=0)
    return draw(mutated(small, most=2, grow=False)) if form.startswith("damaged") else small
