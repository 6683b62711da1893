"""The commands `seqdomains genomics pretrain`, `likelihood` and `generate`: language models of DNA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqdomains.cli.options import DEVICE, PRESET, SET


def register(app: typer.Typer) -> None:
    """Add the commands to those of genomics."""
    app.command(short_help="Train a language model of DNA and score it.")(pretrain)


def pretrain(
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="FASTA or GenBank file, or a folder of them. Repeatable.", metavar="FASTA|DIR"),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            "--regions",
            help="Only these intervals; a fourth column of train, valid and test is the split.",
            metavar="BED",
        ),
    ] = None,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Run folder; runs/PRESET-DATE-TIME if not given. An unfinished run there goes on.",
            metavar="DIR",
        ),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what it would take: parameters, tokens a step, memory, time.")
    ] = False,
) -> None:
    """Train on sequences without labels (SIMULATED great apes unless --data gives some) to predict each next base.

    With --set objective=masked hidden bases are asked. The result is in bits per base of held-out windows, beside an
    interpolated Markov model; --set data.held=[chr2] holds out what you name. Repeat the command with the same --out to
    go on with a run that was stopped.
    """
    from seqdomains.cli.language import run_pretrain

    run_pretrain(
        data=data or [],
        regions=regions,
        preset=preset,
        settings=settings or [],
        out=out,
        device=device,
        only_estimate=dry_run,
    )
