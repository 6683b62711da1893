"""Options that the commands of both domains take."""

from __future__ import annotations

from enum import StrEnum

import typer

from seqdomains.errors import ConfigError

SET = typer.Option("--set", help="Change one value, e.g. train.steps=500. Repeatable.", metavar="KEY=VALUE")
PRESET = typer.Option("--preset", help="Name or YAML file of a preset.", metavar="NAME|FILE")
DEVICE = typer.Option("--device", help="cpu, cuda or cuda:N; a GPU where there is one.", metavar="DEVICE")
RUN_OUT = typer.Option(
    "--out", help="Run folder; runs/PRESET-DATE-TIME if not given. An unfinished run there goes on.", metavar="DIR"
)
DRY_RUN = typer.Option("--dry-run", help="Only print what it would take: parameters, tokens a step, memory, time.")
OUT = typer.Option(
    "--out",
    help="Folder of the batch: shards, table, errors. The same command goes on where one stopped.",
    metavar="DIR",
)
ENGINE = typer.Option("--engine", help="Who computes: processes of this machine, or Ray actors.")
WORKERS = typer.Option("--workers", min=1, help="Processes or actors; one for each GPU, or one, if not given.")
THREADS = typer.Option(
    "--threads", min=1, max=1024, help="CPU threads of each worker; its share of the cores if not given."
)
SHARD = typer.Option(
    "--shard", help="Only share I of N, for job arrays; the last one to finish makes the table.", metavar="I/N"
)
RAY_ADDRESS = typer.Option(
    "--ray-address", help="Of a running Ray cluster, which sees the same files.", metavar="ADDRESS"
)
HASH = typer.Option("--hash", help="Know inputs by their content too: one that was copied is no other then.")
PRECISION = typer.Option("--precision", help="bfloat16 is faster on a GPU, and less exact.")
SHARD_SIZE = typer.Option(
    "--shard-size", min=1, help="Tokens of a shard, about; 65,536 to 16,777,216 if not given.", metavar="N"
)
SKIPPED_INPUTS = 3


class Strand(StrEnum):
    """Which strands are read."""

    BOTH = "both"
    FORWARD = "forward"


STRAND = typer.Option("--strand", help="Ask of the forward strand (default), or give the mean of both.")


def with_strand(settings: list[str] | None, strand: Strand | None) -> list[str]:
    """Return the arguments of --set with what --strand says, which is `strands` there.

    Examples
    --------
    >>> with_strand(["data.gap_policy=mask"], Strand.BOTH)
    ['data.gap_policy=mask', 'strands=both']
    """
    said = list(settings or ())
    if strand is None:
        return said
    if any(one.partition("=")[0].strip() == "strands" for one in said):
        raise ConfigError("--strand: is what --set strands says too; give one of the two")
    return [*said, f"strands={strand.value}"]


class EngineName(StrEnum):
    """Who computes a batch."""

    LOCAL = "local"
    RAY = "ray"


class Precision(StrEnum):
    """Of what a model computes in between."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class TableFormat(StrEnum):
    """Of a batch's table."""

    PARQUET = "parquet"
    TSV = "tsv"
    H5AD = "h5ad"
    BEDGRAPH = "bedgraph"
    BIGWIG = "bigwig"


class PoolingName(StrEnum):
    """How a window's positions become one vector, or not."""

    MEAN = "mean"
    LAST = "last"
    MAX = "max"
    POSITION = "position"


FORMAT = typer.Option(
    "--format", help="Of the table: parquet; tsv for classes, h5ad for embeddings, bedgraph or bigwig for likelihoods."
)


def refuse_of_batches(*values: object) -> None:
    """Raise a ConfigError where an option of batches is given without --out; in the order of `names`."""
    names = ("format", "engine", "workers", "threads", "shard", "ray-address", "hash", "precision", "shard-size")
    given = [name for name, value in zip(names, values, strict=True) if value is not None]
    if given:
        raise ConfigError([f"--{name}: goes with --out" for name in given])
