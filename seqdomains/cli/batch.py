"""What `predict --out`, `embed` and `stream --out` do: a batch over many files, in shards, on an engine."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from seqdomains.backbone import FrameClassifier, LoadedModel, MambaLM
from seqdomains.cli.batch_dna import Sequences
from seqdomains.cli.batch_plan import BatchOptions, Domain, hash_of, plan_of_records, plan_of_windows
from seqdomains.cli.batch_sound import Sounds
from seqdomains.cli.models import (
    artefact_of,
    choose_device,
    classifier_of,
    next_token_model_of,
    trained_window,
    windows_at_once,
)
from seqdomains.cores import usable_cores
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.answers import silence_stdout
from seqdomains.pipelines.batch import verbs
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.merge import BatchOutcome, Format, require_anndata
from seqdomains.pipelines.batch.plan import Plan, read_plan
from seqdomains.pipelines.batch.ray_engine import OnRay
from seqdomains.pipelines.batch.records import AlongClasses, AlongLikelihood, Records
from seqdomains.pipelines.batch.run import Engine, Slice, Waiting, run_batch
from seqdomains.pipelines.batch.segments import AlongFrames, AlongSegments
from seqdomains.pipelines.batch.shard import Computation
from seqdomains.pipelines.batch.whole import Whole
from seqdomains.pipelines.batch.windows import Windows
from seqdomains.pipelines.batch.worker import InThisProcess, Processes, Worker, serve
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.environment import DECISIVE, session_facts
from seqdomains.pipelines.stream import CHUNK
from seqdomains.pipelines.tracks import require_bigwig

logger = logging.getLogger(__name__)

DOMAINS: Mapping[str, Domain] = {"genomics": Sequences(), "audio": Sounds()}


def _option(name: str) -> Callable[[Any], str]:
    return lambda value: f"no {name}" if value is None else f"{name} {value}"


# What users give to have a value of a parameter: a plan's own names are none of theirs.
_TOLD: Mapping[str, Callable[[Any], str]] = {
    "complement": lambda value: "--strand forward" if value is None else "--strand both",
    "rows": lambda value: "--frames" if value == "frames" else "no --frames",
    "whole": lambda value: "no --window" if value else "--window",
    "gap_policy": lambda value: f"--set data.gap_policy={value}",
    "pooling": _option("--pool"),
    "shard_size": _option("--shard-size"),
    **{name: _option(f"--{name}") for name in ("window", "stride", "every", "layer", "regions", "precision")},
}
_TABLES: dict[str, str] = {"predict": "predictions", "embed": "embeddings", "stream": "stream"}


@dataclass(frozen=True)
class Asked:
    """What is computed of which parts of the inputs; None where the command does not say.

    Parameters
    ----------
    verb : {"predict", "embed", "stream"}
    window, stride
        Of windows.
    whole : bool
        Records as they are, in place of windows.
    pooling, layer
        Of embeddings.
    every : int or None
        Of streams: tokens from one row to the next.
    rows : {"segments", "frames"} or None
        Of predictions by a `FrameClassifier`: what has a row.
    """

    verb: Literal["predict", "embed", "stream"]
    window: int | None = None
    stride: int | None = None
    whole: bool = False
    pooling: verbs.EmbeddingPooling | None = None
    layer: int | None = None
    every: int | None = None
    rows: Literal["segments", "frames"] | None = None


def run_batch_command(
    domain_name: str,
    asked: Asked,
    model: Path,
    paths: Sequence[str],
    *,
    own: Mapping[str, Any],
    options: BatchOptions,
) -> BatchOutcome | Waiting:
    """Do a batch, or what is left of it; `own` are parameters of the domain's that results depend on."""
    domain = DOMAINS[domain_name]
    _check_engine(options)
    share = None if options.shard is None else Slice.parse(options.shard)
    device = choose_device(options.device)
    artefact = artefact_of(model)
    # Looked at here; workers have it on their devices.
    loaded = domain.load(artefact, device=torch.device("cpu"))
    if asked.verb == "stream":
        if isinstance(loaded.model, MambaLM):
            next_token_model_of(loaded)
        loaded.model.config.require_causal("a stream", instead="Classify windows instead: predict reads them whole.")
    _check_form(options.form, asked.verb, likelihoods=isinstance(loaded.model, MambaLM))
    workers, threads = _workers(options, device)
    facts = session_facts(device)
    parameters: dict[str, Any] = {
        "domain": domain_name,
        "verb": asked.verb,
        "model": str(artefact.absolute()),
        "model_sha256": _hash(artefact),
        "precision": options.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": threads,
        "shard_size": options.shard_size,
        **_of_verb(asked, loaded, device),
        **own,
        **{key: facts[key] for key in (*DECISIVE, "commit") if key not in ("threads", "device")},
    }
    _computation(domain, parameters, loaded, torch.device("cpu"))  # refuses a layer or a model that cannot be
    folder = BatchFolder(options.out)
    with ExitStack() as held:
        started = None
        if options.engine == "local" and (workers or 1) > 1:
            started = held.enter_context(_processes(options, device, workers or 1, threads))

        def make_plan() -> Plan:
            # Workers start, and try a batch, while the inputs are looked at.
            if started is not None:
                started.prepare(parameters)
            if "window" not in parameters:
                return plan_of_records(domain, parameters, paths, options)
            fitting = started.fits if started is not None else partial(_try_batch, parameters, device)
            return plan_of_windows(domain, parameters, paths, options, fitting)

        outcome = run_batch(
            folder,
            partial(_engine, options, device, workers, started),
            parameters=parameters,
            paths=paths,
            make_plan=make_plan,
            facts=facts,
            name=_TABLES[asked.verb],
            form=options.form,
            tokens=domain.tokens,
            share=share,
            told=_TOLD,
            may_differ={"cpu": "results then agree to rounding", "batch_size": ""}
            | ({} if options.threads else {"threads": ""}),
        )
    return outcome


