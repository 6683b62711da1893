"""The mutation process, step by step, against plain counting."""

from __future__ import annotations

import numpy as np
import pytest

from seqdomains.genomics.simulate.evolve import (
    CPG_TRANSITIONS,
    CPG_TRANSVERSIONS,
    INDEL_EXPONENT,
    INDELS_PER_SUBSTITUTION,
    TRANSITION_RATIO,
    Rates,
    Tally,
    in_cpg,
    indels,
    states_of,
    steps_of,
    substitute,
)
from seqdomains.genomics.simulate.measure import PairCounts, indel_exponent, measure
from seqdomains.genomics.simulate.root import background
from seqdomains.genomics.simulate.sequence import ColumnCounter, Lineage, Pieces, mosaic, splice


@pytest.fixture(scope="module")
def bases():
    return background(np.random.default_rng(7), 2_000_000)


def lineage_of(codes, columns, cuts=()):
    return Lineage(codes, np.zeros(len(codes), bool), columns.take(len(codes)), np.array(cuts, np.int64))


def test_substitutions_are_as_many_as_the_branch_is_long(bases):
    tally = Tally()
    after = substitute(bases, 0.003, np.random.default_rng(1), tally=tally)
    assert (after != bases).sum() == tally.substitutions
    # 6,000 expected: 4 standard deviations are 5 %; one change per site at most takes away 1 %.
    assert tally.substitutions == pytest.approx(0.003 * len(bases), rel=0.06)
    assert tally.transitions / (tally.substitutions - tally.transitions) == pytest.approx(TRANSITION_RATIO, rel=0.12)


def test_cpg_rates_against_other_sites(bases):
    rates = Rates.scaled_to(states_of(bases))
    assert rates.transition[5] / rates.transition[1] == pytest.approx(CPG_TRANSITIONS)
    assert rates.transversion[6] / rates.transversion[2] == pytest.approx(CPG_TRANSVERSIONS)
    counts = np.bincount(states_of(bases), minlength=8)
    assert (rates.transition + rates.transversion) @ counts / counts.sum() == pytest.approx(1)
    after = substitute(bases, 0.002, np.random.default_rng(2))
    transition = (after ^ bases) == 2
    cpg = in_cpg(bases)
    elsewhere = ~cpg & np.isin(bases, (1, 2))
    ratio = transition[cpg].mean() / transition[elsewhere].mean()
    assert ratio == pytest.approx(CPG_TRANSITIONS, rel=0.15)


def test_context_is_that_of_the_neighbours():
    codes = np.array([1, 2, 2, 1, 1, 2, 3], np.uint8)
    assert in_cpg(codes).tolist() == [True, True, False, False, True, True, False]
    assert states_of(codes).tolist() == [5, 6, 2, 1, 5, 6, 3]


