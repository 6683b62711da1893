"""The simulation as a whole: all chromosomes, written atomically."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from seqdomains.cores import usable_cores
from seqdomains.errors import InputError
from seqdomains.files import atomic_folder
from seqdomains.genomics.simulate.chromosome import Chromosome, simulate_chromosome
from seqdomains.genomics.simulate.config import SimulationConfig
from seqdomains.genomics.simulate.evolve import Tally
from seqdomains.genomics.simulate.markers import RATE_PER_MB
from seqdomains.genomics.simulate.measure import Measures, tally_json
from seqdomains.genomics.simulate.satellites import CAP_SHARE
from seqdomains.genomics.simulate.tree import PATHS, discordance, published_distance
from seqdomains.genomics.simulate.write import append_chromosome, write_json

RECORD = "simulation.json"
FORMAT_VERSION = 1


def _refuse_foreign_folder(folder: Path) -> None:
    """Let an earlier simulation be replaced, and nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; the simulation needs a folder of its own: choose another path")
    ours = {
        path
        for pattern in ("*.fa", "*.fai", "markers.*.bed", "constrained.*.bed", RECORD)
        for path in folder.glob(pattern)
    }
    others = sorted(path.name for path in set(folder.iterdir()) - ours)
    if others:
        raise InputError(
            f"{folder} holds {others[0]!r}, which no simulation wrote, and the folder would be replaced as a whole; "
            "choose an empty or new one"
        )


def simulate(
    config: SimulationConfig,
    folder: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Simulate great-ape genomes into a folder, whole or not at all.

    The folder holds per species `<species>.fa` (60 columns, repeats in lower case, contigs `chr<hsa>`), its `.fai` and
    `markers.<species>.bed` (contig, start, end, branch/family/subfamily, identity to the inserted copy in
    thousandths, strand; 0-based half-open), and `simulation.json`: settings, rates, and what was realised. With a
    constraint there is `constrained.<species>.bed` too (contig, start, end, motif, intact letters in thousandths,
    strand).

    Parameters
    ----------
    config : SimulationConfig
        What to simulate. The bytes depend on it alone, not on `workers`.
    folder : Path
        Where to write. An earlier simulation there is replaced; a folder that holds anything else is refused.
    workers : int, optional
        Threads, one chromosome each; by default the number of usable cores. Each takes about 110 bytes per bp.
    progress : callable, optional
        Called with the number of chromosomes written and the number of all.

    Raises
    ------
    InputError
        If the folder cannot be written or holds files of another kind.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "apes"
    >>> simulate(SimulationConfig(species=("human", "bonobo"), chromosomes=(5,), chromosome_length=20_000), folder)
    >>> sorted(path.name for path in folder.iterdir())[:3]
    ['bonobo.fa', 'bonobo.fa.fai', 'human.fa']
    """
    folder = folder.resolve()
    threads = min(workers or usable_cores(), len(config.chromosomes))
    try:
        _refuse_foreign_folder(folder)
        with atomic_folder(folder) as partial, ThreadPoolExecutor(threads) as pool:
            _write_all(config, partial, pool, progress)
    except OSError as error:
        raise InputError(
            f"cannot write the simulation to {folder}: {error.strerror or error}; "
            "choose a folder that you may write to, with room for it"
        ) from error


def _write_all(
    config: SimulationConfig,
    folder: Path,
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None] | None,
) -> None:
    total = Totals()
    pending = deque(pool.submit(simulate_chromosome, config, hsa) for hsa in config.chromosomes)
    try:
        while pending:
            chromosome = pending.popleft().result()
            append_chromosome(folder, chromosome, constrained=config.constraint is not None)
            total.add(chromosome)
            if progress is not None:
                progress(len(config.chromosomes) - len(pending), len(config.chromosomes))
    finally:
        for future in pending:
            future.cancel()
    write_json(folder / RECORD, total.record(config))


class Totals:
    """What all chromosomes together realised."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.measures = Measures()
        self.insertions: dict[str, dict[str, int]] = {}
        self.exposed_mb: dict[str, float] = {}
        self.cap_bases: dict[str, int] = {}
        self.rejected: Counter[str] = Counter()
        self.constrained: Counter[str] = Counter()

    def add(self, chromosome: Chromosome) -> None:
        """Add one chromosome."""
        self.tally.add(chromosome.tally)
        self.measures.add(chromosome.measures)
        self.rejected.update(chromosome.rejected)
        for branch, families in chromosome.insertions.items():
            mine = self.insertions.setdefault(branch, {})
            for family, count in families.items():
                mine[family] = mine.get(family, 0) + count
        for branch, length in chromosome.exposed_mb.items():
            self.exposed_mb[branch] = self.exposed_mb.get(branch, 0.0) + length
        for species, item in chromosome.species.items():
            caps = sum(row.end - row.start for row in item.markers if row.branch == "cap")
            self.cap_bases[species] = self.cap_bases.get(species, 0) + caps
            self.constrained[species] += len(item.constrained)

    def record(self, config: SimulationConfig) -> dict[str, Any]:
        """Return the content of `simulation.json`."""
        branches = {branch: rate * config.density for branch, rate in RATE_PER_MB.items() if branch in self.insertions}
        pairs = {
            pair: {"published": published_distance(*pair.split("-")), **counts.as_json()}
            for pair, counts in self.measures.pairs.items()
        }
        species = {}
        for name in config.species:
            facts = self.measures.composition(name)
            old = facts["length"] - facts["marker_bases"]
            species[name] = {
                **facts,
                "length": facts["length"] + self.cap_bases[name],
                "cap_share": self.cap_bases[name] / (facts["length"] + self.cap_bases[name]),
                "expansion": facts["length"] / old,
            }
        constraint = {"instances": dict(self.constrained), "rejected": dict(self.rejected)}
        return {
            "format_version": FORMAT_VERSION,
            "simulated": True,
            # Without a constraint the bytes are those of before there was any.
            "config": config.model_dump(mode="json", exclude_none=True),
            "rates": {
                "markers_per_mb": branches,
                "branches": {name: [b for b in PATHS[name] if b in branches] for name in config.species},
                "cap_share": {name: CAP_SHARE.get(name, 0.0) for name in config.species},
                "discordance": discordance(),
            },
            "realised": {
                "species": species,
                "pairs": pairs,
                "events": tally_json(self.tally),
                "markers": self.insertions,
                "expected_markers": {branch: rate * self.exposed_mb[branch] for branch, rate in branches.items()},
                **({"constraint": constraint} if config.constraint is not None else {}),
            },
        }
