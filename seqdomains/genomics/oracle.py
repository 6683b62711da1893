"""The marker oracle: the best accuracy reachable by someone who sees the simulator's true markers in each window.

For a window the oracle knows how many markers of each branch overlap it, whether it lies in a subterminal cap, and how
many of its bases, m Mb, are neither. Insertions are a Poisson process on the sequence that is not a marker, so for a
class s whose path from the root holds the branches P(s), with rates r per Mb,

    log p(window | s) = log p(cap | s) - log e(s) + sum over b in P(s) of (n_b log r_b - r_b m),

and minus infinity if a marker of any other branch is there. e(s) is the factor by which markers lengthen the genome of
s: the longer the rest, the rarer a window that starts here. p(cap | s) counts the start positions in the genome of s
that give a window with as much cap. Priors are uniform. The oracle names the class of the largest posterior; ties are
split evenly.

It knows nothing of substitutions, indels and composition, which tell almost nothing of the species at loci never seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.simulate.run import RECORD

Window = tuple[str, str, int, int]
"""Species, contig, start and end, 0-based half-open."""

# Log-likelihoods closer than this are a tie: they are sums of a few dozen terms of order 1 to 100.
TIE = 1e-9


@dataclass(frozen=True)
class OracleResult:
    """What the oracle reaches.

    Parameters
    ----------
    classes : tuple of str
        In the order of the columns of `posterior`.
    accuracy : float
        Share of the windows that it names rightly, ties split evenly.
    per_class : dict of str to float
        The same by true class; classes without windows are left out.
    posterior : ndarray of float64, shape (n, classes)
        Probability of each class, window by window.
    marked : float
        Share of the windows that a marker or a cap overlaps.
    """

    classes: tuple[str, ...]
    accuracy: float
    per_class: dict[str, float]
    posterior: NDArray[np.float64]
    marked: float


@dataclass(frozen=True)
class _Contig:
    length: int
    starts: dict[str, NDArray[np.int64]]
    ends: dict[str, NDArray[np.int64]]
    caps: NDArray[np.int64]
    knots: NDArray[np.float64]
    covered: NDArray[np.float64]

    def overlapping(self, branch: str, start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the markers of a branch that overlap each window."""
        none = np.zeros(0, np.int64)
        begun = np.searchsorted(self.starts.get(branch, none), end, side="left")
        over = np.searchsorted(self.ends.get(branch, none), start, side="right")
        return np.asarray(begun - over, np.int64)

    def marker_bases(self, start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.float64]:
        """Count the bases of each window that lie in a marker or a cap."""
        return np.asarray(np.interp(end, self.knots, self.covered) - np.interp(start, self.knots, self.covered))


