"""Writing a simulation: FASTA with index, truth BED, and the JSON of what was realised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqdomains.genomics.simulate.chromosome import Chromosome, SpeciesChromosome
from seqdomains.genomics.simulate.sequence import Codes, Flags

LINE = 60
UPPER = np.frombuffer(b"ACGT", np.uint8)


def fasta_lines(codes: Codes, masked: Flags) -> bytes:
    r"""Return bases in lines of 60, masked ones in lower case.

    Examples
    --------
    >>> fasta_lines(np.array([0, 1, 2, 3], np.uint8), np.array([False, True, True, False]))
    b'AcgT\n'
    """
    letters = UPPER[codes] + np.uint8(32) * masked.astype(np.uint8)
    whole = len(letters) // LINE * LINE
    lines = np.full((whole // LINE, LINE + 1), ord("\n"), np.uint8)
    lines[:, :LINE] = letters[:whole].reshape(-1, LINE)
    rest = letters[whole:].tobytes() + b"\n" if whole < len(letters) else b""
    return lines.tobytes() + rest


def append_chromosome(folder: Path, chromosome: Chromosome, *, constrained: bool = False) -> None:
    """Add one chromosome to the FASTA, index and BED files of all its species."""
    for species, item in chromosome.species.items():
        _append(folder, species, chromosome.hsa, item, constrained=constrained)


def _append(folder: Path, species: str, hsa: int, chromosome: SpeciesChromosome, *, constrained: bool) -> None:
    name = f"chr{hsa}"
    fasta = folder / f"{species}.fa"
    with fasta.open("ab") as handle:
        handle.write(f">{name} hsa={hsa} species={species} simulated\n".encode())
        offset = handle.tell()
        handle.write(fasta_lines(chromosome.codes, chromosome.masked))
    with fasta.with_suffix(".fa.fai").open("a") as handle:
        handle.write(f"{name}\t{len(chromosome.codes)}\t{offset}\t{LINE}\t{LINE + 1}\n")
    with (folder / f"markers.{species}.bed").open("a") as handle:
        for row in chromosome.markers:
            score = round(1000 * row.identity)
            handle.write(f"{name}\t{row.start}\t{row.end}\t{row.name}\t{score}\t{row.strand}\n")
    if constrained:
        with (folder / f"constrained.{species}.bed").open("a") as handle:
            for item in chromosome.constrained:
                score = round(1000 * item.intact)
                handle.write(f"{name}\t{item.start}\t{item.end}\t{item.motif}\t{score}\t{item.strand}\n")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the record of a simulation, numbers to 6 digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, Mapping):
            return {key: rounded(item) for key, item in value.items()}
        return [rounded(item) for item in value] if isinstance(value, list | tuple) else value

    path.write_text(json.dumps(rounded(content), indent=1) + "\n")
