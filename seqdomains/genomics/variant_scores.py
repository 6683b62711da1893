"""Scores of variants as VCF, whose records they become part of, or as TSV."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np
import pysam
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import atomic_file, output_file
from seqdomains.genomics.fasta import STDIN
from seqdomains.genomics.variants import Variant, silent

logger = logging.getLogger(__name__)

VCF_SUFFIXES: Final = (".vcf", ".vcf.gz")
TSV_COLUMNS: Final = ("chrom", "pos", "id", "ref", "alt", "score", "forward", "reverse")
# INFO keys: the mean over the strands, and each strand.
INFO: Final = {
    "SDLLR": "Natural log-likelihood ratio of the windows with ALT and with REF, mean over the strands read",
    "SDLLRF": "The same, forward strand",
    "SDLLRR": "The same, reverse strand",
}
_TBI_END: Final = 1 << 29  # bp of a contig that a .tbi index reaches: SAM tools, tabix specification


class ScoreTable(Protocol):
    """Takes the scores of one file in its order; see `seqdomains.pipelines.tables.Table`."""

    def begin_input(self) -> None:
        """Do nothing: there is one input."""

    def write(self, variants: Sequence[Variant], values: NDArray[np.float64]) -> None:
        """Append alleles; `values` has a row for each and a column for each strand, NaN where it has no score."""

    def drop_input(self) -> bool:
        """Say that nothing can be taken back."""


def is_vcf(output: str) -> bool:
    """Tell by its name whether an output is to be VCF or TSV, as stdout, pipes and devices are; refuse other names.

    Raises
    ------
    ConfigError
        The suffix is another one.

    Examples
    --------
    >>> is_vcf("out.vcf.gz"), is_vcf("out.tsv"), is_vcf("-")
    (True, False, False)
    """
    path = Path(output)
    if output == STDIN or output.endswith(".tsv") or (path.exists() and not path.is_file()):
        return False
    if output.endswith(VCF_SUFFIXES):
        return True
    raise ConfigError(f"-o {output}: expected a name that ends in .vcf, .vcf.gz or .tsv, or - for TSV on stdout")


@contextmanager
def open_scores(output: str, header: Any, *, strands: int, provenance: str) -> Iterator[ScoreTable]:
    r"""Open a table of scores; a file stands under its name once all is written, and not at all on failure.

    VCF has every record as it was read, with the INFO keys `INFO`, one value for each ALT allele, in its own order.
    ``.vcf.gz`` is bgzip and gets a ``.tbi`` index beside it if its records are sorted. TSV has a row for each ALT
    allele, NA for what is not there.

    Parameters
    ----------
    output : str
        See `is_vcf`.
    header : pysam.VariantHeader
        Of the file that is scored; keys are added to it, so no record may have been read.
    strands : {1, 2}
    provenance : str
        What a line ``##seqdomains=`` in the header says.

    Raises
    ------
    InputError
        The header has one of the keys with another meaning, or the file cannot be written.

    Examples
    --------
    >>> header = pysam.VariantHeader()
    >>> header.add_line("##contig=<ID=chr1>")
    >>> record = header.new_record(contig="chr1", start=4, alleles=("A", "C"), id="rs1")
    >>> with open_scores("-", header, strands=2, provenance="") as table:  # doctest: +NORMALIZE_WHITESPACE
    ...     table.write([Variant(record, 0)], np.array([[0.5, 1.0]]))
    #chrom	pos	id	ref	alt	score	forward	reverse
    chr1	5	rs1	A	C	0.75	0.5	1
    """
    path = Path(output)
    try:
        if output == STDIN:
            yield _Tsv(sys.stdout)
        elif path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as pipe:
                yield _Tsv(pipe)
        elif not is_vcf(output):
            with output_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as handle:
                yield _Tsv(handle)
        else:
            _add_keys(header, tuple(INFO)[: strands + 1], provenance)
            compressed = output.endswith(".gz")
            with output_file(path) as partial, _opened(partial, compressed=compressed) as binary:
                table = _Vcf(binary, header)
                yield table
            if compressed:
                _index(path, table.no_index)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write {'stdout' if output == STDIN else path}: {_reason(error)}") from error


@contextmanager
def _opened(path: Path, *, compressed: bool) -> Iterator[Any]:
    if not compressed:
        with path.open("wb") as handle:
            yield handle
        return
    with silent(), pysam.BGZFile(str(path), "wb", None) as handle:
        yield handle


def _reason(error: OSError) -> str:
    """Return why something cannot be written; htslib keeps to itself what the system said."""
    return error.strerror or "the file system refused it; is it full?"


class _Tsv:
    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        handle.write("#" + "\t".join(TSV_COLUMNS) + "\n")

    def begin_input(self) -> None: ...

    def drop_input(self) -> bool:
        return False

    def write(self, variants: Sequence[Variant], values: NDArray[np.float64]) -> None:
        for variant, row in zip(variants, values, strict=True):
            if variant.alt is None:
                continue
            record = variant.record
            words = [record.chrom, record.pos, record.id or ".", record.ref, record.alts[variant.alt]]
            scores = ["NA" if np.isnan(one) else f"{one:.6g}" for one in (row.mean(), *row)]
            self._handle.write("\t".join(map(str, words + scores + ["NA"] * (3 - len(scores)))) + "\n")
        self._handle.flush()


class _Vcf:
    """Writes records as text: pysam's own writer refuses contigs and keys that the header does not name."""

    def __init__(self, handle: Any, header: Any) -> None:
        self._handle = handle
        self._rows: list[NDArray[np.float64]] = []  # of the record whose last ALT is still to come
        self._last: tuple[str, int] = ("", 0)
        self._seen: set[str] = set()
        self.no_index = ""
        handle.write(str(header).encode())

    def begin_input(self) -> None: ...

    def drop_input(self) -> bool:
        return False

    def write(self, variants: Sequence[Variant], values: NDArray[np.float64]) -> None:
        for variant, row in zip(variants, values, strict=True):
            record = variant.record
            if variant.alt is not None:
                self._rows.append(row)
                if len(self._rows) < len(record.alts):
                    continue
                strands = np.stack(self._rows)
                self._rows = []
                for key, column in zip(INFO, (strands.mean(axis=1), *strands.T), strict=False):
                    record.info[key] = tuple(None if np.isnan(one) else float(one) for one in column)
            self._check_order(record)
            self._handle.write(str(record).encode())

    def _check_order(self, record: Any) -> None:
        contig, start = self._last
        if record.chrom != contig:
            if record.chrom in self._seen:
                self.no_index = f"{record.chrom} comes back behind {contig}; `bcftools sort` puts it in order"
            self._seen.add(record.chrom)
        elif record.start < start:
            self.no_index = f"{contig}:{record.pos} comes behind {contig}:{start + 1}; `bcftools sort` puts it in order"
        if record.start + record.rlen > _TBI_END:
            self.no_index = f"{record.chrom}:{record.pos} is farther than .tbi reaches; `bcftools index` makes .csi"
        self._last = record.chrom, record.start


def _add_keys(header: Any, keys: Sequence[str], provenance: str) -> None:
    for key in keys:
        if key not in header.info:
            header.add_line(f'##INFO=<ID={key},Number=A,Type=Float,Description="{INFO[key]}">')
        elif (header.info[key].number, header.info[key].type) != ("A", "Float"):
            raise InputError(
                f"the VCF has an INFO key {key} of its own, with Number={header.info[key].number}, expected none or "
                "Number=A,Type=Float: rename it with `bcftools annotate`"
            )
    header.add_line(f"##seqdomains={provenance}")


def _index(path: Path, refusal: str) -> None:
    place = path.with_name(f"{path.name}.tbi")
    place.unlink(missing_ok=True)  # of what the file was before
    if refusal:
        logger.warning("%s gets no index: %s", path, refusal)
        return
    try:
        with silent(), atomic_file(place) as partial:  # htslib would warn of position 0, which VCF allows
            pysam.tabix_index(str(path), preset="vcf", index=str(partial), keep_original=True, force=True)
    except OSError as error:
        raise InputError(f"{path} is written, but its index {place.name} cannot be: {_reason(error)}") from error
