"""FASTA as a stream: one record after the other from a plain, gzip or bgzip file or from stdin.

A record's letters come in pieces of at most about a megabyte, checked as they pass, so that a chromosome is never
held as a whole unless somebody asks for it. Random access by index is in `faidx`.
"""

from __future__ import annotations

import gzip
import io
import logging
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError, reason
from seqdomains.genomics.alphabet import GapPolicy, encode, first_illegal, illegal_character

logger = logging.getLogger(__name__)

Compression = Literal["plain", "gzip", "bgzip"]

STDIN = "-"
_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 20
# The empty block that ends a whole BGZF file: SAM/BAM format specification, section 4.1.2.
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_OTHER_FORMATS = {
    b"@": "it looks like FASTQ: convert it with `seqtk seq -A`",
    b";": "comment lines are not part of FASTA: remove them",
    b"L": "if it is GenBank, name it .gb, .gbk or .gbff",
    b"\xef": "it seems to have a byte-order mark: save it as UTF-8 without one",
    b"\xff": "it seems to be UTF-16: save it as plain text (UTF-8)",
    b"\xfe": "it seems to be UTF-16: save it as plain text (UTF-8)",
}
_advised: set[str] = set()


@dataclass(frozen=True)
class Record:
    """A FASTA record whose letters are still to be read.

    Parameters
    ----------
    name : str
        The header up to the first blank.
    description : str
        The rest of the header.
    line : int
        1-based line of the header; 0 where the format has no lines of its own.
    pieces : Iterator of bytes
        Checked letters without line ends, in order. Valid until the next record is asked for.
    policy : {"reject", "mask"}
        How gap characters are encoded.
    """

    name: str
    description: str
    line: int
    pieces: Iterator[bytes] = field(repr=False)
    policy: GapPolicy = "reject"

    def code_pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the record's codes piece by piece."""
        for piece in self.pieces:
            yield encode(piece, policy=self.policy, record=self.name)

    def codes(self) -> NDArray[np.uint8]:
        """Read the whole record as codes, shape (length,)."""
        return np.concatenate([np.empty(0, dtype=np.uint8), *self.code_pieces()])


def source_name(source: Path | str) -> str:
    """Return how messages call a source: its path, or ``stdin`` for `-`."""
    return "stdin" if str(source) == STDIN else str(source)


def reads_once(source: Path | str) -> bool:
    """Tell whether a source is stdin or a pipe, such as a shell's ``<(zcat a.fa.gz)``, which cannot be read again.

    Examples
    --------
    >>> reads_once("-"), reads_once("refs.fasta")
    (True, False)
    """
    path = Path(source)
    return str(source) == STDIN or (path.exists() and not path.is_file() and not path.is_dir())


def compression(path: Path) -> Compression:
    """Tell plain, gzip and bgzip files apart by their first bytes.

    Raises
    ------
    InputError
        The file cannot be read, is empty, or is a bgzip file without its end block.
    """
    with _open_raw(path) as handle:
        head = handle.read(18)
        if not head:
            raise InputError(f"{path} is empty: expected FASTA records")
        if head[:2] != b"\x1f\x8b":
            return "plain"
        if not (len(head) == 18 and head[3] & 4 and head[12:14] == b"BC"):
            return "gzip"
        handle.seek(0, io.SEEK_END)
        handle.seek(max(0, handle.tell() - len(_BGZF_END)))
        if handle.read() != _BGZF_END:
            raise InputError(f"{path} is a truncated bgzip file: its end block is missing; copy or compress it again")
    return "bgzip"


def index_paths(path: Path) -> tuple[Path, Path]:
    """Return where samtools keeps the index of `path` and of its bgzip blocks: ``.fai`` and ``.gzi``."""
    return path.with_name(path.name + ".fai"), path.with_name(path.name + ".gzi")


def check_index_age(path: Path) -> None:
    """Refuse a file whose index is older than itself: one of the two was changed, and coordinates may be wrong.

    Raises
    ------
    InputError
        ``.fai`` or ``.gzi`` is older than the file.
    """
    for index in index_paths(path):
        if index.exists() and index.stat().st_mtime_ns < path.stat().st_mtime_ns:
            raise InputError(
                f"{index} is older than {path.name}: run `samtools faidx {path}`, or delete it (it is made again when "
                "needed), and start again"
            )


def stream_fasta(source: Path | str, *, policy: GapPolicy = "reject") -> Iterator[Record]:
    r"""Read FASTA records in order.

    Parameters
    ----------
    source : Path or str
        A plain, gzip or bgzip file; `-` is stdin. Stdin and pipes may be compressed too.
    policy : {"reject", "mask"}
        Whether `-`, `.` and `*` are an error or become the mask code.

    Yields
    ------
    Record
        Its pieces must be read before the next record is asked for; what is left is checked and passed over.

    Raises
    ------
    InputError
        Missing, unreadable or empty file, no FASTA, duplicate or missing name, record without sequence, illegal
        character, truncated compression, index older than the file. Names record, line and position.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.fa"
    >>> _ = path.write_text(">a species=human\nACGT\nAC\n>b\nTT\n")
    >>> [(record.name, record.description, record.codes().size) for record in stream_fasta(path)]
    [('a', 'species=human', 6), ('b', '', 2)]
    """
    name = source_name(source)
    if not reads_once(source):
        if compression(Path(source)) == "gzip":
            _advise_bgzip(Path(source))
        check_index_age(Path(source))
    with open_text(source) as handle, as_input_errors(name):
        yield from _Parser(handle, name, policy).records()


