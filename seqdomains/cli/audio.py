"""The commands `seqdomains audio ...`: what they take; what they do is in `sounds.py`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqdomains.cli.options import (
    DEVICE,
    DRY_RUN,
    ENGINE,
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
    THREADS,
    WORKERS,
    EngineName,
    PoolingName,
    Precision,
    refuse_of_batches,
)
from seqdomains.errors import ConfigError

if TYPE_CHECKING:
    from seqdomains.cli.batch import Asked

app = typer.Typer(help="Tell classes of sound, or learn what comes next in it.", no_args_is_help=True)

DATA = typer.Option(
    "--data",
    help="Folder with one folder per class, manifest (JSONL, CSV, TSV) or sound file. Repeatable.",
    metavar="DIR|MANIFEST",
)
LABEL_FROM = typer.Option(
    "--label-from",
    help="folder, field:KEY of a manifest, or name:PATTERN, such as 'name:{label}_{speaker}_{take}'.",
    metavar="SOURCE",
)
LABELS = typer.Option("--labels", help="Table of file<TAB>class; of segments with data.frames.", metavar="TSV|RTTM")
SOUNDS = typer.Argument(help="Sound files, folders, patterns.", metavar="SOUND...")
FROM_FILE = typer.Option("--from-file", help="A list of more of these, one on each line.", metavar="LIST")
WINDOW = typer.Option("--window", help="Seconds; each file as a whole, however long, if not given.", metavar="S")
FRAMES = typer.Option("--frames", help="Of a model of frames: a row for each frame in place of each segment.")
STRIDE = typer.Option("--stride", help="Seconds from window to window; the window if not given.", metavar="S")


class Kind(StrEnum):
    """What can be synthesized."""

    TONES = "tones"
    WORDS = "words"
    MUSIC = "music"
    PIANO = "piano"


class TableFormat(StrEnum):
    """Of a batch's table."""

    PARQUET = "parquet"
    TSV = "tsv"
    H5AD = "h5ad"


FORMAT = typer.Option("--format", help="Of the table: parquet; tsv for classes, h5ad for embeddings.")


@app.command(short_help="Write synthesized clips as WAV.")
def synthesize(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", metavar="DIR")],
    kind: Annotated[Kind | None, typer.Option("--kind", help="tones, words, music or piano.")] = None,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
) -> None:
    """Write SYNTHESIZED clips with their classes and the times of what is in them, and a manifest."""
    from seqdomains.cli.sounds import run_synthesize

    run_synthesize(out, kind=None if kind is None else kind.value, preset=preset, settings=settings or [])


