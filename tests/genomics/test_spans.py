import gzip
import io
import multiprocessing
import os
import signal
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.errors import InputError
from seqdomains.genomics import fasta
from seqdomains.genomics import survey as module
from seqdomains.genomics.alphabet import decode
from seqdomains.genomics.corpus import sequence_files
from seqdomains.genomics.sources import SequenceWindows
from seqdomains.genomics.spans import plan_spans
from seqdomains.genomics.survey import survey
from seqdomains.genomics.windows import Region, count_windows, tile


def letters(length, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def write(path, records, *, width=60):
    with path.open("w") as handle:
        for header, text in records:
            handle.write(f">{header}\n" + "\n".join(text[at : at + width] for at in range(0, len(text), width)) + "\n")
    return path


def spans(path, **options):
    return (span for file in plan_spans([path], **options).files for span in file.spans())


def rows(found):
    return [(span.record, span.start, span.end, decode(span.tokens)) for span in found]


def expected(records, window, stride=None):
    return [
        (name, start, end, text[start:end])
        for name, text in records
        for start, end in tile(len(text), window=window, stride=stride)
    ]


RECORDS = [("chr1", letters(1000, 1)), ("chr2", letters(333, 2)), ("tiny", "ACGT"), ("chr3", letters(64, 3))]


@pytest.mark.parametrize("form", ["plain", "gzip", "bgzip"])
@pytest.mark.parametrize("stride", [None, 17, 100])
def test_all_forms_give_the_tiles_in_input_order(tmp_path, form, stride):
    path = write(tmp_path / "a.fa", RECORDS)
    if form == "gzip":
        path = tmp_path / "b.fa.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.fa").read_bytes()))
    if form == "bgzip":
        path = tmp_path / "c.fa.gz"
        pysam.tabix_compress(str(tmp_path / "a.fa"), str(path))
    plan = plan_spans([path], window=64, stride=stride)
    found = rows(span for file in plan.files for span in file.spans())
    assert found == expected(RECORDS, 64, stride)
    assert plan.windows == len(found)
    assert [(skipped.record, skipped.reason) for skipped in plan.skipped] == [
        ("tiny", f"{path}: record 'tiny' has 4 bp, less than the window of 64 bp")
    ]
    assert not list(tmp_path.glob("*.fai"))


@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=4), st.integers(1, 50), st.integers(1, 70), st.integers(1, 40)
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_streaming_agrees_with_tiling_wherever_blocks_end(tmp_path, monkeypatch, lengths, window, stride, block):
    records = [(f"r{number}", letters(length, number)) for number, length in enumerate(lengths)]
    path = write(tmp_path / "a.fa", records, width=11)
    monkeypatch.setattr(fasta, "_BLOCK", block)
    if max(lengths) < window:
        with pytest.raises(InputError, match="longer than every contig"):
            plan_spans([path], window=window, stride=stride)
    else:
        assert rows(spans(path, window=window, stride=stride)) == expected(records, window, stride)


def test_stdin_is_read_once_and_its_short_records_are_listed_in_the_end(tmp_path, monkeypatch):
    content = write(tmp_path / "a.fa", RECORDS).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    plan = plan_spans(["-"], window=64)
    assert plan.windows is None
    assert rows(plan.files[0].spans()) == expected(RECORDS, 64)
    assert [skipped.reason for skipped in plan.skipped] == [
        "stdin: record 'tiny' has 4 bp, less than the window of 64 bp"
    ]


