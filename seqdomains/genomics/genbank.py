"""GenBank flat files, read through Biopython into the same records as FASTA."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import GapPolicy, first_illegal, illegal_character
from seqdomains.genomics.fasta import Record, open_text, source_name

_LONGEST_LINE = 1 << 16  # the format has 80
# What Biopython's parser raises on lines that it did not expect, and gzip on damage.
_DAMAGE = (ValueError, AssertionError, LookupError, TypeError, AttributeError, EOFError, OSError, zlib.error)


def stream_genbank(source: Path | str, *, policy: GapPolicy = "reject") -> Iterator[Record]:
    r"""Read the records of a GenBank file in order.

    The name is the accession with its version; the description is the definition line with ``[organism=...]`` behind
    it, so that ``header:organism`` is a label source.

    Parameters
    ----------
    source : Path or str
        A plain or gzip file; `-` is stdin.
    policy : {"reject", "mask"}
        Whether gap characters are an error or become the mask code.

    Raises
    ------
    InputError
        Missing or damaged file, no record, a record without sequence, duplicate accession, illegal character.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "one.gb"
    >>> _ = path.write_text(
    ...     "LOCUS       AB000001                  12 bp    DNA     linear   PRI 01-JAN-2000\n"
    ...     "ACCESSION   AB000001\nVERSION     AB000001.1\nORIGIN\n        1 acgtacgtac gt\n//\n"
    ... )
    >>> [(record.name, record.codes().size) for record in stream_genbank(path)]
    [('AB000001.1', 12)]
    """
    name = source_name(source)
    seen: set[str] = set()
    with open_text(source) as handle:
        for entry in _entries(TextIOWrapper(handle, encoding="utf-8", errors="replace"), name):
            yield _record(entry, name, seen, policy)
    if not seen:
        raise InputError(f"{name} holds no GenBank record: expected lines from LOCUS to //")


class _Lines:
    """Lines of text, none of them endless: 0.8 MB of gzip were one line of 0.8 GB."""

    def __init__(self, handle: TextIOWrapper, source: str) -> None:
        self._handle = handle
        self._source = source

    def readline(self) -> str:
        line = self._handle.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise InputError(f"{self._source}: a line of over {_LONGEST_LINE} characters; this is not GenBank")
        return line

    def __iter__(self) -> Iterator[str]:
        return iter(self.readline, "")


def _entries(handle: TextIOWrapper, source: str) -> Iterator[Any]:
    """Parse entry by entry; Biopython only warns of a sequence that is cut or shorter than its LOCUS line says."""
    from Bio import BiopythonParserWarning
    from Bio.GenBank.Scanner import GenBankScanner

    # Without the features, which nobody reads here.
    scanner: Any = GenBankScanner
    entries = scanner().parse_records(_Lines(handle, source), do_features=False)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BiopythonParserWarning)
            for message in ("Premature end", "Expected sequence length"):
                warnings.filterwarnings("error", message=message, category=BiopythonParserWarning)
            try:
                if (entry := next(entries, None)) is None:
                    return
            except (*_DAMAGE, BiopythonParserWarning) as error:
                raise InputError(f"{source} is not a whole GenBank file: {error}") from error
        yield entry


def _record(entry: Any, source: str, seen: set[str], policy: GapPolicy) -> Record:
    from Bio.Seq import UndefinedSequenceError

    accession: str = entry.id
    if accession in seen:
        raise InputError(f"{source}: duplicate accession {accession!r}; names must be unique: remove one")
    seen.add(accession)
    try:
        text = bytes(entry.seq)
    except UndefinedSequenceError:
        text = b""
    if not text:
        raise InputError(f"{source}: record {accession!r} has no sequence (ORIGIN); download it with its sequence")
    at = first_illegal(text, policy)
    if at is not None:
        raise InputError(f"{source}: {illegal_character(chr(text[at]), record=accession, position=at + 1)}")
    organism = entry.annotations.get("organism", "")
    description = f"{entry.description} [organism={organism}]" if organism else entry.description
    return Record(accession, description, 0, iter([text]), policy)
