"""The cache of simulated genomes and synthesized sounds: each configuration is made once per machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from seqdomains.audio import synthesis
from seqdomains.audio.synthesis import SynthesisConfig, synthesize
from seqdomains.audio.synthesis.write import record_of
from seqdomains.errors import ConfigError, InputError
from seqdomains.files import cache_folder
from seqdomains.genomics import simulate as simulator
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.language_data import LanguageData
from seqdomains.genomics.simulate import SimulationConfig, simulate
from seqdomains.pipelines.progress import progress_display

logger = logging.getLogger(__name__)

Data = TypeVar("Data", SpeciesData, LanguageData)
_ASSEMBLIES: Final = (
    "for real ones run genomics fetch, or give --data DIR, a folder with one FASTA per species, named after the "
    "species or its assembly (human.fa, mPanTro3.fa.gz)"
)


def simulation_key(config: SimulationConfig) -> str:
    """Name a simulation by its settings and by the simulator's source, so that a changed simulator starts afresh.

    Examples
    --------
    >>> simulation_key(SimulationConfig(seed=1)) == simulation_key(SimulationConfig(seed=2))
    False
    """
    digest = hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode())
    for path in sorted(Path(simulator.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def simulated_genomes(config: SimulationConfig, *, progress: bool = True) -> Path:
    """Return the folder of the simulated genomes, simulating them on first use.

    Parameters
    ----------
    config : SimulationConfig
        What to simulate.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    Path
        Folder with `<species>.fa` and the truth about each marker.

    Raises
    ------
    InputError
        The cache cannot be written.
    """

    def make(folder: Path) -> None:
        with progress_display("simulate", total=len(config.chromosomes), enabled=progress) as show:
            simulate(config, folder, progress=lambda done, total: show(done, "chromosomes", False))

    return _made_once(cache_folder() / "simulated" / f"great-apes-{simulation_key(config)}", make)


def with_genomes(data: Data, *, instead: str = _ASSEMBLIES) -> Data:
    """Point the data at simulated genomes where no real ones are given; `instead` says how to give some."""
    if data.paths:
        return data
    logger.info("no sequences given: working on SIMULATED great apes; %s", instead)
    return data.model_copy(update={"paths": (simulated_genomes(data.simulation or SimulationConfig()),)})


def refuse_short_genomes(data: SpeciesData | LanguageData) -> None:
    """Refuse windows that no chromosome of a simulation can hold, before it is made.

    Chromosomes grow and shrink as they evolve: what is nearly as long as one is left to whoever cuts the windows.

    Raises
    ------
    ConfigError
        There are no real sequences, and the window is over twice as long as the chromosomes begin.

    Examples
    --------
    >>> refuse_short_genomes(LanguageData(window=1024, simulation=SimulationConfig(chromosome_length=10_000)))
    """
    length = (data.simulation or SimulationConfig()).chromosome_length
    whole = isinstance(data, SpeciesData) and data.unit == "record"
    if not data.paths and not whole and data.window > 2 * length:
        raise ConfigError(
            f"data.window: {data.window} bp are more than the simulated chromosomes have, about {length} bp: give "
            "--set data.simulation.chromosome_length, or shorter windows"
        )


def synthesized_clips(config: SynthesisConfig, *, progress: bool = True) -> Path:
    """Return the folder of synthesized clips, making them on first use.

    Parameters
    ----------
    config : SynthesisConfig
        What to synthesize.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    Path
        Folder with `manifest.jsonl`.

    Raises
    ------
    InputError
        The cache cannot be written, or what plays the piano is not installed.
    """
    digest = hashlib.sha256(json.dumps(record_of(config), sort_keys=True).encode())
    for path in sorted(Path(synthesis.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())

    def make(folder: Path) -> None:
        with progress_display("synthesize", total=None, enabled=progress) as show:
            synthesize(config, folder, progress=lambda done, total: show(done, f"of {total} clips", False))

    return _made_once(cache_folder() / "synthesized" / f"{config.kind}-{digest.hexdigest()[:16]}", make)


def _made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two commands that start together must not replace a folder that the other reads.
        with folder.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():
                logger.info("made before: %s", folder)
            else:
                logger.info("making %s", folder)
                make(folder)
    except OSError as error:
        raise InputError(
            f"cannot write the cache folder {folder.parent}: {error.strerror or error}; set SEQDOMAINS_CACHE to another"
        ) from error
    return folder
