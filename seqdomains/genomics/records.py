"""Records of any sequence file in order, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from seqdomains.genomics.alphabet import GapPolicy
from seqdomains.genomics.fasta import Record, stream_fasta
from seqdomains.genomics.genbank import stream_genbank

_GENBANK = re.compile(r"\.(gb|gbk|gbff|genbank)(\.gz)?$", re.IGNORECASE)
_FASTA = re.compile(r"\.(fa|fasta|fna|fas|ffn)(\.(gz|bgz))?$", re.IGNORECASE)


def is_genbank(path: Path | str) -> bool:
    """Tell a GenBank file by its suffix.

    Examples
    --------
    >>> is_genbank("NC_012920.gb"), is_genbank("refs.fasta")
    (True, False)
    """
    return bool(_GENBANK.search(str(path)))


def is_sequence_file(path: Path | str) -> bool:
    """Tell a FASTA or GenBank file by its suffix.

    Examples
    --------
    >>> [is_sequence_file(name) for name in ("hg38.fa.gz", "hg38.fa.fai", "markers.bed")]
    [True, False, False]
    """
    return bool(_GENBANK.search(str(path)) or _FASTA.search(str(path)))


def stream_records(source: Path | str, *, policy: GapPolicy = "reject") -> Iterator[Record]:
    r"""Read the records of a FASTA or GenBank file, or of FASTA on stdin (`-`), in order.

    Raises
    ------
    InputError
        As `stream_fasta` and `stream_genbank`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "one.fa"
    >>> _ = path.write_text(">a\nACGT\n")
    >>> [record.name for record in stream_records(path)]
    ['a']
    """
    return stream_genbank(source, policy=policy) if is_genbank(source) else stream_fasta(source, policy=policy)


def says_simulated(source: Path | str) -> bool:
    r"""Tell whether the first header of a file has the word SIMULATED, in either case, as the simulator writes it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "human.fa"
    >>> _ = path.write_text(">chr2 hsa=2 species=human simulated\nACGT\n")
    >>> says_simulated(path)
    True
    """
    return any("simulated" in record.description.lower().split() for record in islice(stream_records(source), 1))
