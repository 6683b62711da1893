"""The commands `seqdomains genomics pretrain`, `likelihood` and `generate`: language models of DNA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqdomains.cli.genomics import Strand
from seqdomains.cli.options import DEVICE, PRESET, SET, SKIPPED_INPUTS


def register(app: typer.Typer) -> None:
    """Add the commands to those of genomics."""
    app.command(short_help="Train a language model of DNA and score it.")(pretrain)
    app.command(short_help="Write how likely records are to a language model.")(likelihood)


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


def likelihood(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact of a language model.", metavar="MODEL")],
    fasta: Annotated[
        list[str] | None,
        typer.Argument(help="FASTA or GenBank files, folders, patterns; - is stdin.", metavar="FASTA..."),
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="A list of more of these, one on each line.", metavar="LIST")
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", min=1, help="bp of a row; a row for each record if not given.")
    ] = None,
    strand: Annotated[
        Strand, typer.Option("--strand", help="The forward one alone, or both, and their mean.")
    ] = Strand.FORWARD,
    output: Annotated[
        str, typer.Option("-o", "--output", help="TSV, or Parquet by suffix .parquet; - is stdout.", metavar="FILE")
    ] = "-",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="data.gap_policy=mask reads -, . and * as masked bases.", metavar="KEY=VALUE"),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Write how many bases of each record count, their log-likelihood (natural logarithm), and bits per base.

    Each base is asked given all before it in its record, in memory that does not grow; N and other ambiguous bases are
    read and never asked. The other strand is read from the record's end (columns forward and reverse).
    """
    from seqdomains.cli.language import run_likelihood

    if run_likelihood(
        model,
        fasta or [],
        from_file=from_file,
        every=every,
        strands=strand.value,
        output=output,
        settings=settings or [],
        device=device,
    ):
        raise typer.Exit(SKIPPED_INPUTS)