def _of_verb(asked: Asked, loaded: LoadedModel, device: torch.device) -> dict[str, Any]:
    # How a record is cut into chunks decides the last bits.
    if asked.verb == "stream":
        every = asked.every or (1 if isinstance(loaded.model, MambaLM) else trained_window(loaded))
        return {"every": every, "chunk": CHUNK}
    if asked.rows is not None:
        return {"whole": True, "chunk": CHUNK, "rows": asked.rows}
    of_verb = {"pooling": asked.pooling, "layer": asked.layer}
    if asked.whole:
        return {"whole": True, "chunk": CHUNK, "batch_tokens": windows_at_once(device, 1), **of_verb}
    length = asked.window or trained_window(loaded)
    at_once = windows_at_once(device, length)
    return {"window": length, "stride": asked.stride or length, "batch_size": at_once, **of_verb}


def work(folder: Path, device: str) -> None:
    """Be a worker of a batch: shards to compute come on stdin, and what became of them goes to stdout."""
    # Whatever else writes to stdout would be taken for an answer.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        where = torch.device(device)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        serve(lambda: open_worker(folder, device), lambda parameters: _try_batch(parameters, where), sys.stdin, answers)


def _end_with(driver: int) -> None:
    """End this process when the driver is gone: its folder is no longer locked, and may be another one's."""
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)


def open_worker(path: Path, device: str) -> Worker:
    """Make a worker of the batch in a folder, from its plan alone.

    Raises
    ------
    InputError
        The model is not what it was when the plan was made, or cannot be read.
    """
    folder = BatchFolder(path)
    plan = read_plan(folder.plan)
    domain = DOMAINS.get(plan.parameters["domain"])
    if domain is None:
        raise InputError(f"{folder.plan} is of the domain {plan.parameters['domain']!r}, which this version lacks")
    artefact = Path(plan.parameters["model"])
    if _hash(artefact) != plan.parameters["model_sha256"]:
        raise InputError(f"{artefact} has changed since the plan was made; choose another --out")
    where = torch.device(device)
    loaded = domain.load(artefact, device=where)
    return Worker(plan, folder, _computation(domain, plan.parameters, loaded, where), loaded.model, where)


def _check_engine(options: BatchOptions) -> None:
    problems = []
    if options.shard is not None and options.engine == "ray":
        problems.append("--shard: is for jobs without an engine; leave --engine ray")
    if options.ray_address is not None and options.engine != "ray":
        problems.append("--ray-address: goes with --engine ray")
    if problems:
        raise ConfigError(problems)


