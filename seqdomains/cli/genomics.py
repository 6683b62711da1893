"""The commands `seqdomains genomics ...`: what they take; what they do is in `species.py`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqdomains.cli.options import (
    DEVICE,
    DRY_RUN,
    ENGINE,
    FORMAT,
    HASH,
    OUT,
    PRECISION,
    PRESET,
    RAY_ADDRESS,
    RUN_OUT,
    SET,
    SHARD,
    SHARD_SIZE,
    SKIPPED_INPUTS,
    STRAND,
    THREADS,
    WORKERS,
    EngineName,
    PoolingName,
    Precision,
    Strand,
    TableFormat,
    refuse_of_batches,
    with_strand,
)
from seqdomains.errors import ConfigError

if TYPE_CHECKING:
    from seqdomains.cli.batch import Asked

app = typer.Typer(help="Tell species, or your own classes, from DNA.", no_args_is_help=True)


class SpeciesSet(StrEnum):
    """Sets of species that the registry knows."""

    GREAT_APES = "great-apes"


class OnMismatch(StrEnum):
    """What is done where a VCF's REF is not what the reference has."""

    ERROR = "error"
    SKIP = "skip"
    SWAP = "swap"


DATA = typer.Option(
    "--data", help="FASTA, GenBank, CSV or TSV, or a folder of the first two. Repeatable.", metavar="FILE|DIR"
)
LABEL_FROM = typer.Option(
    "--label-from", help="Of the class: header:KEY, file, folder, or column:NAME (label for tables).", metavar="SOURCE"
)
LABELS = typer.Option("--labels", help="Table of record<TAB>class.", metavar="TSV")
SPECIES = typer.Option("--species", help="The set of species to tell apart.")


@app.command(short_help="Write simulated genomes as FASTA.")
def simulate(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", metavar="DIR")],
    species: Annotated[SpeciesSet, SPECIES] = SpeciesSet.GREAT_APES,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
) -> None:
    """Write SIMULATED genomes: a FASTA per species, the truth about each marker, and what was realised."""
    from seqdomains.cli.species import run_simulate

    run_simulate(out, preset=preset, settings=settings or [])


@app.command(short_help="Train a classifier and evaluate it.")
def train(
    species: Annotated[SpeciesSet | None, SPECIES] = None,
    data: Annotated[list[Path] | None, DATA] = None,
    label_from: Annotated[str | None, LABEL_FROM] = None,
    labels: Annotated[Path | None, LABELS] = None,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[Path | None, RUN_OUT] = None,
    device: Annotated[str | None, DEVICE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Train on great apes (SIMULATED unless --data gives real assemblies) or on your own labelled FASTA, and evaluate.

    Repeat the command with the same --out to go on with a run that was stopped.
    """
    from seqdomains.cli.species import run_train

    run_train(
        great_apes=species is not None,
        data=data or [],
        label_from=label_from,
        labels=labels,
        preset=preset,
        settings=settings or [],
        out=out,
        device=device,
        only_estimate=dry_run,
    )


@app.command(short_help="Score a trained model on labelled data.")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or with --data an artefact.", metavar="RUN")],
    data: Annotated[list[Path] | None, DATA] = None,
    label_from: Annotated[str | None, LABEL_FROM] = None,
    labels: Annotated[Path | None, LABELS] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for evaluation.json and the windows, with --data.", metavar="DIR"),
    ] = None,
    strand: Annotated[Strand | None, STRAND] = None,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Score a run on its own test windows, or on other labelled data (--data with --label-from or --labels)."""
    from seqdomains.cli.species import run_evaluate

    asked = with_strand(settings, strand)
    run_evaluate(run, data=data or [], label_from=label_from, labels=labels, settings=asked, out=out, device=device)


@app.command(short_help="Classify windows of sequences.")
def predict(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact.", metavar="MODEL")],
    fasta: Annotated[
        list[str] | None,
        typer.Argument(help="FASTA or GenBank files, folders, patterns; - is stdin.", metavar="FASTA..."),
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="A list of more of these, one on each line.", metavar="LIST")
    ] = None,
    window: Annotated[int | None, typer.Option("--window", min=1, help="bp; the model's own if not given.")] = None,
    stride: Annotated[int | None, typer.Option("--stride", min=1, help="bp; the window if not given.")] = None,
    regions: Annotated[Path | None, typer.Option("--regions", help="Only these intervals.", metavar="BED")] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help=".tsv or .parquet; - is TSV on stdout.", metavar="FILE")
    ] = "-",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="data.gap_policy=mask reads -, . and * as masked bases.", metavar="KEY=VALUE"),
    ] = None,
    strand: Annotated[Strand | None, STRAND] = None,
    device: Annotated[str | None, DEVICE] = None,
    out: Annotated[Path | None, OUT] = None,
    table_format: Annotated[TableFormat | None, FORMAT] = None,
    engine: Annotated[EngineName | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    threads: Annotated[int | None, THREADS] = None,
    shard: Annotated[str | None, SHARD] = None,
    ray_address: Annotated[str | None, RAY_ADDRESS] = None,
    hashed: Annotated[bool, HASH] = False,
    precision: Annotated[Precision | None, PRECISION] = None,
    shard_size: Annotated[int | None, SHARD_SIZE] = None,
) -> None:
    """Write the class of each window, in input order: record, start, end (0-based, half-open), class, probabilities.

    With --out the work is done in shards, by any number of workers, and goes on where it was stopped.
    """
    settings = with_strand(settings, strand)
    if out is not None:
        if output != "-":
            raise ConfigError("-o and --out: a batch writes its table into its folder; give one of the two")
        from seqdomains.cli.batch import Asked

        if _run_batch(
            Asked("predict", window=window, stride=stride), model, fasta, from_file, regions, settings, device, out,
            table_format, engine, workers, threads, shard, ray_address, hashed, precision, shard_size,
        ):  # fmt: skip
            raise typer.Exit(SKIPPED_INPUTS)
        return
    refuse_of_batches(table_format, engine, workers, threads, shard, ray_address, hashed or None, precision, shard_size)
    from seqdomains.cli.species import run_predict

    if run_predict(
        model,
        fasta or [],
        from_file=from_file,
        window=window,
        stride=stride,
        regions=regions,
        output=output,
        settings=settings,
        device=device,
    ):
        raise typer.Exit(SKIPPED_INPUTS)