@pytest.mark.parametrize("form", ["plain", "gzip", "stdin"])
def test_short_records_are_kept_for_models_of_whole_records(tmp_path, monkeypatch, form):
    path = write(tmp_path / "a.fa", RECORDS)
    if form == "gzip":
        path = path.with_name("a.fa.gz")
        path.write_bytes(gzip.compress((tmp_path / "a.fa").read_bytes()))
    if form == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(path.read_bytes()))))
        path = "-"
    plan = plan_spans([path], window=100, keep_short=True)
    found = rows(span for file in plan.files for span in file.spans())
    whole = [(name, 0, len(text), text) for name, text in RECORDS if len(text) < 100]
    tiles = expected([record for record in RECORDS if len(record[1]) >= 100], 100)
    assert sorted(found) == sorted(tiles + whole)
    assert [row[0] for row in found] == [name for name, text in RECORDS for _ in range(max(1, len(text) // 100))]
    assert plan.skipped == ()
    assert plan.windows in (None, len(found))


def test_short_records_are_kept_wherever_a_shard_begins(tmp_path):
    path = write(tmp_path / "a.fa", RECORDS)
    source = SequenceWindows(window=100, stride=100, keep_short=True)
    whole = rows(source.spans(str(path), 0, 100))
    assert len(whole) == 15
    for first in range(15):
        assert rows(source.spans(str(path), first, 100)) == whole[first:]


def test_a_pipe_is_read_once_like_stdin(tmp_path):
    content = gzip.compress(write(tmp_path / "a.fa", RECORDS).read_bytes())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
    writer.start()
    plan = plan_spans([pipe], window=64)
    assert plan.windows is None
    assert rows(plan.files[0].spans()) == expected(RECORDS, 64)
    writer.join(timeout=10)
    with pytest.raises(InputError, match="is a pipe, and training"):
        sequence_files([pipe])


def test_stdin_without_a_long_record(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b">a\nACGT\n"))))
    with pytest.raises(InputError, match="stdin: the window of 64 bp is longer than every contig"):
        rows(spans("-", window=64))


def test_one_bad_file_does_not_end_the_others(tmp_path):
    good, other = write(tmp_path / "a.fa", RECORDS), write(tmp_path / "b.fa", RECORDS[:1])
    bad, short = write(tmp_path / "bad.fa", [("x", "AC!T")]), write(tmp_path / "short.fa", [("x", "ACGT")])
    plan = plan_spans([bad, good, tmp_path / "none.fa", short, other], window=64)
    assert [file.source for file in plan.files] == [str(good), str(other)]
    assert [source for source, _ in plan.failures] == [str(bad), str(tmp_path / "none.fa"), str(short)]
    for (source, error), said in zip(
        plan.failures,
        ("record 'x', position 3 (line 2): '!'", "does not exist", "(the longest has 4 bp): give --window 4 or less"),
        strict=True,
    ):
        assert str(error).startswith(source)
        assert said in str(error)
        assert "\n" not in str(error)


def test_nothing_left_is_an_error(tmp_path):
    bad, short = write(tmp_path / "bad.fa", [("x", "AC!T")]), write(tmp_path / "short.fa", [("x", "ACGT")])
    with pytest.raises(InputError, match="longer than every contig"):
        plan_spans([short], window=64)
    with pytest.raises(InputError, match=r"no input can be read:\n.*position 3.*\n.*longer than every"):
        plan_spans([bad, short], window=64)


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_regions_come_in_their_own_order(tmp_path, form):
    path = write(tmp_path / "a.fa", RECORDS)
    if form == "gzip":
        path = tmp_path / "b.fa.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.fa").read_bytes()))
    regions = [Region("chr2", 10, 20), Region("chr1", 100, 300), Region("2", 300, 333), Region("chr1", 0, 64)]
    texts = dict(RECORDS)
    plan = plan_spans([path], window=64, regions=regions)
    found = rows(span for file in plan.files for span in file.spans())
    assert [(name, start, end) for name, start, end, _ in found] == [
        ("chr2", 10, 20),
        ("chr1", 100, 164),
        ("chr1", 164, 228),
        ("chr1", 228, 292),
        ("chr2", 300, 333),
        ("chr1", 0, 64),
    ]
    assert all(texts[name][start:end] == text for name, start, end, text in found)
    assert plan.windows == 6


