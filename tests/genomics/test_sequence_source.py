"""Windows by their number are those of reading the whole file, wherever one begins."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.errors import InputError
from seqdomains.genomics import sources as module
from seqdomains.genomics.alphabet import N, decode
from seqdomains.genomics.sources import SequenceRecords, SequenceWindows, divisible
from seqdomains.genomics.spans import plan_spans
from seqdomains.genomics.windows import Region
from seqdomains.task import Span

# Records shorter than every window stand between, before and behind longer ones.
LENGTHS = {"tiny": 3, "one": 257, "short": 11, "two": 64, "three": 131, "last": 5}
FORMS = ("a.fa", "a.fa.gz", "a.fa.bgz", "a.gb", "a.gbk.gz")


def letters(length, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def fasta(lengths, width=60):
    text = ""
    for seed, (name, length) in enumerate(lengths.items()):
        bases = letters(length, seed)
        text += f">{name}\n" + "".join(f"{bases[at : at + width]}\n" for at in range(0, length, width))
    return text


def genbank(lengths):
    text = ""
    for seed, (name, length) in enumerate(lengths.items()):
        bases = letters(length, seed)
        lines = "".join(f"{at + 1:>9} {bases[at : at + 10].lower()}\n" for at in range(0, length, 10))
        text += (
            f"LOCUS       {name:<16} {length:>11} bp    DNA     linear   PRI 01-JAN-2000\nDEFINITION  A piece.\n"
            f"ACCESSION   {name}\nVERSION     {name}\nFEATURES             Location/Qualifiers\n"
            f"     source          1..{length}\nORIGIN\n{lines}//\n"
        )
    return text


def write(folder, name, lengths=LENGTHS):
    path = folder / name
    content = (genbank(lengths) if ".gb" in name else fasta(lengths)).encode()
    if name.endswith(".bgz"):
        with pysam.BGZFile(str(path), "wb") as handle:
            handle.write(content)
    else:
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


def rows(found):
    return [(span.record, span.start, span.end, decode(span.tokens)) for span in found]


def planned(path, source):
    (file,) = plan_spans(
        [path], window=source.window, stride=source.stride, regions=source.regions, policy=source.policy
    ).files
    return list(file.spans()), file.windows


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("window", "stride"), [(64, 64), (64, 17), (32, 49), (13, 1), (64, 100), (131, 7), (20, 40)])
def test_every_beginning_gives_what_reading_the_whole_file_gives(tmp_path, name, window, stride):
    path, source = write(tmp_path, name), SequenceWindows(window, stride)
    whole, count = planned(path, source)
    assert len(whole) == count
    step = 1 + len(whole) // 60
    for first in (*range(0, len(whole), step), len(whole) - 1, len(whole), len(whole) + 1):
        for windows in {1, 5, len(whole)}:
            assert rows(source.spans(path, first, windows)) == rows(islice(whole, first, first + windows))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("stride", [64, 17, 100])
def test_regions_are_numbered_in_their_own_order(tmp_path, name, stride):
    regions = (
        Region("three", 1, 131),
        Region("one", 30, 33),  # shorter than the window: one short span
        Region("one", 0, 257),
        Region("two", 0, 64),
        Region("one", 100, 240),
        Region("tiny", 0, 3),
    )
    path, source = write(tmp_path, name), SequenceWindows(64, stride, regions=regions)
    whole, count = planned(path, source)
    assert len(whole) == count
    assert {span.record for span in whole} == {"three", "one", "two", "tiny"}
    for first in range(len(whole) + 2):
        for windows in (1, 4, len(whole)):
            assert rows(source.spans(path, first, windows)) == rows(islice(whole, first, first + windows))


def test_regions_of_contigs_that_a_file_has_not_are_those_of_other_files(tmp_path):
    first, second = write(tmp_path, "a.fa", {"x": 90}), write(tmp_path, "b.fa", {"y": 80})
    source = SequenceWindows(30, 30, regions=(Region("y", 0, 60), Region("x", 5, 70)))
    plan = plan_spans([first, second], window=30, regions=source.regions)
    for path, file in zip((first, second), plan.files, strict=True):
        assert rows(source.spans(path, 1, 9)) == rows(islice(file.spans(), 1, 10))
    assert [span.record for span in source.spans(second, 0, 9)] == ["y", "y"]


@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    window=st.integers(1, 50),
    stride=st.integers(1, 70),
    first=st.integers(0, 60),
    windows=st.integers(1, 60),
    block=st.integers(1, 200),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_beginning_of_any_file(tmp_path, monkeypatch, lengths, window, stride, first, windows, block):
    lengths = {f"r{number}": length for number, length in enumerate(lengths)}
    lengths["long"] = window  # a file without one has no window at all
    path = tmp_path / "a.fa"
    path.write_text(fasta(lengths, width=7))
    Path(f"{path}.fai").unlink(missing_ok=True)  # of the example before
    monkeypatch.setattr(module, "_BLOCK", block)
    source = SequenceWindows(window, stride)
    whole, _ = planned(path, source)
    assert rows(source.spans(str(path), first, windows)) == rows(islice(whole, first, first + windows))


def test_only_files_with_positions_can_be_cut(tmp_path):
    source = SequenceWindows(8, 8)
    cut = {name: divisible(write(tmp_path, name), "reject") for name in FORMS}
    assert cut == {"a.fa": True, "a.fa.gz": False, "a.fa.bgz": True, "a.gb": False, "a.gbk.gz": False}
    uneven = tmp_path / "uneven.fa"
    uneven.write_text(">a\nACGTACGT\nACG\nACGTACGT\n")
    assert not divisible(str(uneven), "reject")
    assert len(list(source.spans(str(uneven), 0, 9))) == 2


def test_the_gap_policy_holds_from_the_middle_too(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(f">a\n{'ACGT' * 4}{'-' * 8}\n")
    with pytest.raises(InputError, match="'-'"):
        list(SequenceWindows(8, 8).spans(str(path), 1, 2))
    *_, last = SequenceWindows(8, 8, policy="mask").spans(str(path), 1, 2)
    assert (last.start, SequenceWindows(8, 8).blank(last)) == (16, True)


@pytest.mark.parametrize("name", FORMS)
def test_whole_records_by_their_number(tmp_path, monkeypatch, name):
    monkeypatch.setattr(module, "_BLOCK", 50)
    path = write(tmp_path, name)
    numbers = [(first, count) for first in range(len(LENGTHS)) for count in range(1, len(LENGTHS) - first + 1)]
    for first, count in numbers if divisible(path, "reject") else [(0, len(LENGTHS)), (0, 2)]:
        found = [(name, "".join(map(decode, pieces))) for name, pieces in SequenceRecords().records(path, first, count)]
        expected = [(name, letters(length, seed)) for seed, (name, length) in enumerate(LENGTHS.items())]
        assert found == expected[first : first + count]


@pytest.mark.parametrize(("unknown", "blank"), [(4, False), (5, True)])
def test_a_window_is_blank_when_more_than_half_of_it_is_unknown(unknown, blank):
    tokens = np.array([N] * unknown + [0] * (8 - unknown), np.uint8)
    assert SequenceWindows(8, 8).blank(Span("r", 0, 8, tokens)) is blank
