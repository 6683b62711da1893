"""The marker oracle against posteriors worked out by hand, and against what it must obey."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.oracle import _merge, marker_oracle
from seqdomains.genomics.simulate import SimulationConfig, simulate

CLASSES = ("human", "chimpanzee", "bonobo", "gorilla")
RATES = {"human": 200.0, "pan": 100.0, "chimpanzee": 40.0, "bonobo": 40.0, "gorilla": 80.0}
BRANCHES = {
    "human": ["human"],
    "chimpanzee": ["pan", "chimpanzee"],
    "bonobo": ["pan", "bonobo"],
    "gorilla": ["gorilla"],
}
LENGTH = 100_000


def write_truth(folder, markers, *, expansion=None):
    """Write the part of a simulation that the oracle reads; `markers` by species: (start, end, branch)."""
    folder.mkdir(parents=True, exist_ok=True)
    species = {name: {"expansion": (expansion or {}).get(name, 1.0)} for name in CLASSES}
    record = {"rates": {"markers_per_mb": RATES, "branches": BRANCHES}, "realised": {"species": species}}
    (folder / "simulation.json").write_text(json.dumps(record))
    for name in CLASSES:
        (folder / f"{name}.fa.fai").write_text(f"chr5\t{LENGTH}\t50\t60\t61\n")
        rows = [f"chr5\t{a}\t{b}\t{branch}/Alu/Alu_{branch}\t990\t+\n" for a, b, branch in markers.get(name, [])]
        (folder / f"markers.{name}.bed").write_text("".join(rows))
    return folder


def posterior(likelihoods):
    total = sum(likelihoods)
    return pytest.approx([value / total for value in likelihoods], rel=1e-9)


def test_posteriors_by_hand(tmp_path):
    folder = write_truth(
        tmp_path / "a",
        {"human": [(5_000, 5_300, "human")], "chimpanzee": [(20_000, 20_500, "pan"), (40_000, 40_300, "chimpanzee")]},
    )
    windows = [
        ("human", "chr5", 10_000, 20_000),
        ("human", "chr5", 0, 10_000),
        ("chimpanzee", "chr5", 15_000, 25_000),
        ("chimpanzee", "chr5", 30_000, 50_000),
    ]
    result = marker_oracle(folder, windows, CLASSES)
    # Nothing seen in 10 kb: exp(-2), exp(-1.4), exp(-1.4), exp(-0.8).
    assert result.posterior[0].tolist() == posterior([math.exp(-2), math.exp(-1.4), math.exp(-1.4), math.exp(-0.8)])
    assert result.posterior[1].tolist() == [1, 0, 0, 0]
    # A marker that the two Pan species share: an even bet between them.
    assert result.posterior[2].tolist() == pytest.approx([0, 0.5, 0.5, 0])
    assert result.posterior[3].tolist() == [0, 1, 0, 0]
    # Wrong (gorilla has the fewest markers), right, half, right.
    assert result.accuracy == pytest.approx((0 + 1 + 0.5 + 1) / 4)
    assert result.per_class == {"human": 0.5, "chimpanzee": 0.75}
    assert result.marked == 0.75


def test_bases_inside_markers_are_no_opportunity(tmp_path):
    """A Pan marker fills 8 of 10 kb: the other 2 kb without a private marker tell chimpanzee from a busier bonobo."""
    folder = write_truth(tmp_path / "a", {"chimpanzee": [(1_000, 9_000, "pan"), (2_000, 3_000, "pan")]})
    record = json.loads((folder / "simulation.json").read_text())
    record["rates"]["markers_per_mb"]["bonobo"] = 140.0
    (folder / "simulation.json").write_text(json.dumps(record))
    result = marker_oracle(folder, [("chimpanzee", "chr5", 0, 10_000)], CLASSES)
    ratio = result.posterior[0, 2] / result.posterior[0, 1]
    assert ratio == pytest.approx(math.exp(-(140 - 40) * 0.002))
    assert result.accuracy == 1


def test_expansion_thins_out_the_rest(tmp_path):
    folder = write_truth(tmp_path / "a", {}, expansion={"human": 1.25})
    result = marker_oracle(folder, [("human", "chr5", 0, 10_000)], CLASSES)
    weights = [math.exp(-2) / 1.25, math.exp(-1.4), math.exp(-1.4), math.exp(-0.8)]
    assert result.posterior[0].tolist() == posterior(weights)


def test_caps_count_start_positions(tmp_path):
    caps = {"gorilla": [(0, 9_000, "cap"), (92_000, 100_000, "cap")], "bonobo": [(0, 5_000, "cap")]}
    folder = write_truth(tmp_path / "a", caps)
    windows = [
        ("gorilla", "chr5", 100, 1_100),
        ("bonobo", "chr5", 4_500, 5_500),
        ("gorilla", "chr5", 50_000, 51_000),
        ("gorilla", "chr5", 95_000, 96_000),
    ]
    result = marker_oracle(folder, windows, CLASSES)
    # Inside: 8,001 + 7,001 positions in gorilla, 4,001 in bonobo, none elsewhere.
    inside = posterior([0, 0, 4_001, 15_002])
    assert result.posterior[0].tolist() == inside
    assert result.posterior[3].tolist() == inside
    # Over an edge with 500 bp of cap: two caps reach so far in gorilla, one in bonobo; 500 bp of other sequence.
    assert result.posterior[1].tolist() == posterior([0, 0, math.exp(-140 * 5e-4), 2 * math.exp(-80 * 5e-4)])
    # No cap: 99,001 positions less those that touch one.
    free = [99_001, 99_001, 99_001 - 5_000, 99_001 - 17_000]
    weights = [count * math.exp(-rate * 1e-3) for count, rate in zip(free, (200, 140, 140, 80), strict=True)]
    assert result.posterior[2].tolist() == posterior(weights)
    assert result.marked == 0.75


def test_both_ends_of_a_short_contig(tmp_path):
    """More cap than any single one has: the window holds both ends, which speaks for a species with caps."""
    folder = write_truth(tmp_path / "a", {"gorilla": [(0, 9_000, "cap"), (92_000, 100_000, "cap")]})
    result = marker_oracle(folder, [("gorilla", "chr5", 0, LENGTH)], CLASSES)
    assert result.posterior[0].tolist() == [0, 0, 0, 1]


def test_ties_are_split_evenly(tmp_path):
    folder = write_truth(tmp_path / "a", {name: [(500, 800, "pan")] for name in ("chimpanzee", "bonobo")})
    windows = [("chimpanzee", "chr5", 0, 1_000), ("bonobo", "chr5", 0, 1_000), ("bonobo", "chr5", 400, 900)]
    result = marker_oracle(folder, windows, ("bonobo", "human", "chimpanzee"))
    assert result.accuracy == 0.5
    assert result.per_class == {"bonobo": 0.5, "chimpanzee": 0.5}
    assert result.classes == ("bonobo", "human", "chimpanzee")


def test_overlap_is_half_open(tmp_path):
    folder = write_truth(tmp_path / "a", {"human": [(5_000, 5_300, "human")]})
    spans = [(4_000, 5_000), (4_000, 5_001), (5_299, 6_000), (5_300, 6_000)]
    result = marker_oracle(folder, [("human", "chr5", a, b) for a, b in spans], CLASSES)
    assert (result.posterior[:, 0] == 1).tolist() == [False, True, True, False]


def test_merged_cover_against_counting():
    rng = np.random.default_rng(0)
    for _ in range(100):
        starts = rng.integers(0, 80, int(rng.integers(0, 6)))
        intervals = np.stack([starts, starts + rng.integers(1, 20, len(starts))], axis=1)
        inside = np.zeros(101, bool)
        for a, b in intervals:
            inside[a:b] = True
        knots, covered = _merge(intervals)
        expected = np.concatenate(([0], np.cumsum(inside)))
        assert np.interp(np.arange(102), knots, covered).tolist() == expected.tolist()


def test_bad_requests_are_refused(tmp_path):
    folder = write_truth(tmp_path / "a", {})
    window = [("human", "chr5", 0, 1_000)]
    with pytest.raises(InputError, match="only simulated genomes"):
        marker_oracle(tmp_path, window, CLASSES)
    with pytest.raises(InputError, match="'orangutan' is not in the simulation"):
        marker_oracle(folder, window, ("human", "orangutan"))
    with pytest.raises(InputError, match="'human', which is none of the classes"):
        marker_oracle(folder, window, ("gorilla",))
    with pytest.raises(InputError, match="chr6"):
        marker_oracle(folder, [("human", "chr6", 0, 10)], CLASSES)
    for start, end in ((-1, 5), (5, 5), (0, LENGTH + 1)):
        with pytest.raises(InputError, match="leaves the contig"):
            marker_oracle(folder, [("human", "chr5", start, end)], CLASSES)
    with pytest.raises(InputError, match="no windows"):
        marker_oracle(folder, [], CLASSES)
    (folder / "markers.human.bed").unlink()
    with pytest.raises(InputError, match=r"markers\.human\.bed is missing"):
        marker_oracle(folder, window, CLASSES)


@pytest.fixture(scope="module")
def simulations(tmp_path_factory):
    folders = {}
    for density in (16, 64):
        folders[density] = tmp_path_factory.mktemp("oracle") / str(density)
        simulate(SimulationConfig(chromosome_length=700_000, density=density), folders[density])
    return folders


def draw(folder, size, count=3_000):
    classes = SimulationConfig().species
    rng = np.random.default_rng(size)
    windows = []
    for index in range(count):
        species = classes[index % len(classes)]
        rows = [line.split("\t") for line in (folder / f"{species}.fa.fai").read_text().splitlines()]
        contig, length = rows[int(rng.integers(len(rows)))][:2]
        start = int(rng.integers(0, int(length) - size + 1))
        windows.append((species, contig, start, start + size))
    return windows, classes


def reach(folder, size):
    return marker_oracle(folder, *draw(folder, size))


def test_posterior_is_calibrated(simulations):
    """Of windows given to a class with probability p, a share p is of that class."""
    for size in (4_096, 16_384):
        windows, classes = draw(simulations[64], size)
        result = marker_oracle(simulations[64], windows, classes)
        assert result.accuracy == pytest.approx(result.posterior.max(axis=1).mean(), abs=0.035)
        truth = np.array([[window[0] == name for name in classes] for window in windows])
        for low, high in ((0.0, 0.05), (0.1, 0.3), (0.3, 0.6), (0.9, 1.01)):
            given = (result.posterior >= low) & (result.posterior < high)
            assert truth[given].mean() == pytest.approx(result.posterior[given].mean(), abs=0.06)


def test_density_is_length(simulations):
    """Four times as many markers per base in a quarter of the bases are as many markers.

    Not quite: markers themselves are as long as before, so a shorter window meets some more; measured 0.02 to 0.03.
    """
    for size in (4_096, 8_192):
        dense, long = reach(simulations[64], size), reach(simulations[16], 4 * size)
        assert dense.accuracy == pytest.approx(long.accuracy + 0.025, abs=0.05)


def test_longer_and_denser_tell_more(simulations):
    by_length = [reach(simulations[64], size).accuracy for size in (256, 2_048, 16_384, 65_536)]
    assert by_length == sorted(by_length)
    assert 0.2 < by_length[0] < 0.35
    assert by_length[-1] > 0.9
    assert reach(simulations[16], 4_096).accuracy < reach(simulations[64], 4_096).accuracy
