"""What `train` of every domain does once its configuration is known: estimate, train, evaluate, print."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from seqdomains.backbone import MambaConfig, Pooling, SequenceClassifier
from seqdomains.cli.config import Resolved
from seqdomains.errors import ConfigError
from seqdomains.pipelines import dry_run as estimation
from seqdomains.pipelines import evaluate as evaluation
from seqdomains.pipelines import train as training
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.ranks import joined, started_by_torchrun
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.task import ClassificationTask

logger = logging.getLogger(__name__)


class Trained(Protocol):
    """What a domain's configuration says of a classifier and its training."""

    @property
    def train(self) -> TrainConfig:
        """How to train."""

    @property
    def evaluate(self) -> EvaluateConfig:
        """How to score."""

    @property
    def pooling(self) -> Pooling:
        """How positions become one answer."""

    def backbone(self) -> MambaConfig:
        """Return the sizes of the backbone."""


def print_estimate(config: Trained, *, window: int, classes: tuple[str, ...], device: torch.device) -> None:
    """Print what a run would take; under torchrun the first process does."""
    model = SequenceClassifier(config.backbone(), classes=classes, pooling=config.pooling)
    size = max(int(os.environ.get("WORLD_SIZE", "1")), config.train.sequence_ranks)
    found = estimation.dry_run(model, config.train, window=window, device=device, ranks=size)
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(found.as_text())


def train_and_evaluate(
    config: Trained,
    resolved: Resolved[Any],
    *,
    preset: str,
    out: Path | None,
    device: torch.device,
    make_task: Callable[[], ClassificationTask],
    as_text: Callable[[Mapping[str, Any]], str],
) -> None:
    """Train, evaluate, and print the result; go on with the run in `out` if there is one.

    Each process that torchrun starts makes this call; the first one writes and prints.
    """
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
            run = RunFolder.prepare(folder, tree) if ranks.first else RunFolder(folder)
        logger.info("preset %s, run folder %s: repeat with --out %s if it is stopped", preset, folder, folder)
        with seeded(config.train.seed, device=device):
            model = SequenceClassifier(config.backbone(), classes=task.classes, pooling=config.pooling)
        training.train(model, task, config.train, run, device=device, ranks=ranks)
    if not ranks.first:
        return
    result = run.read_evaluation() or evaluation.evaluate(model, task, config.evaluate, run, device=device)
    sys.stdout.write(as_text(result))
    sys.stdout.write(f"run folder: {run.path} (seqdomains report {run.path} makes a page of it)\n")
