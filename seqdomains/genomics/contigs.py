"""Contig names: the same chromosome under its many names, and the human chromosome it is homologous to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from seqdomains.errors import InputError, reason
from seqdomains.genomics.labels import header_value
from seqdomains.genomics.species import Species

# RefSeq and GenBank numbers of the human chromosomes, 1 to 22, X, Y: GRCh38 (NC_000001.11, CM000663.2 and following)
# and T2T-CHM13v2.0 (NC_060925.1, CP068277.2 downwards; its Y is NC_060948.1, CP086569.2).
_HUMAN_NAMES = (*(str(number) for number in range(1, 23)), "X", "Y")
_HUMAN_ACCESSIONS: Mapping[str, str] = {
    **{f"NC_{number:06d}": name for number, name in enumerate(_HUMAN_NAMES, start=1)},
    **{f"CM{number:06d}": name for number, name in enumerate(_HUMAN_NAMES, start=663)},
    **{f"NC_{number:06d}": name for number, name in enumerate(_HUMAN_NAMES, start=60925)},
    **{f"CP{68278 - number:06d}": name for number, name in enumerate(_HUMAN_NAMES[:23], start=1)},
    "CP086569": "Y",
}
_MITOCHONDRIA = frozenset(
    {"M", "MT", "NC_012920", "J01415", "NC_001643", "NC_001644", "NC_001645", "NC_011120", "NC_002083", "NC_001646"}
)
_HSA_SUFFIX = re.compile(r"^chr(?:\d+|X|Y)_(?:[a-z0-9]+_)?hsa(\d+(?:x\d+)?[ab]?|X|Y)$", re.IGNORECASE)
_CHROMOSOME = re.compile(r"^(?:chr(?:omosome)?_?)?0*(\d{1,2}[AB]?|[XY])$", re.IGNORECASE)
_CHROMOSOMES = frozenset({*_HUMAN_NAMES, "2A", "2B"})


# In a gorilla parts of human 5 and 17 have changed places, so that a chromosome named after one of them holds both.
_OF_GORILLA = {"5": "5x17", "17": "17x5"}

_MOST_ALIASES = 100  # UCSC has 5 or 6; every name keeps all others


def unknown_contig(name: str, available: Sequence[str], *, where: str | None) -> InputError:
    """Build the error for a contig that is not there, in one file or (None) in any; it lists the 3 nearest names.

    Examples
    --------
    >>> print(unknown_contig("chr5a", ["chr1", "chr5", "chr6"], where="hg38.fa"))
    hg38.fa has no contig 'chr5a'; the nearest names are 'chr5', 'chr6', 'chr1'
    """
    nearest = difflib.get_close_matches(name, list(available), n=3, cutoff=0.0)
    listed = f"the nearest names are {', '.join(map(repr, nearest))}" if nearest else "it has no contigs at all"
    return InputError(f"{f'{where} has no' if where else 'no file has a'} contig {name!r}; {listed}")


def canonical(name: str) -> str | None:
    """Return the chromosome that a name stands for, such as "5", "2A", "X" or "M", or None where it tells none.

    Examples
    --------
    >>> [canonical(name) for name in ("chr5", "05", "chr2a", "chrM", "MT", "NC_000005.10", "CP068273.2", "scaffold_5")]
    ['5', '5', '2A', 'M', 'M', '5', '5', None]
    """
    accession = name.split(".")[0]
    if accession.upper() in _MITOCHONDRIA or name.lower() in ("chrm", "chrmt"):
        return "M"
    if accession in _HUMAN_ACCESSIONS:
        return _HUMAN_ACCESSIONS[accession]
    match = _CHROMOSOME.match(name)
    found = match.group(1).upper() if match else ""
    return found if found in _CHROMOSOMES else None


def homologue(name: str, *, description: str = "", species: Species | None = None, length: int = 0) -> str | None:
    """Return the human chromosome that a contig is homologous to, or None where that is not known.

    In this order: ``hsa=`` in the header, the ``_hsa`` suffix of a T2T name, the length of a chromosome of the species'
    T2T assembly, then the plain chromosome name, which follows human numbering in the UCSC and Ensembl assemblies of
    apes (the gorilla's 5 and 17 are of its translocation). Length comes before the plain name because T2T apes are
    numbered by their own size: chimpanzee chr4 is hsa5.

    Parameters
    ----------
    name, description : str
        The header.
    species : Species or None
        Whose assembly it is, where known.
    length : int
        Length of the contig in bp.

    Returns
    -------
    str or None
        "1" to "22", "2A", "2B", "X", "Y", "M"; "17x5" and "5x17" for the gorilla translocation.

    Examples
    --------
    >>> homologue("chr4_hap1_hsa5"), homologue("chr12_pat_hsa2a"), homologue("chr4_pat_hsa17x5"), homologue("chr7")
    ('5', '2A', '17x5', '7')
    >>> from seqdomains.genomics.species import find_species
    >>> homologue("chr4", species=find_species("chimpanzee"), length=178_964_043)
    '5'
    >>> homologue("chr18_hap1_hsa16_random_utig4-1074") is None
    True
    """
    if declared := header_value(description, "hsa"):
        return _spell(declared)
    if match := _HSA_SUFFIX.match(name):
        return _spell(match.group(1))
    if species is not None and length in species.homologue_of_length:
        return species.homologue_of_length[length]
    plain = canonical(name)
    return _OF_GORILLA.get(plain, plain) if plain and species is not None and species.name == "gorilla" else plain


def _spell(hsa: str) -> str:
    return hsa.lower() if "x" in hsa.lower() and len(hsa) > 1 else hsa.upper()


def read_aliases(path: Path) -> dict[str, frozenset[str]]:
    r"""Read UCSC's ``chromAlias.txt``: tab-separated columns that name one contig each, header lines with `#`.

    Returns
    -------
    dict of str to frozenset of str
        For each name, all names of the same contig.

    Raises
    ------
    InputError
        The file cannot be read or a line has no second column.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "chromAlias.txt"
    >>> _ = path.write_text("# refseq\tucsc\nNC_072401.2\tchr4_hap1_hsa5\n")
    >>> sorted(read_aliases(path)["NC_072401.2"])
    ['NC_072401.2', 'chr4_hap1_hsa5']
    """
    aliases: dict[str, set[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table of contig aliases: {reason(error)}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        names = frozenset(word.strip() for word in line.split("\t") if word.strip())
        if len(names) < 2 and "\t" not in line:
            raise InputError(f"{path}, line {number}: expected tab-separated names of one contig, found {line!r}")
        if len(names) > _MOST_ALIASES:
            raise InputError(
                f"{path}, line {number}: {len(names)} names of one contig, expected at most {_MOST_ALIASES}"
            )
        for name in names:
            aliases.setdefault(name, set()).update(names)
    return {name: frozenset(others) for name, others in aliases.items()}


def aliases_beside(path: Path) -> Path | None:
    """Return the alias table beside a FASTA file, if there is one: ``NAME.chromAlias.txt`` for ``NAME.fa.gz``."""
    stem = re.sub(r"(\.(fa|fasta|fna|fas))?(\.(gz|bgz))?$", "", path.name, flags=re.IGNORECASE)
    candidates = (path.with_name(f"{stem}.chromAlias.txt"), path.with_name(f"{path.name}.chromAlias.txt"))
    return next((candidate for candidate in candidates if candidate.exists()), None)


def resolve_contig(
    name: str,
    available: Iterable[str],
    *,
    where: str,
    aliases: Mapping[str, frozenset[str]] | None = None,
) -> str:
    """Find the contig that a user's name means: itself, an alias, or another spelling of the same chromosome.

    Raises
    ------
    InputError
        No contig or more than one answers to the name.

    Examples
    --------
    >>> resolve_contig("1", ["chr1", "chrM"], where="hg38.fa"), resolve_contig("MT", ["chr1", "chrM"], where="hg38.fa")
    ('chr1', 'chrM')
    """
    names = list(available)
    if name in names:
        return name
    known = (aliases or {}).get(name, frozenset())
    found = [candidate for candidate in names if candidate in known]
    if not found and (chromosome := canonical(name)) is not None:
        found = [candidate for candidate in names if canonical(candidate) == chromosome]
    if len(found) > 1:
        raise InputError(f"{where}: {name!r} could be any of {', '.join(map(repr, found[:3]))}: write one of them")
    if not found:
        raise unknown_contig(name, names, where=where)
    return found[0]
