"""VCF and BCF beside a reference genome, read and written again with scores."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pysam
from hypothesis import strategies as st
from mutations import Draw, bgzip, mutated, packed
from target import Target

from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.variant_scores import open_scores
from seqdomains.genomics.variants import VariantReader

BASES = b"ACGTTGCAAGCTNRYACGGATTACAGATTACA" * 4
REFERENCE = b">chr1\n" + BASES + b"\n>chr2\nACGTACGTAC\n"
HEADER = (
    b"##fileformat=VCFv4.3\n##contig=<ID=chr1,length=128>\n##contig=<ID=chr2,length=10>\n"
    b'##INFO=<ID=AF,Number=A,Type=Float,Description="x">\n##FORMAT=<ID=GT,Number=1,Type=String,Description="x">\n'
    b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tone\n"
)
RECORDS = (
    b"chr1\t1\trs1\tA\tC,G\t9\tPASS\tAF=0.1,0.2\tGT\t0/1\n"
    b"chr1\t5\t.\tTG\tT\t.\t.\t.\tGT\t./.\n"
    b"1\t9\t.\tA\tAGG,*,<DEL>\t.\t.\t.\tGT\t1|2\n"
    b"chr1\t13\t.\tN\tA\t.\tPASS\t.\tGT\t0\n"
    b"chr2\t3\t.\tG\tG]chr1:5]\t.\t.\t.\tGT\t0/0\n"
    b"chr2\t10\t.\tC\t.\t.\t.\t.\tGT\t0/0\n"
)
VCF = HEADER + RECORDS
ODD_ALLELES = (
    b"",
    b".",
    b"*",
    b"<",
    b"<DEL>",
    b"]chr1:5]A",
    b"A.",
    b".A",
    b"a",
    b"U",
    b"RYK",
    b"-",
    b"A,A",
    b"AC" * 999,
)
ODD_POSITIONS = (b"0", b"-1", b"1", b"128", b"129", b"2147483647", b"2147483648", b"9223372036854775807", b"x", b"")


def _bcf(vcf: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "x.vcf", Path(folder) / "x.bcf"
        source.write_bytes(vcf)
        with pysam.VariantFile(str(source)) as read, pysam.VariantFile(str(target), "wb", header=read.header) as out:
            for record in read:
                out.write(record)
        return target.read_bytes()


# BCF knows the contigs of its header alone.
BCF = _bcf(VCF.replace(b"\n1\t9", b"\nchr1\t9"))


@st.composite
def _records(draw: Draw) -> bytes:
    out = b""
    for _ in range(draw(st.integers(0, 6))):
        contig = draw(st.sampled_from((b"chr1", b"1", b"chr2", b"chr3", b"MT", b"\xff", b"")))
        position = draw(st.sampled_from(ODD_POSITIONS) | st.integers(1, 140).map(lambda number: b"%d" % number))
        letters = st.text("ACGTNacgtnRY", min_size=1, max_size=40).map(str.encode)
        ref, alt = (draw(letters | st.sampled_from(ODD_ALLELES)) for _ in range(2))
        columns = [contig, position, b".", ref, alt, b".", b".", draw(st.sampled_from((b".", b"AF=0.1", b"ZZ=1;;=")))]
        out += b"\t".join([*columns, b"GT", b"0/1"][: draw(st.sampled_from((10, 10, 10, 8, 5)))]) + b"\n"
    return out


@st.composite
def _vcf(draw: Draw) -> dict[str, bytes]:
    if draw(st.integers(0, 3)) == 0:
        return {"x.vcf": draw(mutated(BCF, most=2, grow=False))}
    return {"x.vcf": draw(packed(draw(mutated(draw(st.just(VCF) | _records().map(HEADER.__add__)), most=3))))}


def _read(folder: Path) -> None:
    reference = FastaFile(folder / "x.fa", validated=True)
    for window, policy, samples, output in (
        (64, "swap", True, "x.out.vcf"),
        (33, "skip", False, "x.out.tsv"),
        (64, "error", False, "x.out.vcf.gz"),
    ):
        reader = VariantReader(folder / "x.vcf", reference, window=window, on_mismatch=policy, samples=samples)
        with open_scores(str(folder / output), reader.header, strands=2, provenance="fuzz") as table:
            for variant in reader.variants():
                for pair in variant.pairs:
                    assert 0 < max(map(len, pair)) <= window
                table.write([variant], np.zeros((1, 2)))
        assert reader.records <= sum(reader.tally.values())


TARGETS = (
    Target(
        "variants",
        _vcf(),
        _read,
        where=r"IN/x",
        valid={"x.fa": REFERENCE, "x.vcf": VCF},
        worst=(
            {"x.vcf": HEADER + b"chr1\t1\t.\tA\t" + b",".join([b"C"] * 100_000) + b"\t.\t.\t.\tGT\t0/1\n"},
            {"x.vcf": HEADER + b"chr1\t1\t.\tA\t" + b"C" * (3 << 20) + b"\t.\t.\t.\tGT\t0/1\n"},
            {"x.vcf": HEADER + b"chr1\t1\t.\t" + b"A" * (3 << 20) + b"\tC\t.\t.\t.\tGT\t0/1\n"},
            {"x.vcf": HEADER + RECORDS.splitlines(keepends=True)[0] * 5_000},
            {"x.vcf": HEADER.replace(b"\tone", b"".join(b"\t%d" % number for number in range(200_000)))},
            {"x.vcf": b"##fileformat=VCFv4.3\n" + b"##contig=<ID=a,length=1>\n" * 100_000 + HEADER[21:] + RECORDS},
            {"x.vcf": b"##fileformat=VCFv4.3\n##x=" + b"<" * (3 << 20) + b"\n" + HEADER[21:] + RECORDS},
            {"x.vcf": HEADER + b"chr1\t1\t.\tA\tC\t.\t.\t" + b"AF=1;" * 500_000 + b"\tGT\t0/1\n"},
            {"x.vcf": bgzip(VCF)[:-28]},
            {"x.vcf": BCF[: len(BCF) // 2]},
        ),
        base={"x.fa": REFERENCE},
    ),
)
