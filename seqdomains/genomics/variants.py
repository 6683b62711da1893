"""The alleles of a VCF as pairs of windows of the reference genome, record by record."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pysam
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError, reason
from seqdomains.genomics.alphabet import decode, encode, first_illegal, reverse_complement
from seqdomains.genomics.contigs import aliases_beside, read_aliases, resolve_contig
from seqdomains.genomics.faidx import FastaFile

logger = logging.getLogger(__name__)

OnMismatch = Literal["error", "skip", "swap"]
Strands = Literal["both", "forward"]
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]

# bp on either side that a window has at least, contig ends aside: 4^16 is more than the 3.1e9 bases of a human genome,
# so fewer would not even tell a place from others.
LEAST_FLANK: Final = 16
MISMATCHES_NAMED: Final = 5

# VCF 4.3, section 1.6.1: a reference base that is ambiguous stands in REF as the first of its bases, but N as itself.
_AS_REF: Final = encode("ACGTACCAGACAAAN-", policy="mask")
_BREAKEND = re.compile(r"[\[\]]|^\.|\.$")
_LAST_BASE: Final = 3  # A C G T are the codes 0 to 3


@dataclass(frozen=True)
class Variant:
    """One ALT allele of a VCF record, or a record that has none.

    Parameters
    ----------
    record : pysam.VariantRecord
    alt : int or None
        Place among the record's ALT alleles.
    pairs : tuple of (ndarray, ndarray)
        For each strand the windows with REF and with ALT as codes; empty where the allele is passed through.
    """

    record: Any
    alt: int | None
    pairs: tuple[Pair, ...] = ()


def trim(ref: NDArray[np.uint8], alt: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8], NDArray[np.uint8]]:
    """Take off what two alleles share at their end, then what they share at their beginning.

    Returns
    -------
    offset : int
        How many bases were taken off at the beginning.
    ref, alt : ndarray of uint8
        What is left; one of them may be empty.

    Examples
    --------
    >>> [(offset, len(ref), len(alt)) for offset, ref, alt in (trim(encode("GAC"), encode("GTC")),
    ...                                                        trim(encode("GAA"), encode("GA")))]
    [(1, 1, 1), (1, 1, 0)]
    """
    end = _shared(ref[::-1], alt[::-1])
    ref, alt = ref[: len(ref) - end], alt[: len(alt) - end]
    begin = _shared(ref, alt)
    return begin, ref[begin:], alt[begin:]


def _shared(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    most = min(len(one), len(other))
    differ = np.flatnonzero(one[:most] != other[:most])
    return int(differ[0]) if differ.size else most


class VariantReader:
    r"""Read a VCF or BCF file as pairs of windows.

    Alleles are trimmed (see `trim`), so that spare bases around them change nothing, but not left-aligned:
    ``bcftools norm`` does that. With n the length of the longer trimmed allele, the flank on either side has
    (window - n) // 2 bases of the reference, or as many as the contig has there. Both windows are left flank, allele
    and right flank: the same flanks, so that they differ in length as the alleles do, and the longer has `window` bp,
    or one less. Nothing stands for positions beyond the contig. A pair of the reverse strand is the reverse complement
    of that of the forward one.

    Alleles that are no sequence (``*``, symbolic, breakends), hold N or another ambiguity code where they differ, or
    are longer than window - 2 `LEAST_FLANK`, have no windows.

    Records may stand in any order. REF must be what the reference has there, in either case; an ambiguous base of the
    reference stands in REF as the VCF specification says, as the first of its bases.

    Parameters
    ----------
    path : Path
        VCF, plain or bgzip, or BCF.
    reference : FastaFile
        Its contigs may have other names of the same chromosomes; see `contigs.resolve_contig`.
    window : int
        In bp.
    strands : {"both", "forward"}
    on_mismatch : {"error", "skip", "swap"}
        What is done where REF is not what the reference has, or the reference has no such contig: an error, or the
        allele has no windows. With "swap" an ALT allele of REF's length that is what the reference has takes REF's
        place there; which window is called which stays as the VCF says. Alleles of other lengths are never swapped:
        the anchor that an indel's alleles share would match nearly everywhere.
    samples : bool
        Whether records keep their genotypes.

    Raises
    ------
    ConfigError
        The window holds no allele.
    InputError
        The file is missing, no VCF, truncated or plain gzip.

    Examples
    --------
    >>> import tempfile
    >>> from seqdomains.genomics.alphabet import decode
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "r.fa").write_text(">chr1\nAACCGGTTAC\n")
    >>> _ = (folder / "v.vcf").write_text("##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    ...                                   "1\t5\t.\tG\tT,GAA\t.\t.\t.\n")
    >>> reader = VariantReader(folder / "v.vcf", FastaFile(folder / "r.fa"), window=40, strands="forward")
    >>> for variant in reader.variants():
    ...     print(*map(decode, variant.pairs[0]))
    AACCGGTTAC AACCTGTTAC
    AACCGGTTAC AACCGAAGTTAC
    >>> dict(reader.tally)
    {'scored': 2}
    """

    def __init__(
        self,
        path: Path,
        reference: FastaFile,
        *,
        window: int,
        strands: Strands = "both",
        on_mismatch: OnMismatch = "error",
        samples: bool = True,
    ) -> None:
        if window <= 2 * LEAST_FLANK:
            raise ConfigError(f"--window {window}: expected at least {2 * LEAST_FLANK + 1} bp, flanks and an allele")
        self.path = path
        self.reference = reference
        self.records = 0
        self.skipped = 0
        self.tally: Counter[str] = Counter()
        self._window = window
        self._strands = strands
        self._on_mismatch = on_mismatch
        self._contigs: dict[str, str | InputError] = {}
        beside = aliases_beside(reference.path)
        self._aliases = read_aliases(beside) if beside else None
        with silent():
            self._file = _open(path, samples=samples)
        try:
            str(self._file.header)
        except ValueError as error:
            raise InputError(
                f"{path}: the header is not UTF-8, as VCF has to be; if it is Latin-1, `iconv -f LATIN1 -t UTF-8` "
                "converts it"
            ) from error

    @property
    def header(self) -> Any:
        """The pysam.VariantHeader; what is added to it before records are read, they may carry."""
        return self._file.header

    def variants(self) -> Iterator[Variant]:
        """Yield each ALT allele, and each record without one, in order; what became of them stands in `tally`.

        Raises
        ------
        InputError
            The VCF cannot be read to its end, an allele or the reference holds a character that is no base, or REF is
            not what the reference has.
        """
        for record in self._read():
            self.records += 1
            if not record.alts:
                self.tally["no ALT"] += 1
                yield Variant(record, None)
            for alt, letters in enumerate(record.alts or ()):
                found = self._windows(record, letters)
                if isinstance(found, str):
                    self.tally[found] += 1
                    yield Variant(record, alt)
                    continue
                self.tally["scored"] += 1
                first, second = found
                other = (reverse_complement(first), reverse_complement(second))
                yield Variant(record, alt, (found, other) if self._strands == "both" else (found,))

    def _read(self) -> Iterator[Any]:
        try:
            while True:
                try:
                    with silent():
                        record = next(self._file)
                        str(record)  # which decodes it; pysam would do so where it is used, and it may be no UTF-8
                except StopIteration:
                    return
                except (OSError, NotImplementedError, ValueError) as error:
                    raise InputError(
                        f"{self.path}: record {self.records + 1} cannot be read: the file is damaged or ends inside "
                        "it, its line is blank, has fewer than 8 columns divided by tabs, a POS that is no number, or "
                        "letters that are not UTF-8; correct it"
                    ) from error
                yield record
        finally:
            with suppress(OSError):  # pysam says again, where nobody can catch it, that a file is damaged
                self._file.close()

    def _windows(self, record: Any, letters: str) -> Pair | str:
        """Return an allele's windows on the forward strand, or why it has none."""
        if reason := _no_sequence(letters):
            return reason
        ref, alt = self._codes(record, "REF", record.ref), self._codes(record, "ALT", letters)
        offset, own, other = trim(ref, alt)
        if max(own.max(initial=0), other.max(initial=0)) > _LAST_BASE:
            return "N or another ambiguity code in the allele"
        longest = max(len(own), len(other))
        if longest > self._window - 2 * LEAST_FLANK:
            return f"over {self._window - 2 * LEAST_FLANK} bp"
        contig, start, end = self._contig(record.chrom), record.start, record.start + len(ref)
        if isinstance(contig, InputError):
            return self._mismatch(record, str(contig), "contig not in the reference")
        length = self.reference.length(contig)
        if not 0 <= start < end <= length:
            problem = f"REF of {len(ref)} bp is not within the {length} bp of {contig!r} in {self.reference.path}"
            return self._mismatch(record, problem, "position not in the reference")
        first, last = max(0, start - self._window // 2), min(length, end + self._window // 2)
        codes = self.reference.codes(contig, first, last)
        there = codes[start - first : end - first]
        if not _is(ref, there):
            if self._on_mismatch != "swap" or not _is(alt, there):
                problem = f"REF {record.ref!r}: {self.reference.path} has {decode(there)!r} there"
                return self._mismatch(record, problem, "REF mismatch")
            self.tally["swapped"] += 1
        flank, begin = (self._window - longest) // 2, start - first + offset
        left = codes[max(0, begin - flank) : begin]
        right = codes[begin + len(own) :][:flank]
        return np.concatenate([left, own, right]), np.concatenate([left, other, right])

    def _contig(self, name: str) -> str | InputError:
        """Return the reference's own name of a contig, or why it has none; looked for once."""
        if name not in self._contigs:
            try:
                found: str | InputError = resolve_contig(
                    name, self.reference.names, where=str(self.reference.path), aliases=self._aliases
                )
            except InputError as error:
                found = error
            self._contigs[name] = found
        return self._contigs[name]

    def _mismatch(self, record: Any, problem: str, reason: str) -> str:
        message = f"{self._place(record)}: {problem}"
        if self._on_mismatch == "error":
            raise InputError(
                f"{message}; expected the genome that the VCF was made with: give its FASTA, or --on-mismatch skip or "
                "swap"
            )
        self.skipped += 1
        if self.skipped <= MISMATCHES_NAMED:
            logger.warning("skipped: %s", message)
        return reason

    def _codes(self, record: Any, column: str, letters: str) -> NDArray[np.uint8]:
        at = first_illegal(letters.encode())
        if at is not None:
            raise InputError(
                f"{self._place(record)}: {letters.encode()[at : at + 1].decode('latin-1')!r} in {column} is not an "
                "IUPAC nucleotide code (ACGTU RYSWKM BDHV N); correct the file"
            )
        return encode(letters)

    def _place(self, record: Any) -> str:
        return f"{self.path}: record {self.records} ({record.chrom}:{record.pos})"


def _no_sequence(letters: str) -> str:
    """Return what an ALT is that is no sequence, or nothing."""
    if letters == "*":
        return "* (deleted by another variant)"
    if letters.startswith("<"):
        return "symbolic"
    if letters == ".":
        return "no ALT"
    return "breakend" if _BREAKEND.search(letters) else ""


def _is(allele: NDArray[np.uint8], there: NDArray[np.uint8]) -> bool:
    """Tell whether an allele is how a VCF writes what the reference has."""
    return len(allele) == len(there) and bool(((allele == there) | (allele == _AS_REF[there])).all())


@contextmanager
def silent() -> Iterator[None]:
    """Keep htslib's own words off stderr; what matters of them is said in errors."""
    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)


def _open(path: Path, *, samples: bool) -> Any:
    try:
        return pysam.VariantFile(str(path), drop_samples=not samples)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give the path of a VCF file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: give the path of a VCF file") from error
    except NotImplementedError as error:
        raise InputError(
            f"{path} is plain gzip, which is not read here: recompress it with `gunzip -c {path.name} | bgzip > "
            "new.vcf.gz`"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not VCF or BCF: expected a header from `##fileformat=VCF` to a line of column names"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): copy or compress it again") from error
