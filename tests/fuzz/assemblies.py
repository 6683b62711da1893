"""A registry of assemblies, and what a provider's server may send beside a genome."""

from __future__ import annotations

from pathlib import Path

from documents import DEEP, YAML_TRICKS, as_yaml, edited
from hypothesis import strategies as st
from mutations import Draw, mutated
from target import Target

from seqdomains.genomics.assemblies import read_record
from seqdomains.genomics.contigs import read_aliases
from seqdomains.genomics.provider_files import as_aliases, folder_in_listing, read_contigs, read_sums
from seqdomains.genomics.registry import read_registry

TREE = {
    "mine": {
        "base_url": "https://example.org/genomes/",
        "assemblies": [
            {
                "name": "one",
                "species": "human",
                "folder": "GCF/1/GCF_1.2_*",
                "genome": "{folder}_genomic.fna.gz",
                "checksums": "md5checksums.txt",
                "report": "{folder}_report.txt",
                "size": 5,
                "md5": "0" * 32,
                "chromosomes": {"5": 100, "17x5": 7},
            }
        ],
    }
}
RECORD = b'{"genome": {"size": 5}, "download": {"md5": "00"}, "accession": "GCF_1.2"}'
VALID = {
    "x.yaml": as_yaml(TREE),
    "x.sums": b"d41d8cd98f00b204e9800998ecf8427e  ./a.fna.gz\n" + b"0" * 64 + b" *b.gz\n",
    "x.report": b"# Sequence-Name\nchr4_hsa5\tx\t4\tChromosome\tCP1.1\t=\tNC_1.1\tPrimary\t100\tna\nchr5\t90\n",
    "x.html": b'<a href="../">up</a><a href="/x/GCF_1.2_v2/">x</a>',
    "x.json": RECORD,
    "x.fa.gz": b"12345",
    "x.fa.gz.fai": b"",
    "x.fa.gz.gzi": b"",
}


@st.composite
def _files(draw: Draw) -> dict[str, bytes]:
    name = draw(st.sampled_from(("x.yaml", "x.yaml", "x.sums", "x.report", "x.html", "x.json")))
    content = as_yaml(draw(edited(TREE))) if name == "x.yaml" and draw(st.booleans()) else VALID[name]
    return {name: draw(mutated(content))}


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def _read(folder: Path) -> None:
    for found in read_registry(folder / "x.yaml").values():
        for assembly in found.chosen():
            # What these make names of local files, and of remote ones, must not lead elsewhere.
            assert "/" not in assembly.stem
            assert ".." not in f"{assembly.folder}/{assembly.genome}".split("/")
    for name, sums in read_sums(_text(folder / "x.sums")).items():
        assert "/" not in name
        assert sums
    listed = folder_in_listing(_text(folder / "x.html"), "GCF_1.2_", url=str(folder / "x.html"))
    assert "/" not in listed
    assert listed.startswith("GCF_1.2_")
    contigs = read_contigs(_text(folder / "x.report"), url=str(folder / "x.report"))
    (folder / "x.txt").write_text(as_aliases(contigs), encoding="utf-8")
    read_aliases(folder / "x.txt")
    read_record(folder / "x.fa.gz")


TARGETS = (
    Target(
        "registry",
        _files(),
        _read,
        where=r"IN/x",
        valid=VALID,
        base=VALID,
        worst=(
            *({"x.yaml": content} for content in (*DEEP, *YAML_TRICKS)),
            {"x.yaml": as_yaml({str(number): {"base_url": "ftp://"} for number in range(3000)})},
            {"x.sums": b"0" * (4 << 20)},
            {"x.report": b"a\t" * (2 << 20)},
            {"x.report": b"".join(b"%d\t1\n" % number for number in range(300_000))},
            {"x.html": b"<a href='" * 400_000},
            {"x.html": b"href=" + b" " * (4 << 20)},
            {"x.json": b"[" * 100_000},
        ),
    ),
)
