"""What `genomics predict --out` and `genomics embed` do: a batch over many files, in shards, on one of the engines."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from seqdomains.backbone import LoadedModel
from seqdomains.cli.config import resolve
from seqdomains.cli.run_config import PredictConfig
from seqdomains.cli.species import (
    artefact_of,
    choose_device,
    classifier_of,
    find_sequences,
    load_model,
    trained_window,
    windows_at_once,
)
from seqdomains.errors import ConfigError, InputError, printable
from seqdomains.files import sha256
from seqdomains.genomics.fasta import reads_once, source_name
from seqdomains.genomics.spans import SequenceSource, plan_spans
from seqdomains.genomics.windows import read_bed
from seqdomains.pipelines.answers import silence_stdout
from seqdomains.pipelines.batch import verbs
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.merge import BatchOutcome, Format, require_anndata
from seqdomains.pipelines.batch.plan import (
    LEAST_TOKENS,
    Plan,
    PlannedInput,
    Skipped,
    cut_shards,
    read_plan,
    shard_tokens,
    shown,
)
from seqdomains.pipelines.batch.ray_engine import OnRay
from seqdomains.pipelines.batch.run import Engine, Slice, run_batch
from seqdomains.pipelines.batch.worker import InThisProcess, Processes, Worker, serve
from seqdomains.pipelines.environment import DECISIVE, session_facts
from seqdomains.pipelines.progress import progress_display

logger = logging.getLogger(__name__)

# A GPU stands still between shards: of fewer tokens they would cost it a third of its time.
LEAST_ON_GPU = 1 << 24


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


def run_batch_command(
    verb: Literal["predict", "embed"],
    model: Path,
    given: Sequence[str],
    *,
    from_file: Path | None,
    window: int | None,
    stride: int | None,
    regions: Path | None,
    settings: Sequence[str],
    options: BatchOptions,
    pooling: verbs.EmbeddingPooling | None = None,
    layer: int | None = None,
) -> bool:
    """Do a batch, or what is left of it; returns whether anything was skipped."""
    policy = resolve(PredictConfig, settings=settings).config.data.gap_policy
    _check(options, verb)
    share = None if options.shard is None else Slice.parse(options.shard)
    paths = find_sequences(given, from_file)
    if streams := [path for path in paths if reads_once(path)]:
        raise ConfigError(
            f"{streams[0]}: a batch with --out reads its inputs more than once; give files, or leave --out"
        )
    device = choose_device(options.device)
    artefact = artefact_of(model)
    # Looked at here; workers have it on their devices.
    loaded = load_model(artefact, device=torch.device("cpu"))
    length = window or trained_window(loaded)
    workers, threads = _workers(options, device)
    facts = session_facts(device)
    parameters: dict[str, Any] = {
        "domain": "genomics",
        "verb": verb,
        "model": str(artefact.absolute()),
        "model_sha256": _hash(artefact),
        "window": length,
        "stride": stride or length,
        "regions": None if regions is None else str(regions.absolute()),
        "regions_sha256": None if regions is None else _hash_of(regions),
        "gap_policy": policy,
        "precision": options.precision,
        "batch_size": windows_at_once(device, length),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": threads,
        "shard_size": options.shard_size,
        "pooling": pooling,
        "layer": layer,
        **{key: facts[key] for key in (*DECISIVE, "commit") if key not in ("threads", "device")},
    }
    _verb(parameters, loaded)  # refuses a layer or a model that cannot be
    source = _source(parameters)
    outcome = run_batch(
        BatchFolder(options.out),
        partial(_engine, options, device, workers),
        parameters=parameters,
        paths=paths,
        make_plan=partial(_make_plan, parameters, paths, source, options),
        facts=facts,
        name={"predict": "predictions", "embed": "embeddings"}[verb],
        form=options.form,
        share=share,
        may_differ={"cpu": "results then agree to rounding"} | ({} if options.threads else {"threads": ""}),
    )
    if isinstance(outcome, BatchOutcome):
        _print(outcome)
    return bool(outcome.skipped)


def work(folder: Path, device: str) -> None:
    """Be a worker of a batch: shards to compute come on stdin, and what became of them goes to stdout."""
    # Whatever else writes to stdout would be taken for an answer.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(lambda: open_worker(folder, device), sys.stdin, answers)


def open_worker(path: Path, device: str) -> Worker:
    """Make a worker of the batch in a folder, from its plan alone.

    Raises
    ------
    InputError
        The model is not what it was when the plan was made, or cannot be read.
    """
    folder = BatchFolder(path)
    plan = read_plan(folder.plan)
    artefact = Path(plan.parameters["model"])
    if _hash(artefact) != plan.parameters["model_sha256"]:
        raise InputError(f"{artefact} has changed since the plan was made; choose another --out")
    where = torch.device(device)
    loaded = load_model(artefact, device=where)
    return Worker(plan, folder, _source(plan.parameters), loaded.model, _verb(plan.parameters, loaded), where)


def _check(options: BatchOptions, verb: str) -> None:
    problems = []
    if options.shard is not None and options.engine == "ray":
        problems.append("--shard: is for jobs without an engine; leave --engine ray")
    if options.ray_address is not None and options.engine != "ray":
        problems.append("--ray-address: goes with --engine ray")
    if options.form == "h5ad" and verb != "embed":
        problems.append("--format h5ad: holds embeddings; predict writes parquet or tsv")
    if options.form == "tsv" and verb == "embed":
        problems.append("--format tsv: embeddings are written as parquet or h5ad")
    if problems:
        raise ConfigError(problems)
    if options.form == "h5ad":
        require_anndata()


def _make_plan(parameters: dict[str, Any], paths: Sequence[str], source: SequenceSource, options: BatchOptions) -> Plan:
    """Look at every input, and cut what is found into shards."""
    # Before they are read: what is changed afterwards is noticed.
    inputs = tuple(PlannedInput.of(path, hashed=options.hashed) for path in paths)
    number_of = {source_name(path): number for number, path in enumerate(paths)}
    logger.info("looking at %d inputs", len(paths))
    tenth = max(1, len(paths) // 10)
    with progress_display("inputs", total=len(paths)) as show:
        found = plan_spans(
            paths,
            window=source.window,
            stride=source.stride,
            regions=source.regions,
            policy=source.policy,
            # Of few files one line is enough where there is no terminal.
            progress=lambda done: show(done, "looked at", len(paths) >= 100 and done > 0 and done % tenth == 0),
        )
    skipped = [Skipped(number_of[name], None, str(error)) for name, error in found.failures]
    skipped += [Skipped(number_of[one.source], shown(one.record), printable(one.reason)) for one in found.skipped]
    good = [(number_of[file.source], file.windows or 0) for file in found.files]
    total = sum(windows for _, windows in good)
    least = LEAST_TOKENS if parameters["device"] == "cpu" else LEAST_ON_GPU
    size = options.shard_size or max(least, shard_tokens(total * source.window))
    # Whole batches, but for the last of a shard's windows that are of another length.
    windows = parameters["batch_size"] * max(1, size // (source.window * parameters["batch_size"]))
    cut = cut_shards(
        ((number, count, count > windows and source.divisible(paths[number])) for number, count in good),
        windows=windows,
    )
    logger.info("%d windows of %d inputs in %d shards", total, len(good), len(cut))
    return Plan(parameters, inputs, cut, tuple(sorted(skipped, key=lambda one: one.input)))


def _source(parameters: Any) -> SequenceSource:
    regions = parameters["regions"]
    if regions is not None and _hash_of(Path(regions)) != parameters["regions_sha256"]:
        raise InputError(f"{regions} has changed since the plan was made; choose another --out")
    return SequenceSource(
        parameters["window"],
        parameters["stride"],
        parameters["gap_policy"],
        None if regions is None else read_bed(Path(regions)),
    )


def _verb(parameters: Any, loaded: LoadedModel) -> verbs.Verb:
    if parameters["verb"] == "predict":
        return verbs.Predict(classifier_of(loaded))
    return verbs.Embed(loaded.model, pooling=parameters["pooling"], layer=parameters["layer"])


def _hash(artefact: Path) -> str:
    return " ".join(_hash_of(artefact / name) for name in ("config.json", "model.safetensors"))


def _hash_of(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _workers(options: BatchOptions, device: torch.device) -> tuple[int | None, int]:
    """Return how many workers there are, None for as many as a Ray cluster holds, and the threads of each."""
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    workers = options.workers
    if workers is None and options.engine == "local":
        workers = gpus
    if device.type == "cuda" and options.engine == "local" and workers is not None and workers > gpus:
        raise ConfigError(f"--workers {workers}: there is one worker a GPU, and {gpus} of them")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers, options.threads or max(1, cores // (workers or 1))


def _engine(options: BatchOptions, device: torch.device, workers: int | None, plan: Plan) -> Engine:
    threads = plan.parameters["threads"]
    if options.engine == "ray":
        return OnRay(
            open_worker, workers=workers, threads=threads, gpu=device.type == "cuda", address=options.ray_address
        )
    if workers is None or workers < 2:
        return InThisProcess(lambda folder: open_worker(folder.path, str(device)))
    devices = [f"cuda:{number}" for number in range(workers)] if device.type == "cuda" else [str(device)] * workers
    command = [sys.executable, "-m", "seqdomains", "batch-worker", str(options.out), "--device"]
    return Processes([[*command, name] for name in devices], threads=threads)


def _print(outcome: BatchOutcome) -> None:
    if outcome.blank:
        logger.warning(
            "%d windows are N or masked for more than half: what is said of them means nothing", outcome.blank
        )
    try:
        sys.stdout.write(f"{outcome.table}: {outcome.rows} rows\n")
        sys.stdout.flush()
    except (BrokenPipeError, AttributeError):
        # Nobody listens, and the table stands.
        silence_stdout()
