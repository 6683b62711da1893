"""FASTA, its index, GenBank, BED, tables of labels, of labelled sequences and of aliases."""

from __future__ import annotations

import gzip
from pathlib import Path

from hypothesis import strategies as st
from mutations import Draw, bgzip, mutated, packed
from target import Target

from seqdomains.genomics.contigs import read_aliases
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import stream_fasta
from seqdomains.genomics.genbank import stream_genbank
from seqdomains.genomics.labels import header_value, read_labels
from seqdomains.genomics.tables import read_table
from seqdomains.genomics.windows import read_bed

FASTA = b'>chr1 species=human [organism=Pan paniscus] x\nACGTNRYacgtu\nACGTNRYacgtu\nAC\n>chr2 note="a b"\nTTTT\n'
INDEX = b"chr1\t26\t46\t12\t13\nchr2\t4\t92\t4\t5\n"
GENBANK = (
    b"LOCUS       AB000001                  12 bp    DNA     linear   PRI 01-JAN-2000\n"
    b"DEFINITION  Pan paniscus mitochondrion.\nACCESSION   AB000001\nVERSION     AB000001.1\n"
    b"SOURCE      mitochondrion Pan paniscus\n  ORGANISM  Pan paniscus\n            Eukaryota; Metazoa.\n"
    b"FEATURES             Location/Qualifiers\n     gene            complement(join(1..4,6..12))\n"
    b'                     /gene="ND1"\nORIGIN\n        1 acgtacgtac gt\n//\n'
)
BED = b'#contigs\ntrack name="x"\nchr1\t0\t10\tfirst\nchr2 5 9\nbrowser position chr1\nchr1\t100\t248956422\tx\t0\t+\n'
TABLE = b'id,sequence,label,split\nr1,ACGTNacgtu,human,train\n\nr2,"TTTT","gor, illa",test\n'
LABELS = b"record\tlabel\nchr1\thuman\n\n# later\nchr2\tgorilla\tmore\n"
ALIASES = b"# refseq\tucsc\nNC_072401.2\tchr4_hap1_hsa5\t4\nNC_072402.2\tchr5\n"

# A path that a message must name, or the record and line that it stands for.
_WHERE = r"IN/x"


@st.composite
def _sequences(draw: Draw) -> bytes:
    words = st.text(st.characters(exclude_characters="\n"), max_size=8).map(
        lambda text: text.encode(errors="surrogatepass")
    )
    letters = st.text("ACGTNacgtnRYKMSWBDHVU", min_size=1, max_size=200).map(str.encode)
    out = b""
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from((b"chr1", b"chr2", b"a", b"\xff")) | words)
        width, sequence = draw(st.integers(1, 80)), draw(letters)
        lines = [sequence[at : at + width] for at in range(0, len(sequence), width)]
        out += b">" + name + b" " + draw(words) + b"\n" + b"\n".join(lines) + b"\n"
    return out


@st.composite
def _fasta(draw: Draw) -> dict[str, bytes]:
    return {"x.fa": draw(packed(draw(mutated(draw(st.just(FASTA) | _sequences())))))}


def _read_fasta(folder: Path) -> None:
    for policy in ("reject", "mask"):
        for record in stream_fasta(folder / "x.fa", policy=policy):
            header_value(record.description, "species")
            for codes in record.code_pieces():
                assert codes.max() < 16


@st.composite
def _indexed(draw: Draw) -> dict[str, bytes]:
    content = draw(st.just(FASTA) | _sequences())
    fai = draw(st.none() | mutated(INDEX, most=3))
    gzi = draw(st.none() | mutated(bytes(8)) | mutated((1).to_bytes(8, "little") + bytes([60, *[0] * 15])))
    if fai is None or draw(st.booleans()):
        content = draw(mutated(content, most=2))
    files = {"x.fa": draw(packed(content)), "x.fa.fai": fai, "x.fa.gzi": gzi}
    return {name: data for name, data in files.items() if data is not None}