def test_regions_go_to_the_files_that_have_their_contig(tmp_path):
    first, second = write(tmp_path / "a.fa", [RECORDS[0]]), write(tmp_path / "b.fa", [RECORDS[1]])
    third = write(tmp_path / "c.fa", [("other", letters(100))])
    plan = plan_spans([first, second, third], window=64, regions=[Region("chr2", 0, 9), Region("chr1", 5, 7)])
    assert [file.source for file in plan.files] == [str(first), str(second)]
    assert [span[:3] for file in plan.files for span in rows(file.spans())] == [("chr1", 5, 7), ("chr2", 0, 9)]
    twice = plan_spans([first, first], window=64, regions=[Region("chr1", 5, 7)])
    assert [len(list(file.spans())) for file in twice.files] == [1, 1]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region("chr9", 0, 5), "has no contig 'chr9'; the nearest names are 'chr"),
        (Region("chr2", 0, 334, "", 3), r"chr2:0-334 \(line 3 of the BED\) ends behind the contig, which has 333 bp"),
    ],
)
def test_bad_regions(tmp_path, region, message):
    path = write(tmp_path / "a.fa", RECORDS)
    with pytest.raises(InputError, match=message):
        plan_spans([path], window=64, regions=[region])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.fa"]


def test_a_contig_that_no_file_has(tmp_path):
    paths = [write(tmp_path / f"{name}.fa", [(name, letters(99))]) for name in ("chr1", "chr2")]
    with pytest.raises(InputError, match="no file has a contig 'chr9'; the nearest names are 'chr"):
        plan_spans(paths, window=9, regions=[Region("chr9", 0, 5)])


def test_regions_need_positions(monkeypatch):
    with pytest.raises(InputError, match="regions cannot be read from stdin"):
        plan_spans(["-"], window=9, regions=[Region("chr9", 0, 5)])


def test_gaps_by_policy(tmp_path):
    path = write(tmp_path / "a.fa", [("a", "AC-TACGT")])
    assert rows(spans(path, window=8, policy="mask")) == [("a", 0, 8, "AC-TACGT")]


def test_a_chromosome_is_streamed_in_bounded_memory(tmp_path):
    path = tmp_path / "big.fa"
    with path.open("w") as handle:
        handle.write(">chr1\n")
        for _ in range(200):
            handle.write(("ACGTTGCA" * 10_000) + "\n")  # 16 Mb
    tracemalloc.start()
    count = sum(1 for _ in spans(path, window=4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == count_windows(16_000_000, window=4096)
    assert peak < 8 << 20


def test_files_are_surveyed_by_several_processes_too(tmp_path):
    paths = [tmp_path / f"{number}.fa" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_text(f">r{number}\n{'ACGT' * (number + 1)}\n" if number != 3 else ">bad\nAC!T\n")
    told = []
    found, failures = survey([*paths, tmp_path / "absent.fa"], policy="reject", processes=2, progress=told.append)
    assert found == [(path, {f"r{number}": 4 * number + 4}) for number, path in enumerate(paths) if number != 3]
    assert [name for name, _ in failures] == [str(paths[3]), str(tmp_path / "absent.fa")]
    assert "'!'" in str(failures[0][1])
    assert told == [1, 2, 3, 4, 5, 6, 7]


def killed_in_a_child(path, policy, indexed):
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return {path: 1}


def test_one_process_reads_on_where_another_is_killed(monkeypatch, caplog):
    monkeypatch.setattr(module, "_look", killed_in_a_child)
    found, failures = survey(["a.fa", "b.fa"], policy="reject", processes=2)
    assert (found, failures) == ([("a.fa", {"a.fa": 1}), ("b.fa", {"b.fa": 1})], [])
    assert "a process that looked at inputs was killed" in caplog.text


def test_the_index_of_a_large_file_is_made_by_whoever_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "a.fa"
    path.write_text(">r\nACGT\n")
    assert module._look(path, "reject", indexed=True) == {"r": 4}
    assert not Path(f"{path}.fai").exists()
    monkeypatch.setattr(module, "_LARGE", 1)
    assert module._look(path, "reject", indexed=False) == {"r": 4}
    assert not Path(f"{path}.fai").exists()
    assert module._look(path, "reject", indexed=True) == {"r": 4}
    assert Path(f"{path}.fai").exists()