def _merge(intervals: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the covered length up to a position as a piecewise linear function: its knots and its values there."""
    ordered = intervals[np.argsort(intervals[:, 0], kind="stable")]
    if len(ordered) == 0:
        return np.zeros(1), np.zeros(1)
    reach = np.maximum.accumulate(ordered[:, 1])
    opens = np.concatenate(([True], ordered[1:, 0] > reach[:-1]))
    starts, ends = ordered[opens, 0], reach[np.append(np.flatnonzero(opens)[1:] - 1, len(ordered) - 1)]
    after = np.cumsum(ends - starts)
    knots = np.stack([starts, ends], axis=1).ravel().astype(np.float64)
    return knots, np.stack([after - (ends - starts), after], axis=1).ravel().astype(np.float64)


def _read_contigs(folder: Path, species: str) -> dict[str, _Contig]:
    index, bed = folder / f"{species}.fa.fai", folder / f"markers.{species}.bed"
    for path in (index, bed):
        if not path.is_file():
            raise InputError(f"{path} is missing; the oracle needs a folder as `genomics simulate` writes it")
    lengths = {row[0]: int(row[1]) for row in (line.split("\t") for line in index.read_text().splitlines())}
    rows: dict[str, list[tuple[int, int, str]]] = {name: [] for name in lengths}
    for line in bed.read_text().splitlines():
        contig, start, end, name = line.split("\t")[:4]
        rows[contig].append((int(start), int(end), name.split("/")[0]))
    contigs = {}
    for contig, found in rows.items():
        by_branch: dict[str, list[tuple[int, int]]] = {}
        for start_, end_, branch in found:
            by_branch.setdefault(branch, []).append((start_, end_))
        arrays = {branch: np.array(items, np.int64).reshape(-1, 2) for branch, items in by_branch.items()}
        empty = np.zeros((0, 2), np.int64)
        knots, covered = _merge(np.concatenate([empty, *arrays.values()]))
        contigs[contig] = _Contig(
            length=lengths[contig],
            starts={branch: np.sort(items[:, 0]) for branch, items in arrays.items()},
            ends={branch: np.sort(items[:, 1]) for branch, items in arrays.items()},
            caps=arrays.get("cap", empty),
            knots=knots,
            covered=covered,
        )
    return contigs


@dataclass(frozen=True)
class _Seen:
    """What the oracle sees of each window."""

    counts: NDArray[np.int64]
    plain_mb: NDArray[np.float64]
    cap: NDArray[np.int64]
    length: NDArray[np.int64]


def _look(windows: Sequence[Window], genomes: dict[str, dict[str, _Contig]], branches: Sequence[str]) -> _Seen:
    start = np.array([window[2] for window in windows], np.int64)
    end = np.array([window[3] for window in windows], np.int64)
    counts = np.zeros((len(windows), len(branches)), np.int64)
    plain = np.zeros(len(windows))
    cap = np.zeros(len(windows), np.int64)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, (species, name, _, _) in enumerate(windows):
        groups.setdefault((species, name), []).append(index)
    for (species, name), members in groups.items():
        at = np.array(members)
        contig = genomes[species].get(name)
        if contig is None:
            raise InputError(f"a window lies on {name}, which {species} has not; it has {', '.join(genomes[species])}")
        if (start[at] < 0).any() or (end[at] > contig.length).any() or (end[at] <= start[at]).any():
            raise InputError(f"a window on {name} of {species} is empty or leaves the contig (0 to {contig.length})")
        for column, branch in enumerate(branches):
            counts[at, column] = contig.overlapping(branch, start[at], end[at])
        plain[at] = end[at] - start[at] - contig.marker_bases(start[at], end[at])
        for left, right in contig.caps:
            cap[at] += np.maximum(np.minimum(end[at], right) - np.maximum(start[at], left), 0)
    return _Seen(counts, plain / 1e6, cap, end - start)


def _cap_likelihood(seen: _Seen, contigs: dict[str, _Contig]) -> NDArray[np.float64]:
    """Return the share of start positions in a genome that give a window with as much cap as each window has."""
    caps = np.concatenate([contig.caps for contig in contigs.values()])
    sizes = np.sort(caps[:, 1] - caps[:, 0])
    lengths = np.array([contig.length for contig in contigs.values()])
    result = np.zeros(len(seen.length))
    for size in np.unique(seen.length):
        at = np.flatnonzero(seen.length == size)
        positions = np.maximum(lengths - size + 1, 0).sum()
        inside = np.maximum(sizes - size + 1, 0).sum()
        # A window over the edge of a cap: one start position for each cap that reaches so far. More cap than any one
        # has means both ends of the contig, which every species with caps may have.
        edges = len(sizes) - np.searchsorted(sizes, seen.cap[at], side="left")
        edges = np.where(seen.cap[at] > (sizes[-1] if len(sizes) else 0), TIE * len(sizes), edges)
        touching = np.minimum(sizes, size - 1).sum() + inside
        value = np.where(seen.cap[at] == size, inside, edges)
        result[at] = np.where(seen.cap[at] == 0, np.maximum(positions - touching, 0), value) / max(positions, 1)
    return result


def _read_record(folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{folder} has no {RECORD}: only simulated genomes come with the truth an oracle needs")
    record: dict[str, Any] = json.loads(path.read_text())
    missing = [name for name in classes if name not in record["rates"]["branches"]]
    if missing:
        raise InputError(f"{missing[0]!r} is not in the simulation of {', '.join(record['rates']['branches'])}")
    return record


def marker_oracle(folder: Path, windows: Sequence[Window], classes: Sequence[str]) -> OracleResult:
    """Classify windows of simulated genomes by their true markers.

    Parameters
    ----------
    folder : Path
        As `simulate` wrote it.
    windows : sequence of (str, str, int, int)
        True species, contig, start, end; 0-based half-open.
    classes : sequence of str
        The species to choose from, a priori equally likely.

    Raises
    ------
    InputError
        If the folder is no simulation, or a window or class is not part of it.

    Examples
    --------
    >>> import tempfile
    >>> from seqdomains.genomics.simulate import SimulationConfig, simulate
    >>> folder = Path(tempfile.mkdtemp()) / "apes"
    >>> apes = ("human", "orangutan")
    >>> simulate(SimulationConfig(species=apes, chromosomes=(5,), chromosome_length=100_000, density=64), folder)
    >>> result = marker_oracle(folder, [(ape, "chr5", 0, 90_000) for ape in apes], apes)
    >>> result.accuracy, result.marked
    (1.0, 1.0)
    """
    record = _read_record(folder, classes)
    unknown = sorted({window[0] for window in windows} - set(classes))
    if unknown:
        raise InputError(f"a window is of {unknown[0]!r}, which is none of the classes {', '.join(classes)}")
    if not windows:
        raise InputError("there are no windows to score; give at least one")
    rates: dict[str, float] = record["rates"]["markers_per_mb"]
    branches = list(rates)
    genomes = {name: _read_contigs(folder, name) for name in classes}
    seen = _look(windows, genomes, branches)
    log_likelihood = np.zeros((len(windows), len(classes)))
    with np.errstate(divide="ignore"):
        for column, name in enumerate(classes):
            path = [branch in record["rates"]["branches"][name] for branch in branches]
            rate = np.array(list(rates.values()))[path]
            foreign = seen.counts[:, np.logical_not(path)].sum(axis=1) > 0
            expansion = record["realised"]["species"][name]["expansion"]
            log_likelihood[:, column] = (
                np.log(_cap_likelihood(seen, genomes[name]))
                - np.where(seen.cap == 0, np.log(expansion), 0.0)
                + seen.counts[:, path] @ np.log(rate)
                - rate.sum() * seen.plain_mb
                + np.where(foreign, -np.inf, 0.0)
            )
    return _decide(windows, tuple(classes), log_likelihood, seen)


def _decide(
    windows: Sequence[Window], classes: tuple[str, ...], log_likelihood: NDArray[np.float64], seen: _Seen
) -> OracleResult:
    best = log_likelihood.max(axis=1, keepdims=True)
    likelihood = np.exp(log_likelihood - best)
    truth = np.array([classes.index(window[0]) for window in windows])
    chosen = log_likelihood >= best - TIE
    right = chosen[np.arange(len(windows)), truth] / chosen.sum(axis=1)
    return OracleResult(
        classes=classes,
        accuracy=float(right.mean()),
        per_class={name: float(right[truth == i].mean()) for i, name in enumerate(classes) if (truth == i).any()},
        posterior=likelihood / likelihood.sum(axis=1, keepdims=True),
        marked=float(((seen.counts.sum(axis=1) > 0) | (seen.cap > 0)).mean()),
    )