@app.command(short_help="Train a classifier and evaluate it.")
def train(
    data: Annotated[list[Path] | None, DATA] = None,
    label_from: Annotated[str | None, LABEL_FROM] = None,
    labels: Annotated[Path | None, LABELS] = None,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[Path | None, RUN_OUT] = None,
    device: Annotated[str | None, DEVICE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Train on your own labelled clips (on SYNTHESIZED words unless --data gives them), and evaluate.

    Repeat the command with the same --out to go on with a run that was stopped.
    """
    from seqdomains.cli.sounds import run_train

    run_train(
        data=data or [],
        label_from=label_from,
        labels=labels,
        preset=preset,
        settings=settings or [],
        out=out,
        device=device,
        only_estimate=dry_run,
    )


@app.command(short_help="Train a model without labels and score it.")
def pretrain(
    data: Annotated[list[Path] | None, DATA] = None,
    label_from: Annotated[str | None, LABEL_FROM] = None,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[Path | None, RUN_OUT] = None,
    device: Annotated[str | None, DEVICE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Train on your own clips (on SYNTHESIZED words unless --data gives them) to predict each next sample.

    The result is in bits per sample of held-out clips. With --preset spectrogram-small spans of log-mel spectra are
    hidden and reconstructed instead, and the result is the squared error of these. No label is needed; --label-from
    names what clips are held out by. Repeat the command with the same --out to go on with a run that was stopped.
    """
    from seqdomains.cli.sound_pretraining import run_pretrain

    run_pretrain(
        data=data or [],
        label_from=label_from,
        preset=preset,
        settings=settings or [],
        out=out,
        device=device,
        only_estimate=dry_run,
    )


@app.command(short_help="Train a classifier on the backbone of a model.")
def finetune(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact, such as of pretrain.", metavar="MODEL")],
    data: Annotated[list[Path] | None, DATA] = None,
    label_from: Annotated[str | None, LABEL_FROM] = None,
    labels: Annotated[Path | None, LABELS] = None,
    head_only: Annotated[bool, typer.Option("--head-only", help="Leave the backbone as it is.")] = False,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[Path | None, RUN_OUT] = None,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Train on labelled clips as `train` does, from a model's weights, sizes and input, with a new head."""
    from seqdomains.cli.sounds import run_finetune

    run_finetune(
        model,
        data=data or [],
        label_from=label_from,
        labels=labels,
        head_only=head_only,
        preset=preset,
        settings=settings or [],
        out=out,
        device=device,
    )


@app.command(short_help="Score a trained model on clips.")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or with --data an artefact.", metavar="RUN")],
    data: Annotated[list[Path] | None, DATA] = None,
    label_from: Annotated[str | None, LABEL_FROM] = None,
    labels: Annotated[Path | None, LABELS] = None,
    rate: Annotated[
        int | None,
        typer.Option("--rate", help="Read sound at another rate than the model's, with steps as long.", metavar="HZ"),
    ] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for evaluation.json and the clips, with --data.", metavar="DIR"),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Score a run on its own held-out clips, or a model on other clips (--data), labelled ones for a classifier.

    A model of `pretrain` is scored in bits per sample, or by the squared error of what is hidden, and needs no label.
    """
    from seqdomains.cli.sounds import run_evaluate

    run_evaluate(
        run,
        data=data or [],
        label_from=label_from,
        labels=labels,
        rate=rate,
        settings=settings or [],
        out=out,
        device=device,
    )


@app.command(short_help="Classify sound files.")
def predict(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact.", metavar="MODEL")],
    sounds: Annotated[list[str] | None, SOUNDS] = None,
    from_file: Annotated[Path | None, FROM_FILE] = None,
    window: Annotated[float | None, WINDOW] = None,
    stride: Annotated[float | None, STRIDE] = None,
    frames: Annotated[bool, FRAMES] = False,
    output: Annotated[str, typer.Option("-o", "--output", help=".tsv; - is stdout.", metavar="FILE")] = "-",
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
    """Write the class of each file, or of each window, in input order: file, channel, start, end (s), class, shares.

    A model of frames says when what is heard: a row for each segment, with its label and its mean probability.
    A file is read as a whole in constant memory, however long, with the model's state carried along.
    With --out the work is done in shards, by any number of workers, and goes on where it was stopped.
    """
    from seqdomains.cli.batch import Asked

    if out is not None:
        if output != "-":
            raise ConfigError("-o and --out: a batch writes its table into its folder; give one of the two")
        skipped = _run_batch(
            Asked("predict", rows="frames" if frames else None), model, sounds, from_file, window, stride, device, out,
            table_format, engine, workers, threads, shard, ray_address, hashed, precision, shard_size,
        )  # fmt: skip
    else:
        from seqdomains.cli.sounds import run_predict_alone

        refuse_of_batches(
            table_format, engine, workers, threads, shard, ray_address, hashed or None, precision, shard_size
        )
        skipped = run_predict_alone(
            model,
            sounds or [],
            from_file=from_file,
            window=window,
            stride=stride,
            output=output,
            device=device,
            frames=frames,
        )
    if skipped:
        raise typer.Exit(SKIPPED_INPUTS)


@app.command(short_help="Write vectors that describe sound files.")
def embed(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact.", metavar="MODEL")],
    out: Annotated[Path, OUT],
    sounds: Annotated[list[str] | None, SOUNDS] = None,
    from_file: Annotated[Path | None, FROM_FILE] = None,
    pool: Annotated[
        PoolingName, typer.Option("--pool", help="Over positions; position, with --window, gives a row for each.")
    ] = PoolingName.MEAN,
    layer: Annotated[
        int | None,
        typer.Option("--layer", min=0, help="After which block; the last one, with the final norm, if not given."),
    ] = None,
    window: Annotated[float | None, WINDOW] = None,
    stride: Annotated[float | None, STRIDE] = None,
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
    """Write the hidden vector of each file, or of each window, in input order, as Parquet or AnnData.

    The work is done in shards, by any number of workers, and goes on where it was stopped.
    """
    from seqdomains.cli.batch import Asked

    if pool is PoolingName.POSITION and window is None:
        raise ConfigError("--pool position: a row for each position of a whole file is too much; give --window")
    if _run_batch(
        Asked("embed", pooling=pool.value, layer=layer), model, sounds, from_file, window, stride, device, out,
        table_format, engine, workers, threads, shard, ray_address, hashed, precision, shard_size,
    ):  # fmt: skip
        raise typer.Exit(SKIPPED_INPUTS)


def _run_batch(
    asked: Asked,
    model: Path,
    sounds: list[str] | None,
    from_file: Path | None,
    window: float | None,
    stride: float | None,
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
    from seqdomains.cli.sounds import run_batch

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
    return run_batch(asked, model, sounds or [], from_file=from_file, window=window, stride=stride, options=options)
