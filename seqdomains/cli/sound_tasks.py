"""What a task on sound is trained and scored with: its model, its objective, and how the result reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from seqdomains.audio.clip_task import ClipTask
from seqdomains.backbone import SequenceClassifier, SequenceTagger
from seqdomains.cli.given_data import GivenData
from seqdomains.cli.sound_config import SoundRunConfig
from seqdomains.cli.sound_summary import tags_as_text
from seqdomains.cli.summary import as_text
from seqdomains.pipelines import evaluate as evaluation
from seqdomains.pipelines import tags
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.objectives import CLASSIFICATION, Objective, Tagging
from seqdomains.pipelines.run_folder import RunFolder


def new_model(task: ClipTask, config: SoundRunConfig) -> SequenceClassifier:
    """Return a model of what a task asks, its weights new."""
    kind = SequenceTagger if task.tagging else SequenceClassifier
    return kind(config.backbone(), classes=task.classes, pooling=config.pooling)


def objective_of(task: ClipTask) -> Objective:
    """Return what training on a task makes small."""
    return Tagging(len(task.classes)) if task.tagging else CLASSIFICATION


def score(
    model: SequenceClassifier,
    task: ClipTask | GivenData,
    config: EvaluateConfig,
    run: RunFolder | None,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Score a model on the test clips of a task."""
    if isinstance(model, SequenceTagger):
        return tags.evaluate_tags(model, task, config, run, device=device)
    return evaluation.evaluate(model, task, config, run, device=device)


def sound_as_text(result: Mapping[str, Any]) -> str:
    """Write an evaluation of any task on labelled sound as text."""
    if result.get("kind") == "tags":
        return tags_as_text(result)
    return as_text(result, units="clips", baseline="MFCC baseline", ranks=True)
