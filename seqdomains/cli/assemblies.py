"""What `genomics fetch` does, and the real assemblies that `genomics train` finds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import cache_folder
from seqdomains.genomics.assemblies import Shelf, fetched_genomes
from seqdomains.genomics.registry import Assembly, AssemblySet, check_address, read_registry
from seqdomains.genomics.species import SPECIES_NAMES, find_species
from seqdomains.pipelines import progress

logger = logging.getLogger(__name__)

_MILESTONES = 10  # log lines of a stage where there is no terminal
_MEGABYTE = 1_000_000


def assemblies_folder(chosen_set: str) -> Path:
    """Return where the assemblies of a set of the registry are kept unless --out names another folder."""
    return cache_folder() / "assemblies" / chosen_set


def run_fetch(
    species: str,
    *,
    chosen_set: str | None,
    only: Sequence[str],
    base_url: str | None,
    registry: Path | None,
    out: Path | None,
    dry_run: bool,
) -> None:
    """Fetch the assemblies of a set that are not here yet, and print where they are."""
    name, found = _set(read_registry(registry), chosen_set, registry)
    if registry is not None and out is None:
        raise ConfigError("--registry goes with --out: name the folder of your own assemblies")
    chosen = found.chosen(only)
    _refuse_other_species(chosen)
    try:
        address = check_address(base_url if base_url is not None else found.base_url)
    except ValueError as error:
        raise ConfigError(f"--base-url: {error}") from None
    folder = out or assemblies_folder(name)
    if dry_run:
        shelf = Shelf(folder, address)
        sys.stdout.write("#assembly\tspecies\taccession\tfrom\tto\tstate\n")
        for assembly in chosen:
            words = (assembly.name, assembly.species, assembly.accession or "", f"{address}/{assembly.folder}/")
            sys.stdout.write("\t".join((*words, str(shelf.genome(assembly)), shelf.state(assembly))) + "\n")
        return
    missing = 0
    with closing(_Stages()) as show:
        shelf = Shelf(folder, address, show=show)
        with shelf.locked():
            for assembly in chosen:
                try:
                    sys.stdout.write(f"{assembly.species}\t{shelf.fetch(assembly)}\n")
                except InputError as error:
                    missing += 1
                    logger.warning("not fetched: %s: %s", assembly.stem, error)
    if missing:
        raise InputError(f"{missing} of {len(chosen)} assemblies not fetched: mend what the warnings name, and repeat")
    if not only:
        data = f" --data {out}" if out else ""
        logger.info("train on them with `seqdomains genomics train --species %s%s`", species, data)


def real_assemblies(sources: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the fetched genomes of all great apes, of the first set that is whole; else nothing.

    Parameters
    ----------
    sources : mapping of str to str
        Where the values of a configuration came from. Whoever says data.paths, or --set of the simulation, has chosen.
    """
    if "data.paths" in sources or any(
        key.startswith("data.simulation") and source == "--set" for key, source in sources.items()
    ):
        return ()
    begun = []
    for name, found in read_registry().items():
        folder = assemblies_folder(name)
        genomes = fetched_genomes(folder, found)
        if set(genomes) >= set(SPECIES_NAMES):
            logger.info("working on the REAL assemblies in %s; --set data.paths=[] takes SIMULATED ones", folder)
            return tuple(genomes[species] for species in SPECIES_NAMES)
        if genomes:
            begun.append(f"{folder} has {', '.join(sorted(genomes))}")
    if begun:
        logger.warning("%s: too few for great apes; `seqdomains genomics fetch` brings the others", "; ".join(begun))
    return ()


def _refuse_other_species(chosen: Sequence[Assembly]) -> None:
    """Refuse what `train` would not recognise by the name of its file."""
    problems = []
    for assembly in chosen:
        try:
            recognised = find_species(assembly.stem)
        except InputError as error:
            problems.append(f"--registry: {error}")
            continue
        if recognised is None or recognised.name != assembly.species:
            problems.append(f"--registry: {assembly.species!r} is none of the species {', '.join(SPECIES_NAMES)}")
    if problems:
        raise ConfigError(problems)


def _set(sets: dict[str, AssemblySet], chosen: str | None, registry: Path | None) -> tuple[str, AssemblySet]:
    if chosen is None and registry is not None and len(sets) > 1:
        raise ConfigError(f"--assemblies: --registry {registry} has {', '.join(sets)}; choose one of them")
    name = next(iter(sets)) if chosen is None else chosen
    if name not in sets:
        raise ConfigError(f"--assemblies {name}: no such set of assemblies; there are {', '.join(sets)}")
    return name, sets[name]


class _Stages:
    """Shows one stage after the other, in MB."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._stage = ""
        self._milestone = -1
        self._display: progress.Show

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Tell that `done` of `total` bytes of a stage are done."""
        if stage != self._stage:
            self.close()
            self._stage, self._milestone = stage, -1
            if total is None:
                logger.info("%s", stage)
            else:
                self._display = self._open.enter_context(
                    progress.progress_display(stage, total=total // _MEGABYTE, start=done // _MEGABYTE)
                )
        if total is not None:
            reached = done * _MILESTONES // max(1, total)
            self._display(done // _MEGABYTE, "MB", reached != self._milestone)
            self._milestone = reached

    def close(self) -> None:
        """End the stage that is shown."""
        self._open.close()