def _read_indexed(folder: Path) -> None:
    fasta = FastaFile(folder / "x.fa")
    for name, length in list(zip(fasta.names, fasta.lengths, strict=True))[:50]:
        for start, end in ((0, min(length, 1000)), (length // 2, length // 2 + 1), (0, length)):
            if end <= length:
                assert fasta.codes(name, start, end).size == end - start


def _consume_genbank(folder: Path) -> None:
    for record in stream_genbank(folder / "x.gb"):
        record.codes()


def one_file(name: str, content: bytes) -> st.SearchStrategy[dict[str, bytes]]:
    """Give a folder of one mutated file."""
    return mutated(content).map(lambda data: {name: data})


TARGETS = (
    Target(
        "fasta",
        _fasta(),
        _read_fasta,
        where=_WHERE,
        valid={"x.fa": b">a species=x\nACGT\n"},
        worst=(
            {"x.fa": b">" + b"a" * (2 << 20)},
            {"x.fa": b">a " + b"[species=" * 100_000 + b"\nAC\n"},
            {"x.fa": b">a " + b'species="' * 100_000 + b"\nAC\n"},
            {"x.fa": b"".join(b">%d\nA\n" % number for number in range(100_000))},
            {"x.fa": gzip.compress(b">a species=x\n" + b"A" * (300 << 20), 1)},
            {"x.fa": b">a\n" + b"\n" * (4 << 20)},
        ),
    ),
    Target(
        "fasta by position",
        _indexed(),
        _read_indexed,
        where=_WHERE,
        valid={"x.fa": bgzip(FASTA)},
        worst=(
            {"x.fa": FASTA, "x.fa.fai": b"chr1\t9223372036854775807\t46\t12\t13\n"},
            {"x.fa": FASTA, "x.fa.fai": b"chr1\t26\t99999999999999999999999\t12\t13\n"},
            {"x.fa": bgzip(FASTA), "x.fa.fai": b"chr1\t4000000000\t46\t12\t13\n", "x.fa.gzi": bytes(8)},
            {"x.fa": bgzip(FASTA), "x.fa.fai": INDEX, "x.fa.gzi": b"\xff" * 8},
        ),
    ),
    Target(
        "genbank",
        st.tuples(mutated(GENBANK)).flatmap(lambda made: packed(made[0])).map(lambda data: {"x.gb": data}),
        _consume_genbank,
        where=_WHERE,
        valid={"x.gb": GENBANK},
        worst=(
            {"x.gb": gzip.compress(GENBANK[:300] + b" " * (300 << 20), 1)},
            {"x.gb": GENBANK.replace(b"ORIGIN", b"     gene            1..4\n" * 100_000 + b"ORIGIN")},
        ),
    ),
    Target(
        "bed",
        one_file("x.bed", BED),
        lambda folder: read_bed(folder / "x.bed"),
        where=_WHERE,
        valid={"x.bed": BED},
        worst=({"x.bed": b"a\t0\t1\n" * 200_000}, {"x.bed": b"a\t" * (1 << 20)}, {"x.bed": b"\t0\t1\n"}),
    ),
    Target(
        "labels",
        one_file("x.tsv", LABELS),
        lambda folder: read_labels(folder / "x.tsv"),
        where=_WHERE,
        valid={"x.tsv": LABELS},
        worst=({"x.tsv": b"a\n" + b"b" * (4 << 20)}, {"x.tsv": b"a\tb\t" * (1 << 20)}),
    ),
    Target(
        "labelled table",
        st.tuples(mutated(TABLE)).flatmap(lambda made: packed(made[0])).map(lambda data: {"x.csv": data}),
        lambda folder: read_table(folder / "x.csv", columns=["label"]),
        where=_WHERE,
        valid={"x.csv": TABLE},
        worst=(
            {"x.csv": b"sequence,label\n" + b'"' * (4 << 20)},
            {"x.csv": b"sequence,label" + b",x" * (1 << 20) + b"\nACGT,y\n"},
            {"x.csv": b"sequence,label\n" + b"!,\n" * 200_000},
            {"x.csv": gzip.compress(b"sequence,label\n" + b"A" * (300 << 20), 1)},
        ),
    ),
    Target(
        "aliases",
        one_file("x.txt", ALIASES),
        lambda folder: read_aliases(folder / "x.txt"),
        where=_WHERE,
        valid={"x.txt": ALIASES},
        worst=(
            {"x.txt": b"".join(b"same\t%d\n" % number for number in range(100_000))},
            {"x.txt": b"\t".join(b"%d" % number for number in range(100_000))},
        ),
    ),
)
