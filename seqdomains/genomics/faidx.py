"""FASTA by position through its samtools index, plain or bgzip."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pysam
from numpy.typing import NDArray
from pysam.utils import SamtoolsError

from seqdomains.errors import InputError
from seqdomains.files import cache_folder
from seqdomains.genomics.alphabet import GapPolicy, encode, first_illegal, illegal_character, soft_mask
from seqdomains.genomics.contigs import unknown_contig
from seqdomains.genomics.fasta import check_index_age, compression, index_paths, stream_fasta

logger = logging.getLogger(__name__)


class FastaFile:
    r"""Random access to a plain or bgzip FASTA file.

    A missing index is built beside the file, or in the cache folder where the file's folder cannot be written. Each
    process and thread opens its own handle, so that an object may be used after a fork.

    Parameters
    ----------
    path : Path
        The file.
    policy : {"reject", "mask"}
        Whether `-`, `.` and `*` are an error or become the mask code.
    validated : bool
        Whether the file was just read to its end without an error, so that it isn't read once more before an index is
        built.

    Raises
    ------
    InputError
        The file is missing, empty, no FASTA, truncated or plain gzip, or its index is older than itself.

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "one.fa"
    >>> _ = path.write_text(">chr1\nACGT\nacgt\n")
    >>> fasta = FastaFile(path)
    >>> fasta.names, fasta.length("chr1"), fasta.codes("chr1", 2, 6).tolist()
    (('chr1',), 8, [2, 3, 0, 1])
    """

    def __init__(self, path: Path, *, policy: GapPolicy = "reject", validated: bool = False) -> None:
        self.path = path
        self.policy = policy
        if compression(path) == "gzip":
            raise InputError(
                f"{path} is plain gzip, which cannot be read by position: "
                f"recompress it with `gunzip -c {path.name} | bgzip > new.fa.gz`"
            )
        check_index_age(path)
        self._index, self._blocks = _find_or_build_index(path, policy=policy, validated=validated)
        self._handles: dict[tuple[int, int], Any] = {}
        handle = self._handle()
        _check_index_fits(path, self._index, compressed=self._blocks is not None)
        self.names: tuple[str, ...] = tuple(handle.references)
        self.lengths: tuple[int, ...] = tuple(handle.lengths)
        self._length_of = dict(zip(self.names, self.lengths, strict=True))

    def length(self, contig: str) -> int:
        """Return the length of a contig in bp.

        Raises
        ------
        InputError
            There is no such contig; the message lists the nearest names.
        """
        try:
            return self._length_of[contig]
        except KeyError:
            raise unknown_contig(contig, self.names, where=str(self.path)) from None

    def text(self, contig: str, start: int, end: int) -> bytes:
        """Return the letters from `start` to `end`, 0-based half-open, as they stand in the file.

        Raises
        ------
        InputError
            There is no such contig, the range is not within it, or the file cannot be read there.
        """
        length = self.length(contig)
        if not 0 <= start <= end <= length:
            raise InputError(f"{self.path}: {contig}:{start}-{end} is not within the contig's {length} bp")
        if start == end:
            return b""
        try:
            letters: str = self._handle().fetch(contig, start, end)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot read {contig}:{start}-{end} ({error}); is it truncated?") from error
        if len(letters) != end - start:
            raise InputError(
                f"{self.path}: {contig}:{start}-{end} gave {len(letters)} bases; the index does not fit the file: "
                f"run `samtools faidx {self.path}`"
            )
        return letters.encode("utf-8", errors="replace")

    def codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Return the codes from `start` to `end`, 0-based half-open.

        Raises
        ------
        InputError
            As `text`; or a character is no base, named by its 1-based position in the contig.
        """
        text = self.text(contig, start, end)
        at = first_illegal(text, self.policy)
        if at is not None:
            error = illegal_character(chr(text[at]), record=contig, position=start + at + 1)
            raise InputError(f"{self.path}: {error}")
        return encode(text, policy=self.policy)

    def soft_mask(self, contig: str, start: int, end: int) -> NDArray[np.bool_]:
        """Return which letters from `start` to `end` are lower case."""
        return soft_mask(self.text(contig, start, end))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def _handle(self) -> Any:
        key = (os.getpid(), threading.get_ident())
        if key not in self._handles:
            before = pysam.set_verbosity(0)
            try:
                self._handles[key] = pysam.FastaFile(
                    str(self.path),
                    filepath_index=str(self._index),
                    filepath_index_compressed=str(self._blocks) if self._blocks else None,
                )
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self.path} cannot be opened with its index {self._index} ({error}): delete the index (.fai, "
                    ".gzi), it is made again"
                ) from error
            finally:
                pysam.set_verbosity(before)
        return self._handles[key]


