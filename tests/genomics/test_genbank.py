import gzip

import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import decode
from seqdomains.genomics.records import stream_records

ENTRY = """\
LOCUS       {name:<16} {length:>11} bp    DNA     linear   PRI 01-JAN-2000
DEFINITION  A piece of mitochondrion.
ACCESSION   {name}
VERSION     {name}.1
SOURCE      mitochondrion Pan paniscus
  ORGANISM  Pan paniscus
            Eukaryota; Metazoa.
FEATURES             Location/Qualifiers
     source          1..{length}
{origin}//
"""


def entry(name, text):
    origin = "".join(f"{at + 1:>9} {text[at : at + 10]}\n" for at in range(0, len(text), 10))
    return ENTRY.format(name=name, length=len(text), origin=f"ORIGIN\n{origin}")


@pytest.mark.parametrize("name", ["a.gb", "a.gbk.gz"])
def test_records_come_through_the_same_interface(tmp_path, name):
    path = tmp_path / name
    content = (entry("AB000001", "acgtacgtacnn") + entry("AB000002", "ttttt")).encode()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert [(r.name, r.description, decode(r.codes())) for r in stream_records(path)] == [
        ("AB000001.1", "A piece of mitochondrion [organism=Pan paniscus]", "ACGTACGTACNN"),
        ("AB000002.1", "A piece of mitochondrion [organism=Pan paniscus]", "TTTTT"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no GenBank record"),
        (">a\nACGT\n", "holds no GenBank record"),
        (entry("AB000001", "acgt") * 2, "duplicate accession 'AB000001.1'"),
        (entry("AB000001", ""), "'AB000001.1' has no sequence"),
        (entry("AB000001", "acgtx"), "record 'AB000001.1', position 5: 'X'"),
        (entry("AB000001", "acgt" * 30)[:-50], "not a whole GenBank file"),
    ],
    ids=["empty", "fasta", "duplicate", "no sequence", "illegal", "cut"],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "a.gb"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        list(stream_records(path))
    assert "a.gb" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(stream_records(tmp_path / "none.gb"))


def test_an_endless_line_and_damaged_gzip_are_refused(tmp_path):
    path = tmp_path / "a.gb"
    path.write_bytes(b"LOCUS       AB000001" + b" " * 100_000)
    with pytest.raises(InputError, match=r"a\.gb: a line of over 65536 characters"):
        list(stream_records(path))
    path.write_bytes(gzip.compress(b"LOCUS       AB000001")[:10] + b"\xff" * 20)
    with pytest.raises(InputError, match=r"a\.gb is not a whole GenBank file"):
        list(stream_records(path))
