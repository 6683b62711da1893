"""The command `seqdomains genomics fetch`: what it takes; what it does is in `assemblies.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqdomains.cli.genomics import SPECIES, SpeciesSet


def fetch(
    species: Annotated[SpeciesSet, SPECIES] = SpeciesSet.GREAT_APES,
    assemblies: Annotated[
        str | None, typer.Option("--assemblies", help="t2t (default) or ucsc; a set of --registry.", metavar="SET")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A species or an assembly. Repeatable.", metavar="NAME")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url", help="A mirror: what the addresses begin with in place of the set's.", metavar="URL"
        ),
    ] = None,
    registry: Annotated[
        Path | None, typer.Option("--registry", help="Assemblies of your own, with --out.", metavar="YAML")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the assemblies; in the cache if not given.", metavar="DIR"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be fetched, from where.")] = False,
) -> None:
    """Fetch real assemblies: about 1 GB each, checked against the provider's sums, as bgzip with their indexes.

    Repeat the command to go on with what was stopped. `genomics train --species great-apes` uses what is here.
    """
    from seqdomains.cli.assemblies import run_fetch

    run_fetch(
        species.value,
        chosen_set=assemblies,
        only=only or [],
        base_url=base_url,
        registry=registry,
        out=out,
        dry_run=dry_run,
    )