@app.command(short_help="Write vectors that describe windows of sequences.")
def embed(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact.", metavar="MODEL")],
    out: Annotated[Path, OUT],
    fasta: Annotated[
        list[str] | None, typer.Argument(help="FASTA or GenBank files, folders, patterns.", metavar="FASTA...")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="A list of more of these, one on each line.", metavar="LIST")
    ] = None,
    pool: Annotated[
        PoolingName, typer.Option("--pool", help="Over a window's positions; position gives a row for each.")
    ] = PoolingName.MEAN,
    layer: Annotated[
        int | None,
        typer.Option("--layer", min=0, help="After which block; the last one, with the final norm, if not given."),
    ] = None,
    window: Annotated[int | None, typer.Option("--window", min=1, help="bp; the model's own if not given.")] = None,
    stride: Annotated[int | None, typer.Option("--stride", min=1, help="bp; the window if not given.")] = None,
    regions: Annotated[Path | None, typer.Option("--regions", help="Only these intervals.", metavar="BED")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="data.gap_policy=mask reads -, . and * as masked bases.", metavar="KEY=VALUE"),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
    table_format: Annotated[TableFormat | None, FORMAT] = None,
    engine: Annotated[EngineName | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    threads: Annotated[int | None, THREADS] = None,
    shard: Annotated[str | None, SHARD] = None,
    ray_address: Annotated[str | None, RAY_ADDRESS] = None,
    hashed: Annotated[bool, HASH] = False,
    precision: Annotated[Precision | None, PRECISION] = None,
    shard_size: Annotated[int | None, SHARD_SIZE] = None,
) -> None:
    """Write the hidden vector of each window, or of each position, in input order, as Parquet or AnnData.

    The work is done in shards, by any number of workers, and goes on where it was stopped.
    """
    from seqdomains.cli.batch import Asked

    if _run_batch(
        Asked("embed", window=window, stride=stride, pooling=pool.value, layer=layer), model, fasta, from_file,
        regions, settings, device, out, table_format, engine, workers, threads, shard, ray_address, hashed, precision,
        shard_size,
    ):  # fmt: skip
        raise typer.Exit(SKIPPED_INPUTS)


def _run_batch(
    asked: Asked,
    model: Path,
    fasta: list[str] | None,
    from_file: Path | None,
    regions: Path | None,
    settings: list[str] | None,
    device: str | None,
    out: Path,
    table_format: TableFormat | None,
    engine: EngineName | None,
    workers: int | None,
    threads: int | None,
    shard: str | None,
    ray_address: str | None,
    hashed: bool,
    precision: Precision | None,
    shard_size: int | None,
) -> bool:
    from seqdomains.cli.batch_plan import BatchOptions
    from seqdomains.cli.species import run_batch

    options = BatchOptions(
        out=out,
        engine=(engine or EngineName.LOCAL).value,
        workers=workers,
        threads=threads,
        shard=shard,
        ray_address=ray_address,
        hashed=hashed,
        precision=(precision or Precision.FLOAT32).value,
        form=(table_format or TableFormat.PARQUET).value,
        shard_size=shard_size,
        device=device,
    )
    return run_batch(
        asked, model, fasta or [], from_file=from_file, regions=regions, settings=settings or [], options=options
    )


