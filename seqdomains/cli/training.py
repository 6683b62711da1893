"""What `train` and `pretrain` of every domain do with a known configuration: estimate, train, evaluate, print."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from seqdomains.backbone import FrameClassifier, MambaConfig, MambaLM, PatchReconstructor, Pooling, SequenceClassifier
from seqdomains.cli.config import Resolved
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines import bits
from seqdomains.pipelines import dry_run as estimation
from seqdomains.pipelines import evaluate as evaluation
from seqdomains.pipelines import train as training
from seqdomains.pipelines.bits import BitsConfig
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.objectives import CLASSIFICATION, NextToken, Objective, Reconstruction, refuse_unfit
from seqdomains.pipelines.ranks import joined, started_by_torchrun
from seqdomains.pipelines.recipe import TrainConfig, plan_steps
from seqdomains.pipelines.reconstruction import evaluate_reconstruction
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.task import ClassificationTask, MaskedTask, PretrainingTask, WindowTask

logger = logging.getLogger(__name__)


class Read(Protocol):
    """What a domain's configuration says of its data."""

    @property
    def paths(self) -> Sequence[Path]:
        """Files and folders; none where data are simulated."""


class Trained(Protocol):
    """What a domain's configuration says of a model and its training."""

    @property
    def data(self) -> Read:
        """What to read."""

    @property
    def train(self) -> TrainConfig:
        """How to train."""

    def backbone(self) -> MambaConfig:
        """Return the sizes of the backbone."""


class TrainedClassifier(Trained, Protocol):
    """What it says of a classifier."""

    @property
    def evaluate(self) -> EvaluateConfig:
        """How to score."""

    @property
    def pooling(self) -> Pooling:
        """How positions become one answer."""


class Pretrained(Trained, Protocol):
    """What it says of a language model, or of a reconstructor."""

    @property
    def evaluate(self) -> BitsConfig:
        """How to score."""


Model = TypeVar("Model", bound=SequenceClassifier | FrameClassifier | MambaLM | PatchReconstructor)
Task = TypeVar("Task", bound=WindowTask)
AsText = Callable[[Mapping[str, Any]], str]
AsAsked = Callable[[SequenceClassifier], tuple[nn.Module, Sequence[str]]]


def as_it_is(model: SequenceClassifier) -> tuple[nn.Module, Sequence[str]]:
    """Return a model as what is scored, of which there is nothing to say."""
    return model, ()


def print_estimate(
    config: TrainedClassifier, *, window: int, classes: tuple[str, ...] | None, device: torch.device
) -> None:
    """Print what training a classifier would take; under torchrun the first process does.

    Where the classes are not known two are assumed, and said to be.
    """
    model = SequenceClassifier(config.backbone(), classes=classes or ("one", "other"), pooling=config.pooling)
    print_estimate_of(model, config, window=window, device=device, objective=CLASSIFICATION)
    if classes is None and _speaks():
        sys.stdout.write("The data were not read: there may be other than two classes.\n")


def print_pretraining_estimate(
    config: Pretrained, *, window: int, device: torch.device, objective: Objective | None = None
) -> None:
    """Print what training a language model would take; under torchrun the first process does."""
    model, asked = MambaLM(config.backbone()), objective or NextToken()
    print_estimate_of(model, config, window=window, device=device, objective=asked)


def print_masked_estimate(config: Pretrained, *, window: int, device: torch.device) -> None:
    """Print what training a reconstructor would take; under torchrun the first process does."""
    model = PatchReconstructor(config.backbone())
    print_estimate_of(model, config, window=window, device=device, objective=Reconstruction())


def print_estimate_of(
    model: SequenceClassifier | FrameClassifier | MambaLM | PatchReconstructor,
    config: Trained,
    *,
    window: int,
    device: torch.device,
    objective: Objective,
) -> None:
    """Print what training a model would take; under torchrun the first process does.

    Raises
    ------
    InputError
        A file or folder of the data is not there.
    """
    refuse_unfit(config.train, model.config, objective=objective)
    for path in config.data.paths:
        if not path.exists():
            raise InputError(f"{path} does not exist: give the path of a file or of a folder of them")
    size = max(int(os.environ.get("WORLD_SIZE", "1")), config.train.sequence_ranks)
    found = estimation.dry_run(model, config.train, window=window, device=device, objective=objective, ranks=size)
    if _speaks():
        sys.stdout.write(found.as_text())


def _speaks() -> bool:
    """Whether this is the first process of a job."""
    return os.environ.get("RANK", "0") == "0"