def _check_form(form: Format, verb: str, *, likelihoods: bool) -> None:
    of_stream = ("parquet", "bedgraph", "bigwig") if likelihoods else ("parquet", "tsv")
    forms = {"predict": ("parquet", "tsv"), "embed": ("parquet", "h5ad"), "stream": of_stream}[verb]
    if form not in forms:
        of_what = (" of a language model" if likelihoods else " of a classifier") if verb == "stream" else ""
        raise ConfigError(f"--format {form}: {verb}{of_what} writes {', '.join(forms[:-1])} or {forms[-1]}")
    if form == "h5ad":
        require_anndata()
    if form == "bigwig":
        require_bigwig()


def _try_batch(parameters: Any, device: torch.device) -> int:
    """Return how many windows fit into a device's memory, so that no shard has to find that out.

    On a GPU that is tried, which also loads its kernels; a CPU's batches are small.
    """
    if device.type == "cpu" or "window" not in parameters:
        return int(parameters.get("batch_size", 1))
    loaded = DOMAINS[parameters["domain"]].load(Path(parameters["model"]), device=device)
    try:
        with deterministic(), borrowed(loaded.model, device=device, training=False):
            return _runner(parameters, loaded, device).fit(parameters["window"])
    finally:
        # Whoever computes may be another process on the same device.
        del loaded
        torch.cuda.empty_cache()


def _computation(domain: Domain, parameters: Any, loaded: LoadedModel, device: torch.device) -> Computation:
    if "window" in parameters:
        return Windows(domain.windows(parameters), _runner(parameters, loaded, device))
    if isinstance(loaded.model, FrameClassifier) and "rows" in parameters:
        kind = AlongFrames if parameters["rows"] == "frames" else AlongSegments
        along_frames = kind(loaded.model, device=device, precision=parameters["precision"])
        return Records(domain.records(parameters), along_frames)
    if parameters["verb"] != "stream":
        runner = _runner(parameters, loaded, device)
        return Whole(domain.records(parameters), runner, tokens=parameters["batch_tokens"])
    every = parameters["every"]
    along = (
        AlongLikelihood(
            loaded.model, every=every, device=device, before=parameters.get("before"), codes=parameters.get("codes")
        )
        if isinstance(loaded.model, MambaLM)
        else AlongClasses(classifier_of(loaded), every=every, device=device)
    )
    return Records(domain.records(parameters), along)


def _runner(parameters: Any, loaded: LoadedModel, device: torch.device) -> verbs.Runner:
    verb = (
        verbs.Predict(classifier_of(loaded), complement=parameters.get("complement"))
        if parameters["verb"] == "predict"
        else verbs.Embed(loaded.model, pooling=parameters["pooling"], layer=parameters["layer"])
    )
    at_once = parameters.get("batch_size") or parameters["batch_tokens"]
    return verbs.Runner(verb, device=device, batch_size=at_once, precision=parameters["precision"])


def _hash(artefact: Path) -> str:
    return " ".join(hash_of(artefact / name) for name in ("config.json", "model.safetensors"))


def _workers(options: BatchOptions, device: torch.device) -> tuple[int | None, int]:
    """Return how many workers there are, None for as many as a Ray cluster holds, and the threads of each."""
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    workers = options.workers
    if workers is None and options.engine == "local":
        workers = gpus
    if device.type == "cuda" and options.engine == "local" and workers is not None and workers > gpus:
        raise ConfigError(f"--workers {workers}: there is one worker a GPU, and {gpus} of them")
    return workers, options.threads or max(1, usable_cores() // (workers or 1))


def _engine(
    options: BatchOptions, device: torch.device, workers: int | None, started: Processes | None, plan: Plan
) -> Engine:
    threads = plan.parameters["threads"]
    if options.engine == "ray":
        return OnRay(
            open_worker, workers=workers, threads=threads, gpu=device.type == "cuda", address=options.ray_address
        )
    if workers is None or workers < 2:
        return InThisProcess(lambda folder: open_worker(folder.path, str(device)))
    if started is not None:
        if started.threads == threads:
            return started
        started.close()
    return _processes(options, device, workers, threads)


def _processes(options: BatchOptions, device: torch.device, workers: int, threads: int) -> Processes:
    devices = [f"cuda:{number}" for number in range(workers)] if device.type == "cuda" else [str(device)] * workers
    command = [sys.executable, "-m", "seqdomains", "batch-worker", str(options.out), "--device"]
    return Processes([[*command, name] for name in devices], threads=threads)


def print_last(text: str) -> None:
    """Write a line to stdout, where nobody may listen any more."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except (BrokenPipeError, AttributeError):
        # The table stands.
        silence_stdout()