def test_a_base_that_was_not_there_does_not_change(bases):
    exposure = np.zeros(len(bases), np.float32)
    exposure[: len(bases) // 2] = 1
    after = substitute(bases, 0.01, np.random.default_rng(3), exposure=exposure)
    assert (after != bases)[: len(bases) // 2].sum() > 5_000
    assert not (after != bases)[len(bases) // 2 :].any()


def test_a_transition_keeps_purines_purines(bases):
    tally = Tally()
    after = substitute(bases, 0.003, np.random.default_rng(4), tally=tally)
    assert ((after ^ bases) == 2).sum() == tally.transitions


def test_indels_by_number_kind_and_length(bases):
    columns, tally = ColumnCounter(), Tally()
    before = lineage_of(bases, columns)
    after = indels(before, 0.02, np.random.default_rng(5), columns, tally=tally)
    events = tally.insertions + tally.deletions
    assert events == pytest.approx(INDELS_PER_SUBSTITUTION * 0.02 * len(bases), rel=0.06)
    assert tally.deletions / tally.insertions == pytest.approx(2, rel=0.12)
    assert indel_exponent(tally.indel_lengths) == pytest.approx(INDEL_EXPONENT, abs=0.06)
    assert tally.indel_lengths.sum() == events
    # What is left of the old sequence is where its columns say.
    old = after.column < len(bases)
    assert (after.codes[old] == bases[after.column[old]]).all()
    assert (np.diff(after.column[old]) > 0).all()
    assert int((~old).sum()) == columns.total - len(bases)
    assert len(np.unique(after.column)) == len(after)


def test_indels_at_the_very_ends_and_on_a_tiny_chromosome():
    columns = ColumnCounter()
    for seed in range(50):
        before = lineage_of(np.array([0, 1, 2, 3] * 5, np.uint8), columns)
        after = indels(before, 2.0, np.random.default_rng(seed), columns)
        assert len(after.codes) == len(after.masked) == len(after.column)
        assert len(after) >= 1


def test_steps_make_up_the_branch():
    for length in (1e-5, 0.004, 0.0161):
        steps = list(steps_of(length))
        assert sum(step for step, _, _ in steps) == pytest.approx(length)
        assert steps[0][1] == 0
        assert steps[-1][2] == 1
        assert max(step for step, _, _ in steps) <= 0.004 + 1e-12


def test_splice_against_a_list():
    rng = np.random.default_rng(11)
    for _ in range(200):
        size, count = int(rng.integers(1, 30)), int(rng.integers(0, 6))
        columns = ColumnCounter()
        cuts = np.sort(rng.integers(0, size + 1, 3))
        before = lineage_of(rng.integers(0, 4, size).astype(np.uint8), columns, cuts)
        keep = rng.random(size) < 0.7
        at = np.sort(rng.integers(0, size + 1, count))
        lengths = rng.integers(0, 4, count)
        codes = rng.integers(0, 4, lengths.sum()).astype(np.uint8)
        pieces = Pieces(at, lengths, codes, np.ones(len(codes), bool), columns.take(len(codes)))
        after = splice(before, pieces, keep=keep)
        expected, blocks, boundaries = [], np.split(codes, np.cumsum(lengths)[:-1]) if count else [], {}
        for position in range(size + 1):
            boundaries[position] = len(expected)
            for piece in np.flatnonzero(at == position):
                expected += blocks[piece].tolist()
            if position < size and keep[position]:
                expected.append(int(before.codes[position]))
        assert after.codes.tolist() == expected
        assert after.cuts.tolist() == [boundaries[int(cut)] for cut in cuts]
        assert after.masked.sum() == len(codes)


def test_mosaic_takes_each_block_from_its_source():
    columns = ColumnCounter()
    first = lineage_of(np.array([0, 0, 0, 0, 0], np.uint8), columns, [2, 3])
    second = lineage_of(np.array([1, 1, 1, 1], np.uint8), columns, [1, 3])
    joined = mosaic(first, second, np.array([True, False, True]))
    assert joined.codes.tolist() == [0, 0, 1, 1, 0, 0]
    assert joined.column.tolist() == [0, 1, 6, 7, 3, 4]


def test_measure_counts_columns_by_hand():
    def lineage(codes, column):
        return Lineage(
            np.array(codes, np.uint8), np.zeros(len(codes), bool), np.array(column, np.int32), np.zeros(0, int)
        )

    # Column 5 is a marker's; column 3 is absent from the second.
    first = lineage([0, 1, 2, 3, 3, 0], [0, 1, 2, 3, 5, 4])
    second = lineage([2, 1, 1, 1, 0], [0, 1, 2, 5, 4])
    owner = np.array([-1, -1, -1, -1, -1, 0], np.int32)
    result = measure({"one": first, "two": second}, owner)
    pair = result.pairs["one-two"]
    assert (pair.aligned, pair.differing, pair.transitions) == (4, 2, 1)
    assert (pair.cpg, pair.cpg_differing) == (2, 1)
    assert result.bases["one"].tolist() == [2, 1, 1, 1]
    assert result.marker_bases == {"one": 1, "two": 1}
    result.add(measure({"one": first, "two": second}, owner))
    assert result.pairs["one-two"].aligned == 8
    assert result.length["one"] == 12


def test_kimura_distance_undoes_repeated_changes():
    # 10 % transitions and 5 % transversions: -0.5 ln(0.75 sqrt(0.9)) = 0.17018.
    counts = PairCounts(aligned=1000, differing=150, transitions=100)
    assert counts.as_json()["kimura"] == pytest.approx(0.17018, abs=1e-5)