def _find_or_build_index(path: Path, *, policy: GapPolicy, validated: bool) -> tuple[Path, Path | None]:
    compressed = compression(path) == "bgzip"
    beside = index_paths(path)
    if all(index.exists() for index in beside[: 1 + compressed]):
        return beside[0], beside[1] if compressed else None
    cached = _cached_index_paths(path)
    if all(index.exists() for index in cached[: 1 + compressed]):
        return cached[0], cached[1] if compressed else None
    if not validated:
        for record in stream_fasta(path, policy=policy):  # names the record and line of what htslib would only call bad
            del record
    for places in (beside, cached):
        try:
            places[0].parent.mkdir(parents=True, exist_ok=True)
            _build_index(path, places, compressed=compressed)
        except OSError as error:
            logger.info("cannot write %s (%s)", places[0], error.strerror)
            continue
        if places is cached:
            logger.warning("%s cannot be written, so the index of %s is kept in %s", path.parent, path.name, cached[0])
        return places[0], places[1] if compressed else None
    raise InputError(f"no index of {path} can be written beside it or in {cached[0].parent}: make one writable")


def _check_index_fits(path: Path, index: Path, *, compressed: bool) -> None:
    """Refuse an index whose records do not begin and end where lines of the file do.

    An index that was copied or touched after the file was edited is newer and yet wrong; on one long line it would give
    shifted bases without any other sign. A bgzip file is not looked into: finding the bytes means decompressing it.
    """
    if compressed:
        return
    with index.open(encoding="utf-8", errors="replace") as rows, path.open("rb") as letters:
        if not all(_row_fits(row, letters) for row in rows):
            raise InputError(
                f"{index} does not fit {path.name}, which was changed after it was made: delete the index, it is made "
                "again"
            )


def _row_fits(row: str, letters: BinaryIO) -> bool:
    try:
        length, offset, bases, width = map(int, row.rstrip("\n").split("\t")[1:5])
        last = offset + (length - 1) // bases * width + (length - 1) % bases
        letters.seek(offset - 1)
        before = letters.read(1)
        letters.seek(last)
        base, after = letters.read(1), letters.read(1)
    except (ValueError, ZeroDivisionError, OverflowError, OSError):
        return False
    return before == b"\n" and bool(base.strip()) and after in (b"", b"\n", b"\r")


def _cached_index_paths(path: Path) -> tuple[Path, Path]:
    status = path.stat()
    identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    name = f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}-{path.name}"
    return index_paths(cache_folder() / "faidx" / name)


def _build_index(path: Path, places: Sequence[Path], *, compressed: bool) -> None:
    """Build under temporary names in the same folder, then rename: two processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=places[0].parent, prefix=".faidx-") as folder:
        fai, gzi = Path(folder) / "fai", Path(folder) / "gzi"
        before = pysam.set_verbosity(0)  # htslib would write its own words to stderr
        try:
            pysam.faidx("--fai-idx", str(fai), *(("--gzi-idx", str(gzi)) if compressed else ()), str(path))
        except SamtoolsError as error:
            raise InputError(
                f"{path} cannot be read by position: the lines of a record, but its last, must have one length, and "
                f"none may be blank; `seqkit seq -w 60 {path.name}` writes it so"
            ) from error
        finally:
            pysam.set_verbosity(before)
        if compressed:
            gzi.replace(places[1])
        fai.replace(places[0])
