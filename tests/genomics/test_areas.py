"""Parts of records against sets of positions, which cannot be wrong about borders."""

from __future__ import annotations

import numpy as np
import pytest

from seqdomains.genomics import areas as areas_module
from seqdomains.genomics.alphabet import N
from seqdomains.genomics.areas import Areas, runs_of_n
from seqdomains.genomics.sequences import EncodedSequences


def drawn(random, rows=6):
    starts = random.integers(0, 60, rows)
    ends = starts + random.integers(0, 15, rows)
    return Areas.of(zip(random.integers(0, 3, rows).tolist(), starts.tolist(), ends.tolist(), strict=True))


def positions(areas, *, gap=0):
    return {(record, at) for record, start, end in areas.rows() for at in range(start - gap, end + gap)}


@pytest.mark.parametrize("seed", range(30))
def test_common_and_left_parts_are_those_of_sets(seed):
    random = np.random.default_rng(seed)
    one, other, gap = drawn(random), drawn(random), int(random.integers(0, 5))
    assert positions(one.within(other)) == positions(one) & positions(other)
    left = one.without(other, gap=gap)
    assert positions(left) == positions(one) - positions(other, gap=gap)
    assert left.bases == len(positions(left))


def test_rows_are_in_order_and_do_not_touch():
    areas = Areas.of([(1, 0, 4), (0, 8, 9), (0, 0, 3), (0, 3, 5), (0, 7, 7), (0, 4, 4)])
    assert list(areas.rows()) == [(0, 0, 5), (0, 8, 9), (1, 0, 4)]


@pytest.mark.parametrize("piece", [3, 7, 100])
def test_runs_of_n_are_found_across_pieces(monkeypatch, piece):
    monkeypatch.setattr(areas_module, "_PIECE", piece)
    random = np.random.default_rng(1)
    records = [np.where(random.random(40) < 0.6, N, 0).astype(np.uint8) for _ in range(3)]
    found = {}
    for record, codes in enumerate(records):
        for run in np.split(np.arange(40), np.flatnonzero(np.diff(codes)) + 1):
            if codes[run[0]] == N and len(run) > 2:
                found[record, int(run[0])] = int(run[-1]) + 1
    runs = runs_of_n(EncodedSequences(records), longer_than=2)
    assert {(record, start): end for record, start, end in runs.rows()} == found
