import gzip
import io
import logging
import os
import sys

import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdomains.errors import InputError
from seqdomains.genomics import fasta
from seqdomains.genomics.alphabet import decode
from seqdomains.genomics.fasta import compression, stream_fasta

TWO = b">chr1 species=human first\nACGTAC\nGTacgt\nNN\n>chr2\nTTTT\n"


def write(path, content):
    path.write_bytes(content)
    return path


def contents(source, **options):
    return [(r.name, r.description, decode(r.codes())) for r in stream_fasta(source, **options)]


EXPECTED = [("chr1", "species=human first", "ACGTACGTACGTNN"), ("chr2", "", "TTTT")]


def test_plain_gzip_and_bgzip_read_alike(tmp_path):
    plain = write(tmp_path / "a.fa", TWO)
    zipped = write(tmp_path / "b.fa.gz", gzip.compress(TWO))
    blocks = tmp_path / "c.fa.gz"
    pysam.tabix_compress(str(plain), str(blocks))
    assert [compression(path) for path in (plain, zipped, blocks)] == ["plain", "gzip", "bgzip"]
    assert contents(plain) == contents(zipped) == contents(blocks) == EXPECTED


@pytest.mark.parametrize("content", [TWO, gzip.compress(TWO)], ids=["plain", "gzip"])
def test_stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    assert contents("-") == EXPECTED


@pytest.mark.parametrize("content", [TWO.replace(b"\n", b"\r\n"), b"\n\n" + TWO, TWO.rstrip(b"\n"), TWO + b"\n\n"])
def test_line_ends_and_blank_lines_do_not_matter(tmp_path, content):
    assert contents(write(tmp_path / "a.fa", content)) == EXPECTED


@given(st.integers(1, 40), st.lists(st.integers(1, 90), min_size=1, max_size=6), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_block_edges_do_not_matter(block, lengths, width):
    text, expected = b"", []
    for number, length in enumerate(lengths):
        letters = ("ACGTNRYK" * 12)[:length]
        lines = "\n".join(letters[at : at + width] for at in range(0, length, width))
        text += f">r{number} d={length}\n{lines}\n".encode()
        expected.append((f"r{number}", f"d={length}", letters))
    before = fasta._BLOCK
    fasta._BLOCK = block
    try:
        parser = fasta._Parser(io.BytesIO(text), "x", "reject")
        assert [(r.name, r.description, decode(r.codes())) for r in parser.records()] == expected
    finally:
        fasta._BLOCK = before


def test_pieces_that_are_not_read_are_passed_over_but_checked(tmp_path):
    path = write(tmp_path / "a.fa", b">a\nACGT\n>b\nAC!T\n>c\nAC\n")
    names = []
    with pytest.raises(InputError, match=r"record 'b', position 3 \(line 4\): '!'"):
        names.extend(record.name for record in stream_fasta(path))
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"@read1\nACGT\n+\nIIII\n", "not FASTA.*FASTQ"),
        (b"LOCUS       X\n", "not FASTA.*GenBank"),
        (b"ACGT\n>a\nACGT\n", "not FASTA.*'>'"),
        (b"\x00\x01\x02", "not FASTA"),
        (b">a\nACGT\n>b\nAC\n>a\nTT\n", r"line 5: duplicate record name 'a', first seen on line 1"),
        (b">a\n>b\nACGT\n", "line 1: record 'a' has no sequence"),
        (b">b\nACGT\n>a", "line 3: record 'a' has no sequence"),
        (b"> a\nACGT\n", "line 1: the header has no name"),
        (b">\nACGT\n", "line 1: the header has no name"),
        (b">a\nACGT\nAC-T\n", r"record 'a', position 7 \(line 3\): '-' is a gap"),
        (b">a\r\nACGT\r\nA CT\r\n", r"record 'a', position 6 \(line 3\): ' '"),
        (b">a\n" + b"ACGT\n" * 300_000 + b"ACXT\n", r"record 'a', position 1200003 \(line 300002\): 'X'"),
        (b">" + b"x" * (3 << 20), "header of over 1 MB"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_bad_content_is_named_with_file_and_line(tmp_path, content, message):
    path = write(tmp_path / "bad.fa", content)
    with pytest.raises(InputError, match=message) as caught:
        contents(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gaps_by_policy(tmp_path):
    path = write(tmp_path / "a.fa", b">a\nAC-T\n")
    assert contents(path, policy="mask") == [("a", "", "AC-T")]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        contents(tmp_path / "none.fa")
    with pytest.raises(InputError, match="is a folder"):
        contents(tmp_path)


@pytest.mark.parametrize("cut", [5, 30, 60])
def test_truncated_gzip(tmp_path, cut):
    whole = gzip.compress(TWO * 1 + b">x\n" + bytes(b"ACGT"[i * 7 % 4] for i in range(999)) + b"\n")
    path = write(tmp_path / "a.fa.gz", whole[:-cut])
    with pytest.raises(InputError, match="truncated"):
        contents(path)


def test_damaged_gzip(tmp_path):
    whole = bytearray(gzip.compress(TWO))
    whole[-6] ^= 0xFF
    with pytest.raises(InputError, match="damaged gzip"):
        contents(write(tmp_path / "a.fa.gz", bytes(whole)))


def test_truncated_bgzip_even_at_a_block_edge(tmp_path):
    plain = write(tmp_path / "a.fa", TWO)
    path = tmp_path / "a.fa.gz"
    pysam.tabix_compress(str(plain), str(path))
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match="truncated bgzip"):
        contents(path)


@pytest.mark.parametrize("suffix", [".fai", ".gzi"])
def test_index_older_than_the_file(tmp_path, suffix):
    path = write(tmp_path / "a.fa", TWO)
    index = write(tmp_path / f"a.fa{suffix}", b"")
    os.utime(index, ns=(0, path.stat().st_mtime_ns - 1))
    with pytest.raises(InputError, match=r"older than a\.fa: run `samtools faidx"):
        contents(path)
    os.utime(index, ns=(0, path.stat().st_mtime_ns))
    assert contents(path) == EXPECTED


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TWO.replace(b"\n", b"\r"), r"line 1: a carriage return inside the header; are line ends those of old Macs"),
        (b"\xef\xbb\xbf" + TWO, "byte-order mark"),
        (TWO.decode().encode("utf-16"), "UTF-16"),
    ],
)
def test_other_editors_text_files(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        contents(write(tmp_path / "a.fa", content))


def test_plain_gzip_is_advised_on_once(tmp_path, caplog):
    path = write(tmp_path / "a.fa.gz", gzip.compress(TWO))
    with caplog.at_level(logging.WARNING):
        contents(path)
        contents(path)
    assert [record.message.count("bgzip") for record in caplog.records] == [1]