@contextmanager
def open_text(source: Path | str) -> Iterator[BinaryIO]:
    """Open a file or stdin for reading bytes, decompressing gzip and bgzip."""
    if source_name(source) == "stdin":
        raw = cast(io.BufferedReader, sys.stdin.buffer)
        yield cast(BinaryIO, gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw)
        return
    path = Path(source)
    with _open_raw(path) as raw:
        if raw.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as handle:
                yield cast(BinaryIO, handle)
        else:
            yield cast(BinaryIO, raw)


def _open_raw(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give the path of a FASTA file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: expected a FASTA file") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _advise_bgzip(path: Path) -> None:
    """Log once per file that plain gzip cannot be read by position."""
    if str(path) not in _advised:
        _advised.add(str(path))
        logger.warning(
            "%s is plain gzip, which can only be read from its start; `gunzip -c %s | bgzip > new.fa.gz` makes it "
            "readable by position",
            path,
            path.name,
        )


@contextmanager
def as_input_errors(name: str) -> Iterator[None]:
    """Turn what a damaged or vanished file raises while it is read into an InputError that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name} is truncated or damaged gzip ({error}): copy or compress it again") from error
    except OSError as error:
        raise InputError(f"{name} cannot be read: {reason(error)}") from error


class _Parser:
    """Cut a byte stream at its headers and check what lies between them."""

    def __init__(self, handle: BinaryIO, name: str, policy: GapPolicy) -> None:
        self.handle = handle
        self.name = name
        self.policy = policy
        self.chunks = self._chunks()
        self.pending: tuple[int, bytes] | None = None

    def records(self) -> Iterator[Record]:
        self._read_to_first_header()
        seen: dict[str, int] = {}
        while self.pending is not None:
            line, header = self.pending
            if b"\r" in header.rstrip(b"\r"):
                raise InputError(
                    f"{self.name}, line {line}: a carriage return inside the header; are line ends those of old Macs? "
                    "convert them with `tr '\\r' '\\n'`"
                )
            words = header.decode("utf-8", errors="replace").split(maxsplit=1)
            if not words or header[:1].isspace():
                raise InputError(f"{self.name}, line {line}: the header has no name; expected `>name description`")
            name = words[0]
            if name in seen:
                raise InputError(
                    f"{self.name}, line {line}: duplicate record name {name!r}, first seen on line {seen[name]}; "
                    "names must be unique: rename one"
                )
            seen[name] = line
            record = Record(name, words[1].strip() if len(words) > 1 else "", line, self._body(name, line), self.policy)
            yield record
            for _ in record.pieces:  # what the caller did not read is still checked
                pass

    def _read_to_first_header(self) -> None:
        for is_header, line, text in self.chunks:
            if is_header:
                self.pending = (line, text)
                return
            start = text.lstrip()
            if start:
                hint = _OTHER_FORMATS.get(start[:1], "expected a line that begins with '>'")
                raise InputError(f"{self.name} is not FASTA: it begins with {start[:1].decode('latin-1')!r}; {hint}")
        raise InputError(f"{self.name} is empty: expected FASTA records")

    def _body(self, name: str, header_line: int) -> Iterator[bytes]:
        position = 0
        self.pending = None
        for is_header, line, text in self.chunks:
            if is_header:
                self.pending = (line, text)
                break
            letters = text.translate(None, b"\r\n")
            at = first_illegal(letters, self.policy)
            if at is not None:
                raise self._illegal(name, line, text, letters[at : at + 1], position + at + 1)
            if letters:
                position += len(letters)
                yield letters
        if position == 0:
            raise InputError(f"{self.name}, line {header_line}: record {name!r} has no sequence; remove it")

    def _illegal(self, name: str, line: int, text: bytes, byte: bytes, position: int) -> InputError:
        line += text.count(b"\n", 0, text.index(byte))
        error = illegal_character(byte.decode("latin-1"), record=name, position=position, line=line)
        return InputError(f"{self.name}: {error}")

    def _chunks(self) -> Iterator[tuple[bool, int, bytes]]:
        """Yield (is a header, its line, header without `>` or raw sequence text)."""
        carry, line, at_line_start = b"", 1, True
        while block := self.handle.read(_BLOCK):
            data, at = carry + block, 0
            carry = b""
            while at < len(data):
                if at_line_start and data[at : at + 1] == b">":
                    end = data.find(b"\n", at)
                    if end < 0:
                        carry = data[at:]
                        if len(carry) > _LONGEST_HEADER:
                            raise InputError(f"{self.name}, line {line}: a header of over 1 MB; this is not FASTA")
                        break
                    yield True, line, data[at + 1 : end]
                    line, at = line + 1, end + 1
                    continue
                end = data.find(b"\n>", at)
                text = data[at:] if end < 0 else data[at : end + 1]
                yield False, line, text
                line += text.count(b"\n")
                at_line_start = text.endswith(b"\n")
                at += len(text)
        if carry:
            yield True, line, carry[1:]
