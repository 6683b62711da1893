"""The plan of a batch over a domain's files: what lies in them is looked at, and cut into shards."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from seqdomains.backbone import LoadedModel
from seqdomains.cores import usable_cores
from seqdomains.errors import InputError
from seqdomains.files import sha256
from seqdomains.pipelines.batch.cut import LEAST_TOKENS, cut_records, cut_shards, shard_tokens
from seqdomains.pipelines.batch.merge import Format
from seqdomains.pipelines.batch.plan import Plan, PlannedInput, Skipped
from seqdomains.pipelines.batch.records import RecordSource
from seqdomains.pipelines.batch.windows import WindowSource
from seqdomains.pipelines.progress import progress_display

logger = logging.getLogger(__name__)

# A GPU stands still between shards: of fewer tokens they would cost it a third of its time.
LEAST_ON_GPU = 1 << 24
_SMALL = 1 << 26  # bytes of all inputs, read in half a second


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is worked on."""

    out: Path
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    threads: int | None = None
    shard: str | None = None
    ray_address: str | None = None
    hashed: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    form: Format = "parquet"
    shard_size: int | None = None
    device: str | None = None


@contextmanager
def _looking_at(paths: Sequence[str]) -> Iterator[Callable[[int], None]]:
    logger.info("looking at %d inputs", len(paths))
    tenth = max(1, len(paths) // 10)
    with progress_display("inputs", total=len(paths)) as show:
        # Of few files one line is enough where there is no terminal.
        yield lambda done: show(done, "looked at", len(paths) >= 100 and done % tenth == 0)


def _readers(inputs: Sequence[PlannedInput]) -> int:
    """Return how many processes look at the inputs: one where starting others would take longer."""
    return 1 if sum(one.size for one in inputs) < _SMALL else min(len(inputs), usable_cores())


@dataclass(frozen=True)
class Looked:
    """What was found in a batch's inputs.

    Parameters
    ----------
    good : list of (int, list of int)
        The number of each good input, with how many windows it has, or with the length of each of its records.
    skipped : tuple of Skipped
        Inputs, and records of others, that get no row.
    """

    good: list[tuple[int, list[int]]]
    skipped: tuple[Skipped, ...]


class Domain(Protocol):
    """What a batch asks of a domain's files; `parameters` are those of its plan."""

    @property
    def tokens(self) -> str:
        """What users call a token."""

    def load(self, artefact: Path, *, device: torch.device) -> LoadedModel:
        """Read a model, and refuse one of another domain."""

    def windows(self, parameters: Mapping[str, Any]) -> WindowSource:
        """Return what reads windows."""

    def records(self, parameters: Mapping[str, Any]) -> RecordSource:
        """Return what reads whole records."""

    def divisible(self, path: str, parameters: Mapping[str, Any]) -> bool:
        """Whether a good file can be read from its middle."""

    def count_windows(
        self, parameters: Mapping[str, Any], paths: Sequence[str], *, processes: int, progress: Callable[[int], None]
    ) -> Looked:
        """Look at all inputs for the windows in them."""

    def measure_records(
        self, parameters: Mapping[str, Any], paths: Sequence[str], *, processes: int, progress: Callable[[int], None]
    ) -> Looked:
        """Look at all inputs for the records in them."""


def plan_of_windows(
    domain: Domain,
    parameters: dict[str, Any],
    paths: Sequence[str],
    options: BatchOptions,
    fitting: Callable[[], int],
) -> Plan:
    """Look at every input, and cut the windows that are found into shards; `fitting` tells how many fit at once."""
    # Before they are read: what is changed afterwards is noticed.
    inputs = tuple(PlannedInput.of(path, hashed=options.hashed) for path in paths)
    window = parameters["window"]
    trial = _Trial(fitting)
    with _looking_at(paths) as progress:
        found = domain.count_windows(parameters, paths, processes=_readers(inputs), progress=progress)
    counts = [(number, sum(windows)) for number, windows in found.good]
    total = sum(count for _, count in counts)
    if (fits := trial.result()) < parameters["batch_size"]:
        logger.info("%d windows at once do not fit into the memory; %d do", parameters["batch_size"], fits)
    parameters = parameters | {"batch_size": fits}
    size = _shard_tokens(parameters, options, total * window)
    # Whole batches, but for the last of a shard's windows that are of another length.
    windows = parameters["batch_size"] * max(1, size // (window * parameters["batch_size"]))
    cut = cut_shards(
        ((number, count, count > windows and domain.divisible(paths[number], parameters)) for number, count in counts),
        windows=windows,
    )
    logger.info("%d windows of %d inputs in %d shards", total, len(counts), len(cut))
    return Plan(parameters, inputs, cut, found.skipped)


def plan_of_records(domain: Domain, parameters: dict[str, Any], paths: Sequence[str], options: BatchOptions) -> Plan:
    """Look at every input, and cut its records into shards, none of which begins within a record."""
    inputs = tuple(PlannedInput.of(path, hashed=options.hashed) for path in paths)
    with _looking_at(paths) as progress:
        found = domain.measure_records(parameters, paths, processes=_readers(inputs), progress=progress)
    size = _shard_tokens(parameters, options, sum(sum(lengths) for _, lengths in found.good))
    cut = cut_records(
        (
            (number, lengths, sum(lengths) > size and domain.divisible(paths[number], parameters))
            for number, lengths in found.good
        ),
        tokens=size,
    )
    records = sum(len(lengths) for _, lengths in found.good)
    logger.info("%d records of %d inputs in %d shards", records, len(found.good), len(cut))
    lengths = dict(found.good)
    tokens = tuple(sum(sum(lengths[one.input][one.first : one.first + one.windows]) for one in part) for part in cut)
    return Plan(parameters, inputs, cut, found.skipped, tokens)


def _shard_tokens(parameters: dict[str, Any], options: BatchOptions, total: int) -> int:
    least = LEAST_TOKENS if parameters["device"] == "cpu" else LEAST_ON_GPU
    return options.shard_size or max(least, shard_tokens(total))


class _Trial:
    """What a function returns, computed aside; nobody waits for it but who asks."""

    def __init__(self, function: Callable[[], int]) -> None:
        self._found: Future[int] = Future()

        def run() -> None:
            try:
                self._found.set_result(function())
            except BaseException as error:  # noqa: BLE001 - carried to whoever asks
                self._found.set_exception(error)

        threading.Thread(target=run, daemon=True).start()

    def result(self) -> int:
        """Wait for it."""
        return self._found.result()


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file that a plan names."""
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