@app.command(short_help="Classify records of any length as they are read.")
def stream(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact.", metavar="MODEL")],
    fasta: Annotated[
        list[str] | None,
        typer.Argument(help="FASTA or GenBank files, folders, patterns; - is stdin.", metavar="FASTA..."),
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="A list of more of these, one on each line.", metavar="LIST")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            "--every", min=1, help="bp from row to row; the model's window, or 1 for likelihoods, if not given."
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help=".tsv or .parquet; of likelihoods .bedgraph or .bw too; - is stdout.", metavar="FILE"
        ),
    ] = "-",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="data.gap_policy=mask reads -, . and * as masked bases.", metavar="KEY=VALUE"),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
    out: Annotated[Path | None, OUT] = None,
    table_format: Annotated[TableFormat | None, FORMAT] = None,
    engine: Annotated[EngineName | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    threads: Annotated[int | None, THREADS] = None,
    shard: Annotated[str | None, SHARD] = None,
    ray_address: Annotated[str | None, RAY_ADDRESS] = None,
    hashed: Annotated[bool, HASH] = False,
    shard_size: Annotated[int | None, SHARD_SIZE] = None,
) -> None:
    """Write the class of each record's beginning, longer by --every bp from row to row, in memory that does not grow.

    The model's state is carried along the record, so the last row speaks of all of it, however long it is. A language
    model writes the natural logarithm of each base's likelihood given all before it, or its mean over --every bp, as
    bedGraph, as Parquet (.parquet) or as bigWig (.bw).

    With --out the work is done in shards of whole records, by any number of workers, and goes on where it was stopped.
    """
    if out is not None:
        if output != "-":
            raise ConfigError("-o and --out: a batch writes its table into its folder; give one of the two")
        from seqdomains.cli.batch import Asked

        if _run_batch(
            Asked("stream", every=every), model, fasta, from_file, None, settings, device, out, table_format, engine,
            workers, threads, shard, ray_address, hashed, None, shard_size,
        ):  # fmt: skip
            raise typer.Exit(SKIPPED_INPUTS)
        return
    refuse_of_batches(table_format, engine, workers, threads, shard, ray_address, hashed or None, None, shard_size)
    from seqdomains.cli.species import run_stream

    if run_stream(
        model, fasta or [], from_file=from_file, every=every, output=output, settings=settings or [], device=device
    ):
        raise typer.Exit(SKIPPED_INPUTS)


@app.command(short_help="Score variants by a language model.")
def score(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact of a language model.", metavar="MODEL")],
    vcf: Annotated[Path, typer.Option("--vcf", help="VCF, plain or bgzip, or BCF.", metavar="VCF")],
    reference: Annotated[
        Path, typer.Option("--reference", help="Genome that the VCF was made with, plain or bgzip.", metavar="FASTA")
    ],
    output: Annotated[
        str,
        typer.Option("-o", "--output", help=".vcf, .vcf.gz (indexed) or .tsv; - is TSV on stdout.", metavar="FILE"),
    ] = "-",
    window: Annotated[int | None, typer.Option("--window", min=1, help="bp; the model's own if not given.")] = None,
    strand: Annotated[
        Strand, typer.Option("--strand", help="Both are read and averaged, or the forward one alone.")
    ] = Strand.BOTH,
    on_mismatch: Annotated[
        OnMismatch,
        typer.Option("--on-mismatch", help="REF is not what the genome has: stop, skip, or swap with an ALT that is."),
    ] = OnMismatch.ERROR,
    precision: Annotated[Precision, PRECISION] = Precision.FLOAT32,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Write log P(window with ALT) - log P(window with REF) of each variant, natural logarithms, without training.

    Below 0 the model finds ALT less likely than REF. VCF gets INFO keys SDLLR, SDLLRF and SDLLRR (mean, forward and
    reverse strand), one value for each ALT; TSV has a row for each. What is no sequence is passed through and counted.
    """
    from seqdomains.cli.variants import run_score

    if run_score(
        model,
        vcf=vcf,
        reference=reference,
        output=output,
        window=window,
        strands=strand.value,
        on_mismatch=on_mismatch.value,
        precision=precision.value,
        device=device,
    ):
        raise typer.Exit(SKIPPED_INPUTS)
