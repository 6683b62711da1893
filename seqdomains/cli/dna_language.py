"""The commands `seqdomains genomics pretrain`, `likelihood` and `generate`: language models of DNA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqdomains.cli.options import DEVICE, DRY_RUN, PRESET, RUN_OUT, SET, SKIPPED_INPUTS, Strand


def register(app: typer.Typer) -> None:
    """Add the commands to those of genomics."""
    app.command(short_help="Train a language model of DNA and score it.")(pretrain)
    app.command(short_help="Write how likely records are to a language model.")(likelihood)
    app.command(short_help="Write new sequences with a language model.")(generate)


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
    out: Annotated[Path | None, RUN_OUT] = None,
    device: Annotated[str | None, DEVICE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
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
        str, typer.Option("-o", "--output", help=".tsv or .parquet; - is TSV on stdout.", metavar="FILE")
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


def generate(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact of a language model.", metavar="MODEL")],
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="Bases to go on from, or a FASTA file of such; - is stdin.", metavar="DNA|FASTA"),
    ] = None,
    length: Annotated[int, typer.Option("--length", min=1, help="bp to write, without the prompt.")] = 1000,
    count: Annotated[int, typer.Option("--count", min=1, help="Sequences for each prompt.")] = 1,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Below 1 likelier bases are preferred; 0 takes the likeliest.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Only the likeliest K bases.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Only the fewest bases whose probabilities are P together.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="The same seed gives the same bytes.")] = 0,
    any_code: Annotated[bool, typer.Option("--any-code", help="Let it write N and ambiguous bases too.")] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="FASTA; - is stdout.", metavar="FILE")] = "-",
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Write sequences base by base, each drawn from what the model says given all before it, as FASTA.

    Headers hold the settings. A sequence is a function of the seed, its number, the prompt and the settings, whatever
    others are written with it, on one kind of device. What is written is no real sequence.
    """
    from seqdomains.cli.generation import run_generate

    run_generate(
        model,
        prompt=prompt,
        length=length,
        count=count,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        any_code=any_code,
        output=output,
        device=device,
    )
