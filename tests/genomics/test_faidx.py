import gzip
import json
import logging
import os
import pickle
import tempfile
import threading
from pathlib import Path

import numpy as np
import pysam
import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import decode
from seqdomains.genomics.corpus import sequence_files
from seqdomains.genomics.faidx import FastaFile

NOBODY = 65534


@pytest.fixture
def letters():
    rng = np.random.default_rng(5)
    return {name: "".join(rng.choice(list("ACGTacgtN"), size)) for name, size in (("chr1", 70_003), ("chr2", 61))}


@pytest.fixture(params=["plain", "bgzip"])
def path(tmp_path, letters, request):
    plain = tmp_path / "a.fa"
    with plain.open("w") as handle:
        for name, text in letters.items():
            handle.write(f">{name} x=1\n" + "\n".join(text[at : at + 60] for at in range(0, len(text), 60)) + "\n")
    if request.param == "plain":
        return plain
    pysam.tabix_compress(str(plain), str(tmp_path / "a.fa.gz"))
    return tmp_path / "a.fa.gz"


def test_windows_read_right_and_the_index_is_kept_beside_the_file(path, letters):
    fasta = FastaFile(path)
    assert dict(zip(fasta.names, fasta.lengths, strict=True)) == {name: len(text) for name, text in letters.items()}
    for start, end in ((0, 10), (59, 61), (65_000, 70_003), (7, 7)):
        piece = letters["chr1"][start:end]
        assert decode(fasta.codes("chr1", start, end)) == piece.upper()
        assert fasta.soft_mask("chr1", start, end).tolist() == [letter.islower() for letter in piece]
    assert path.with_name(path.name + ".fai").exists()
    assert not list(path.parent.glob(".faidx-*"))


def reindexed(tmp_path, before, after):
    """A file that was edited after its index was made, the index touched since, as by a copy."""
    path = tmp_path / "a.fa"
    path.write_text(before)
    FastaFile(path)
    path.write_text(after)
    os.utime(f"{path}.fai")
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (">a\nACGTACGT\n>b\nTTTT\n", ">ab\nACGTACGT\n>b\nTTTT\n"),
        (">a\nACGTACGT\n", ">a\nACGTACGTA\n"),
        (">a\nACGTACGT\n", ">a\nACGTAC\n"),
        (">a\nACGTACGT\nACG\n", ">a\nACGTACGTACG\n"),
    ],
    ids=["longer header", "more bases", "fewer bases", "other line length"],
)
def test_index_that_is_newer_than_the_file_and_does_not_fit(tmp_path, before, after):
    with pytest.raises(InputError, match=r"a\.fa\.fai does not fit a\.fa.*delete the index"):
        FastaFile(reindexed(tmp_path, before, after))


@pytest.mark.parametrize("index", ["a\t8\t3\t0\t0\n", "a\t8\t-3\t8\t9\n", "garbage\n"])
def test_damaged_index(tmp_path, index):
    path = tmp_path / "a.fa"
    path.write_text(">a\nACGTACGT\n")
    path.with_name("a.fa.fai").write_text(index)
    with pytest.raises(InputError, match="delete the index"):
        FastaFile(path)


@pytest.mark.parametrize("text", [">a\nACG\n", ">a\nACG", ">a\r\nACGT\r\nAC\r\n", ">a\nACGT\nACGT\n>b x\nA\n"])
def test_index_of_unusual_line_ends_fits(tmp_path, text):
    path = tmp_path / "a.fa"
    path.write_bytes(text.encode())
    FastaFile(path)
    assert FastaFile(path).codes("a", 0, 3).tolist() == [0, 1, 2]


def test_unknown_contig_lists_the_nearest_names(path):
    with pytest.raises(InputError, match="no contig 'chr3'; the nearest names are 'chr"):
        FastaFile(path).codes("chr3", 0, 1)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (0, 62), (5, 4)])
def test_range_outside_the_contig(path, start, end):
    with pytest.raises(InputError, match="not within the contig's 61 bp"):
        FastaFile(path).codes("chr2", start, end)


