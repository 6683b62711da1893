"""What a task on sound is trained and scored with: its model, its objective, and how the result reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from seqdomains import task as tasks
from seqdomains.audio.clip_task import ClipTask
from seqdomains.audio.frame_task import FrameTask
from seqdomains.backbone import FrameClassifier, LoadedModel, SequenceClassifier, SequenceTagger
from seqdomains.cli.given_data import GivenData
from seqdomains.cli.models import classifier_of
from seqdomains.cli.sound_config import SoundRunConfig
from seqdomains.cli.sound_summary import frames_as_text, tags_as_text
from seqdomains.cli.summary import as_text
from seqdomains.pipelines import evaluate as evaluation
from seqdomains.pipelines import frames, tags
from seqdomains.pipelines.bits import BitsConfig
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.objectives import CLASSIFICATION, Frames, Objective, Tagging
from seqdomains.pipelines.run_folder import RunFolder

Task = ClipTask | FrameTask
Judge = SequenceClassifier | FrameClassifier


def new_model(task: Task, config: SoundRunConfig) -> Judge:
    """Return a model of what a task asks, its weights new."""
    if isinstance(task, FrameTask):
        return FrameClassifier(config.backbone(), classes=task.classes)
    kind = SequenceTagger if task.tagging else SequenceClassifier
    return kind(config.backbone(), classes=task.classes, pooling=config.pooling)


def objective_of(task: Task) -> Objective:
    """Return what training on a task makes small."""
    if isinstance(task, FrameTask):
        return Frames()
    return Tagging(len(task.classes)) if task.tagging else CLASSIFICATION


def judge_of(loaded: LoadedModel) -> Judge:
    """Return the model of an artefact that knows classes.

    Raises
    ------
    InputError
        It is something else.
    """
    return loaded.model if isinstance(loaded.model, FrameClassifier) else classifier_of(loaded)


def settings_of(loaded: LoadedModel) -> dict[str, Any]:
    """Return what labelled data are, to be scored by a model."""
    model = loaded.model
    if isinstance(model, FrameClassifier):
        return {
            "data.frames": True,
            "data.background": model.classes[0],
            "data.activity": loaded.signature.get("activity"),
        }
    return {"data.frames": False, "data.tagging": isinstance(model, SequenceTagger)}


def score(
    model: Judge,
    task: Task | GivenData,
    config: EvaluateConfig,
    run: RunFolder | None,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Score a model on the test clips of a task."""
    if isinstance(model, FrameClassifier):
        at_once = BitsConfig(batch_size=config.batch_size)
        return frames.evaluate_frames(model, cast(tasks.FrameTask, task), at_once, run, device=device)
    if isinstance(model, SequenceTagger):
        return tags.evaluate_tags(model, cast(tasks.TaggingTask, task), config, run, device=device)
    return evaluation.evaluate(model, cast(tasks.ClassificationTask, task), config, run, device=device)


def sound_as_text(result: Mapping[str, Any]) -> str:
    """Write an evaluation of any task on labelled sound as text."""
    write = {"tags": tags_as_text, "frames": frames_as_text}.get(result.get("kind", ""))
    return write(result) if write else as_text(result, units="clips", baseline="MFCC baseline", ranks=True)
