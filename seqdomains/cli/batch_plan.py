"""The plan of a batch over sequence files: what lies in them is looked at, and cut into shards."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqdomains.errors import InputError, printable
from seqdomains.files import sha256
from seqdomains.genomics.fasta import source_name
from seqdomains.genomics.sources import SequenceWindows, divisible
from seqdomains.genomics.spans import plan_spans, survey
from seqdomains.genomics.windows import read_bed
from seqdomains.pipelines.batch.cut import LEAST_TOKENS, cut_records, cut_shards, shard_tokens
from seqdomains.pipelines.batch.merge import Format
from seqdomains.pipelines.batch.plan import Plan, PlannedInput, Skipped, shown
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
    return 1 if sum(one.size for one in inputs) < _SMALL else min(len(inputs), cores())


def plan_of_windows(
    parameters: dict[str, Any], paths: Sequence[str], options: BatchOptions, fitting: Callable[[], int]
) -> Plan:
    """Look at every input, and cut the windows that are found into shards; `fitting` tells how many fit at once."""
    # Before they are read: what is changed afterwards is noticed.
    inputs = tuple(PlannedInput.of(path, hashed=options.hashed) for path in paths)
    number_of = {source_name(path): number for number, path in enumerate(paths)}
    source = windows_of(parameters)
    trial = _Trial(fitting)
    with _looking_at(paths) as progress:
        found = plan_spans(
            paths,
            window=source.window,
            stride=source.stride,
            regions=source.regions,
            policy=source.policy,
            processes=_readers(inputs),
            progress=progress,
        )
    skipped = [Skipped(number_of[name], None, str(error)) for name, error in found.failures]
    skipped += [Skipped(number_of[one.source], shown(one.record), printable(one.reason)) for one in found.skipped]
    good = [(number_of[file.source], file.windows or 0) for file in found.files]
    total = sum(windows for _, windows in good)
    if (fits := trial.result()) < parameters["batch_size"]:
        logger.info("%d windows at once do not fit into the memory; %d do", parameters["batch_size"], fits)
    parameters = parameters | {"batch_size": fits}
    size = _shard_tokens(parameters, options, total * source.window)
    # Whole batches, but for the last of a shard's windows that are of another length.
    windows = parameters["batch_size"] * max(1, size // (source.window * parameters["batch_size"]))
    cut = cut_shards(
        ((number, count, count > windows and divisible(paths[number], source.policy)) for number, count in good),
        windows=windows,
    )
    logger.info("%d windows of %d inputs in %d shards", total, len(good), len(cut))
    return Plan(parameters, inputs, cut, tuple(sorted(skipped, key=lambda one: one.input)))


def plan_of_records(parameters: dict[str, Any], paths: Sequence[str], options: BatchOptions) -> Plan:
    """Look at every input, and cut its records into shards, none of which begins within a record."""
    inputs = tuple(PlannedInput.of(path, hashed=options.hashed) for path in paths)
    number_of = {source_name(path): number for number, path in enumerate(paths)}
    with _looking_at(paths) as progress:
        found, failures = survey(paths, policy=parameters["gap_policy"], processes=_readers(inputs), progress=progress)
    good = [(number_of[source_name(path)], lengths or {}) for path, lengths in found]
    total = sum(sum(lengths.values()) for _, lengths in good)
    size = _shard_tokens(parameters, options, total)
    cut = cut_records(
        (
            (
                number,
                list(lengths.values()),
                sum(lengths.values()) > size and divisible(paths[number], parameters["gap_policy"]),
            )
            for number, lengths in good
        ),
        tokens=size,
    )
    logger.info("%d records of %d inputs in %d shards", sum(len(one) for _, one in good), len(good), len(cut))
    return Plan(parameters, inputs, cut, tuple(Skipped(number_of[name], None, str(error)) for name, error in failures))


def _shard_tokens(parameters: dict[str, Any], options: BatchOptions, total: int) -> int:
    least = LEAST_TOKENS if parameters["device"] == "cpu" else LEAST_ON_GPU
    return options.shard_size or max(least, shard_tokens(total))


def windows_of(parameters: Any) -> SequenceWindows:
    """Return what reads the windows of a plan.

    Raises
    ------
    InputError
        Its BED is not what it was.
    """
    regions = parameters["regions"]
    if regions is not None and hash_of(Path(regions)) != parameters["regions_sha256"]:
        raise InputError(f"{regions} has changed since the plan was made; choose another --out")
    return SequenceWindows(
        parameters["window"],
        parameters["stride"],
        parameters["gap_policy"],
        None if regions is None else read_bed(Path(regions)),
    )


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


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
