"""Region strings, regions of a file, what they cover together, and the windows around them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.regions import covered, merged, parse_region, place_windows, within_file
from seqdomains.genomics.windows import Region

LENGTHS = {"chr1": 1000, "chr2": 50, "HLA:1": 20}
FILE = Path("genome.fa")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chr1", ("chr1", 0, 1000)),
        ("chr1:1-1", ("chr1", 0, 1)),
        ("chr1:101", ("chr1", 100, 1000)),
        ("chr1:101-", ("chr1", 100, 1000)),
        ("chr1:1,000-1,000", ("chr1", 999, 1000)),
        ("1:3-4", ("chr1", 2, 4)),
        ("HLA:1", ("HLA:1", 0, 20)),
        ("{HLA:1}:5-9", ("HLA:1", 4, 9)),
        ("HLA:1:5-9", ("HLA:1", 4, 9)),
    ],
)
def test_regions_are_read_as_samtools_reads_them(text, expected):
    region = parse_region(text, LENGTHS, FILE)
    assert (region.contig, region.start, region.end) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("chr1:0-5", "region 'chr1:0-5': positions are 1-based, and the first base of a contig is 1"),
        ("chr1:9-5", "its start is behind its end; give the smaller position first"),
        ("chr1:5-1001", "region 'chr1:5-1001' ends behind the contig, which has 1000 bp in genome.fa"),
        ("chr2:51", "region 'chr2:51' ends behind the contig, which has 50 bp"),
        ("", "expected CONTIG, CONTIG:START or CONTIG:START-END, 1-based, such as"),
        ("chr12:5-6", "chr12"),
    ],
)
def test_bad_regions_are_named(text, sentence):
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")):
        parse_region(text, LENGTHS, FILE)


def test_regions_of_a_bed_are_within_the_file():
    assert within_file([Region("1", 5, 9)], LENGTHS, FILE) == [Region("chr1", 5, 9)]
    with pytest.raises(InputError, match=r"region chr2:40-51 \(line 3 of the BED\) ends behind the contig"):
        within_file([Region("chr2", 40, 51, line=3)], LENGTHS, FILE)


def test_what_regions_cover_is_sorted_and_without_overlap():
    random = np.random.default_rng(0)
    regions = [
        Region(f"c{contig}", int(start), int(start + size))
        for contig, start, size in zip(
            random.integers(3, size=60), random.integers(200, size=60), random.integers(1, 9, size=60), strict=True
        )
    ]
    found = merged(regions)
    keys = [(one.contig, one.start) for one in found]
    assert keys == sorted(keys)
    assert all(a.contig != b.contig or a.end < b.start for a, b in pairwise(found))
    for contig in ("c0", "c1", "c2", "c3"):
        inside = np.zeros(220, dtype=bool)
        for region in regions:
            if region.contig == contig:
                inside[region.start : region.end] = True
        assert np.array_equal(covered(contig, np.arange(220), found), inside)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 100), (30, 31), (99, 100), (17, 83), (95, 100)])
@pytest.mark.parametrize("window", [1, 7, 16, 100, 200])
def test_windows_surround_their_parts(start, end, window):
    found = list(place_windows(Region("c", start, end), window=window, length=100))
    assert [found[0].first, *(one.last for one in found)] == [start, *(one.first for one in found[1:]), end]
    for one in found:
        assert 0 <= one.start <= one.first < one.last <= one.end <= 100
        assert one.end - one.start == min(window, 100)
        left, right = one.first - one.start, one.end - one.last
        assert abs(left - right) <= 1 or one.start == 0 or one.end == 100