def test_handles_are_per_thread_and_process(path, letters):
    fasta = FastaFile(path)
    expected = fasta.codes("chr1", 100, 40_000).tolist()
    found = []

    def read():
        for _ in range(20):
            found.append(fasta.codes("chr1", 100, 40_000).tolist() == expected)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80
    child = os.fork()
    if child == 0:
        os._exit(0 if fasta.codes("chr1", 100, 40_000).tolist() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pickle.loads(pickle.dumps(fasta)).codes("chr1", 100, 40_000).tolist() == expected  # noqa: S301


def test_plain_gzip_is_refused_with_advice(tmp_path):
    path = tmp_path / "a.fa.gz"
    path.write_bytes(gzip.compress(b">a\nACGT\n"))
    with pytest.raises(InputError, match=r"plain gzip.*bgzip"):
        FastaFile(path)


def test_illegal_character_is_named_by_its_position_in_the_contig(path, tmp_path):
    plain = tmp_path / "bad.fa"
    plain.write_text(">a\nACGTACGT\nACGJACGT\n")
    pysam.faidx(str(plain))  # an index that somebody else made of an unchecked file
    fasta = FastaFile(plain)
    assert decode(fasta.codes("a", 0, 8)) == "ACGTACGT"
    with pytest.raises(InputError, match="record 'a', position 12: 'J'"):
        fasta.codes("a", 8, 16)


def test_lines_of_uneven_length_cannot_be_indexed(tmp_path):
    path = tmp_path / "uneven.fa"
    path.write_text(">a\nACGT\nACGTACGT\nAC\n")
    with pytest.raises(InputError, match="one length"):
        FastaFile(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["uneven.fa"]


def test_an_index_that_does_not_fit_is_an_error(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">a\nACGT\n")
    path.with_name("a.fa.fai").write_text("a\t4000\t3\t4\t5\n")
    with pytest.raises(InputError, match="index"):
        FastaFile(path).codes("a", 0, 4000)


def test_a_damaged_index_is_an_error(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">a\nACGT\n")
    path.with_name("a.fa.fai").write_text("not an index\n")
    with pytest.raises(InputError, match=r"a\.fa"):
        FastaFile(path).codes("a", 0, 4)


@pytest.fixture
def read_only_folder():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folder cannot be entered by another user
        root = Path(folder)
        root.chmod(0o755)
        data, cache = root / "data", root / "cache"
        data.mkdir()
        (data / "a.fa").write_text(">a\nACGT\n")
        cache.mkdir()
        cache.chmod(0o777)
        data.chmod(0o555)
        yield data, cache
        data.chmod(0o755)


def _unprivileged(action):
    """Run an action in a fork that may not write where only root may; give back what it returned and logged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            lines = []
            handler = logging.Handler()
            handler.emit = lambda record: lines.append(record.getMessage())
            logging.getLogger("seqdomains").addHandler(handler)
            try:
                outcome = str(action())
            except InputError as error:
                outcome = f"InputError: {error}"
            os.write(writing, json.dumps([outcome, lines]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as handle:
        answer = handle.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def test_folder_without_write_permission_keeps_the_index_in_the_cache(read_only_folder, monkeypatch):
    data, cache = read_only_folder
    monkeypatch.setenv("SEQDOMAINS_CACHE", str(cache))
    outcome, lines = _unprivileged(lambda: FastaFile(data / "a.fa").codes("a", 1, 3).tolist())
    assert outcome == "[1, 2]"
    assert ["cannot be written" in line and str(cache) in line for line in lines] == [True]
    assert len(list((cache / "faidx").glob("*.fai"))) == 1
    assert _unprivileged(lambda: FastaFile(data / "a.fa").names) == ["('a',)", []]


def test_no_place_for_the_index_is_one_clear_line(read_only_folder, monkeypatch):
    data, _ = read_only_folder
    monkeypatch.setenv("SEQDOMAINS_CACHE", "/proc/none")
    outcome, lines = _unprivileged(lambda: FastaFile(data / "a.fa"))
    assert outcome.startswith("InputError: no index of")
    assert "make one writable" in outcome
    assert "\n" not in outcome
    assert not lines
    assert [entry.name for entry in data.iterdir()] == ["a.fa"]


def test_a_file_that_may_not_be_read_is_one_clear_line(read_only_folder):
    data, _ = read_only_folder
    (data / "a.fa").chmod(0)
    outcome, _ = _unprivileged(lambda: FastaFile(data / "a.fa"))
    assert outcome.endswith("a.fa cannot be read: Permission denied")


def test_a_folder_that_may_not_be_listed_is_one_clear_line(read_only_folder):
    data, _ = read_only_folder
    data.chmod(0)
    assert _unprivileged(lambda: sequence_files([data]))[0] == f"InputError: {data} cannot be read: permission denied"


def test_building_logs_nothing_where_the_folder_can_be_written(path, caplog):
    with caplog.at_level(logging.WARNING):
        FastaFile(path)
    assert not caplog.records
