"""What providers of genomes keep beside them: listings, sums of files, contigs with their names and lengths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from seqdomains.errors import InputError

_SUM = re.compile(r"^([0-9a-fA-F]{32}|[0-9a-fA-F]{64})[ \t]+\*?(?:\./)?([^/\s]+)$")
_LINK = re.compile(r"""href\s*=\s*["']([^"'<>]+)["']""", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
# Columns of NCBI's assembly report: Sequence-Name, GenBank-Accn, RefSeq-Accn, UCSC-style-name; and Sequence-Length.
_NAME_COLUMNS = (0, 4, 6, 9)
_LENGTH_COLUMN = 8
_ABSENT = frozenset({"", "na"})


@dataclass(frozen=True)
class Contig:
    """All names of a contig, and its length in bp."""

    names: tuple[str, ...]
    length: int


def read_sums(text: str) -> dict[str, dict[str, str]]:
    r"""Read a file of sums as md5sum and sha256sum write them: by name of the file, then by algorithm.

    Examples
    --------
    >>> read_sums("d41d8cd98f00b204e9800998ecf8427e  ./a.fna.gz\n")
    {'a.fna.gz': {'md5': 'd41d8cd98f00b204e9800998ecf8427e'}}
    """
    sums: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if match := _SUM.match(line.strip()):
            sums.setdefault(match[2], {})["md5" if len(match[1]) == 32 else "sha256"] = match[1].lower()
    return sums


def folder_in_listing(html: str, prefix: str, *, url: str) -> str:
    """Return the one name in a folder's listing that begins with `prefix`.

    Raises
    ------
    InputError
        There is none, or more than one.

    Examples
    --------
    >>> folder_in_listing('<a href="../">..</a> <a href="GCF_1.2_NHGRI-v2.1/">x</a>', "GCF_1.2_", url="https://x/1/")
    'GCF_1.2_NHGRI-v2.1'
    """
    linked = {unquote(link).rstrip("/").rpartition("/")[2] for link in _LINK.findall(html)}
    found = sorted(name for name in linked if name.startswith(prefix) and _PLAIN_NAME.match(name))
    if len(found) != 1:
        listed = f"has {', '.join(found[:5])}" if found else "lists none"
        raise InputError(
            f"{url} {listed}, expected one folder that begins with {prefix}: name it in a registry of your own "
            "(--registry)"
        )
    return found[0]


def read_contigs(text: str, *, url: str) -> tuple[Contig, ...]:
    r"""Read NCBI's assembly report or UCSC's ``chrom.sizes``.

    Raises
    ------
    InputError
        It has no contig, or a length is no number.

    Examples
    --------
    >>> read_contigs("chr1\t248956422\n", url="hg38.chrom.sizes")
    (Contig(names=('chr1',), length=248956422),)
    """
    contigs = tuple(_contigs(text, url))
    if not contigs:
        raise InputError(f"{url} names no contig: expected an assembly report of NCBI, or `name<TAB>length`")
    return contigs


def _contigs(text: str, url: str) -> Iterator[Contig]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = [word.strip() for word in line.split("\t")]
        whole = len(words) > max(_NAME_COLUMNS)
        length = words[_LENGTH_COLUMN if whole else 1] if len(words) > 1 else ""
        if not re.fullmatch(r"\d{1,18}", length):
            raise InputError(f"{url}, line {number}: expected a contig and its length, found {line!r}")
        named = [words[column] for column in _NAME_COLUMNS] if whole else words[:1]
        yield Contig(tuple(dict.fromkeys(name for name in named if name not in _ABSENT)), int(length))


def as_aliases(contigs: tuple[Contig, ...]) -> str:
    r"""Write the names of contigs as UCSC's ``chromAlias.txt``, which `contigs.read_aliases` reads.

    Examples
    --------
    >>> as_aliases((Contig(("chr4_hap1_hsa5", "NC_072401.2"), 100), Contig(("x",), 1))).splitlines()
    ['# names of one contig on each line', 'chr4_hap1_hsa5\tNC_072401.2']
    """
    lines = ("\t".join(contig.names) for contig in contigs if len(contig.names) > 1)
    return "".join(f"{line}\n" for line in ("# names of one contig on each line", *lines))