def made(folder: Path) -> Path:
    """Make the folder that --out names, and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another --out") from error
    return folder


def train_and_evaluate(
    config: TrainedClassifier,
    resolved: Resolved[Any],
    *,
    preset: str,
    out: Path | None,
    device: torch.device,
    make_task: Callable[[], ClassificationTask],
    as_text: AsText,
    make_model: Callable[..., SequenceClassifier] | None = None,
    as_asked: AsAsked = as_it_is,
) -> None:
    """Train a classifier, evaluate, and print the result; go on with the run in `out` if there is one.

    Each process that torchrun starts makes this call; the first one writes and prints. `make_model` takes the
    classes and returns a model that knows something already, in place of a new one. `as_asked` makes of the trained
    model what is scored, and says so.
    """

    def score(model: SequenceClassifier, task: ClassificationTask, run: RunFolder) -> Mapping[str, Any]:
        asked, notes = as_asked(model)
        return evaluation.evaluate(asked, task, config.evaluate, run, device=device, notes=notes)

    fresh = make_model or partial(SequenceClassifier, config.backbone(), pooling=config.pooling)
    run_training(
        config,
        resolved,
        preset=preset,
        out=out,
        device=device,
        make_task=make_task,
        make_model=lambda task: fresh(classes=task.classes),
        objective_of=lambda task: CLASSIFICATION,
        score=score,
        as_text=as_text,
    )


def pretrain_and_evaluate(
    config: Pretrained,
    resolved: Resolved[Any],
    *,
    preset: str,
    out: Path | None,
    device: torch.device,
    make_task: Callable[[], PretrainingTask],
    as_text: AsText,
    objective: Objective | None = None,
) -> None:
    """Train a language model as `train_and_evaluate` trains a classifier, on next tokens if nothing else is given."""
    run_training(
        config,
        resolved,
        preset=preset,
        out=out,
        device=device,
        make_task=make_task,
        make_model=lambda task: MambaLM(config.backbone()),
        objective_of=lambda task: objective or NextToken(task.ignored),
        score=lambda model, task, run: bits.evaluate_bits(model, task, config.evaluate, run, device=device),
        as_text=as_text,
    )


def pretrain_masked_and_evaluate(
    config: Pretrained,
    resolved: Resolved[Any],
    *,
    preset: str,
    out: Path | None,
    device: torch.device,
    make_task: Callable[[], MaskedTask],
    as_text: AsText,
) -> None:
    """Train a reconstructor as `train_and_evaluate` trains a classifier."""
    run_training(
        config,
        resolved,
        preset=preset,
        out=out,
        device=device,
        make_task=make_task,
        make_model=lambda task: PatchReconstructor(config.backbone()),
        objective_of=lambda task: Reconstruction(),
        score=lambda model, task, run: evaluate_reconstruction(model, task, config.evaluate, run, device=device),
        as_text=as_text,
    )


def run_training(
    config: Trained,
    resolved: Resolved[Any],
    *,
    preset: str,
    out: Path | None,
    device: torch.device,
    make_task: Callable[[], Task],
    make_model: Callable[[Task], Model],
    objective_of: Callable[[Task], Objective],
    score: Callable[[Model, Task, RunFolder], Mapping[str, Any]],
    as_text: AsText,
) -> None:
    """Do what `train_and_evaluate` says, of a task whose model, objective and score are told by the task."""
    refuse_unfit(config.train, config.backbone())
    if out is None and started_by_torchrun():
        raise ConfigError("--out: name the run folder, which all processes of torchrun share")
    folder = out or Path("runs") / f"{Path(preset).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    tree = resolved.config.model_dump(mode="json")
    with joined(per_sequence=config.train.sequence_ranks, device=device) as ranks:
        with ranks.first_alone():
            if ranks.first and RunFolder(folder).config.exists():
                # Refuse another configuration before minutes of reading or simulating.
                RunFolder.prepare(folder, tree)
            else:
                RunFolder(folder).refuse_strangers()
            task = make_task()
            refuse_unfit(config.train, config.backbone(), objective=objective_of(task))
            # What is refused must leave no folder, which would then refuse the mended configuration.
            plan_steps(config.train, task.window, places=ranks.places)
            run = RunFolder.prepare(folder, tree) if ranks.first else RunFolder(folder)
        logger.info("preset %s, run folder %s: repeat with --out %s if it is stopped", preset, folder, folder)
        with seeded(config.train.seed, device=device):
            model = make_model(task)
        training.train(model, task, config.train, run, objective=objective_of(task), device=device, ranks=ranks)
    if not ranks.first:
        return
    result = run.read_evaluation() or score(model, task, run)
    sys.stdout.write(as_text(result))
    sys.stdout.write(f"run folder: {run.path} (seqdomains report {run.path} makes a page of it)\n")
