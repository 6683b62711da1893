"""Score a classifier on the fixed test windows, beside chance, a simple reference and the best that is possible."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from seqdomains.errors import InputError
from seqdomains.pipelines.batch_tensors import as_tensors
from seqdomains.pipelines.inference import Classifier
from seqdomains.pipelines.ranking import ranking
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.scoring import keep, scoring
from seqdomains.task import ClassificationTask, ControlledTask

_log = logging.getLogger(__name__)

# Two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


class EvaluateConfig(BaseModel):
    """How to evaluate; nothing here changes the result beyond rounding.

    Examples
    --------
    >>> EvaluateConfig().batch_size
    32
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(32, ge=1, description="Windows on the device at once; halved when the memory runs out.")


def evaluate(
    model: nn.Module,
    task: ClassificationTask,
    config: EvaluateConfig,
    run: RunFolder | None = None,
    *,
    device: torch.device | str = "cpu",
    notes: Sequence[str] = (),
    changed: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score `model` on the test windows of `task`, in fp32.

    Parameters
    ----------
    model : Module
        Called as ``model(tokens, lengths)``.
    task : ClassificationTask
        Gives test windows, reference and ceiling.
    config : EvaluateConfig
        How many windows at once.
    run : RunFolder, optional
        Where to write evaluation.json and the test windows; none writes nothing.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    notes : sequence of str
        Sentences that stand beside the result, before those of the task.
    changed : mapping, optional
        Settings, by dotted key, that differ from those of the run's configuration.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    dict
        JSON-ready: ``accuracy`` and its Wilson 95 % ``interval``, ``macro_accuracy`` (mean of the classes' recalls),
        ``macro_f1``, ``mean_average_precision``, ``mean_auc`` and ``d_prime`` (see `ranking`), ``chance``
        (1 / classes), ``majority`` (share of the commonest class), ``ceiling``, ``share_of_the_way`` =
        (accuracy - chance) / (ceiling - chance), ``baseline``, ``cross_entropy`` (nats), ``classes``, ``confusion``
        (row: true class, column: predicted), ``per_class``, ``windows``, ``simulated``, ``notes``. Of a
        `ControlledTask` also ``groups`` (windows, accuracy and interval of each group of test windows) and
        ``controls``, each of the form of ``baseline``. ``changed`` stands there where something is.

    Raises
    ------
    InputError
        There are no test windows, or the model's classes are not those of the task.

    Examples
    --------
    >>> from seqdomains.task import Batch
    >>> class Coins:
    ...     classes, simulated = ("tails", "heads"), True
    ...     def test_batches(self, batch_size):
    ...         yield Batch(np.array([[0, 0], [1, 1], [1, 0]]), np.array([0, 1, 1]), np.array([2, 2, 2]))
    ...     def ceiling(self):
    ...         return None
    ...     def baseline(self):
    ...         return {"name": "always heads", "accuracy": 2 / 3}
    ...     def notes(self):
    ...         return ("three coins",)
    >>> class Last(nn.Module):
    ...     def forward(self, tokens, lengths=None):
    ...         return nn.functional.one_hot(tokens[:, -1], 2).float()
    >>> result = evaluate(Last(), Coins(), EvaluateConfig(), progress=False)
    >>> round(result["accuracy"], 3), result["confusion"]
    (0.667, [[1, 0], [1, 1]])
    """
    device = torch.device(device)
    classes = task.classes
    names = getattr(model, "classes", classes)
    if tuple(names) != tuple(classes):
        raise InputError(f"the model knows the classes {', '.join(names)}, the data has {', '.join(classes)}")
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    surprise = 0.0
    truths: list[NDArray[np.int64]] = []
    scores: list[NDArray[np.float64]] = []
    with scoring(model, device=device, progress=progress) as show:
        classifier = Classifier(model, device=device, batch_size=config.batch_size)
        for targets, probabilities in _answers(classifier, task, config.batch_size):
            np.add.at(confusion, (targets, probabilities.argmax(axis=1)), 1)
            true_class = probabilities[np.arange(len(targets)), targets]
            truths.append(targets)
            scores.append(probabilities)
            surprise -= float(np.log(np.maximum(true_class, np.finfo(np.float64).tiny)).sum())
            show(int(confusion.sum()), f"accuracy {np.trace(confusion) / confusion.sum():.3f}", False)
    if not confusion.any():
        raise InputError("there are no test windows to evaluate on")
    _log.info("scored %d windows; now a reference and a ceiling, where there are any", confusion.sum())
    result = summarise(
        confusion,
        classes,
        ceiling=task.ceiling(),
        baseline=task.baseline(),
        cross_entropy=surprise / int(confusion.sum()),
        simulated=task.simulated,
        notes=(*notes, *task.notes()),
    )
    labels = np.concatenate(truths)[:, None] == np.arange(len(classes))
    result |= ranking(labels, np.concatenate(scores))
    if isinstance(task, ControlledTask):
        right = np.concatenate(scores).argmax(axis=1) == np.concatenate(truths)
        result |= {"groups": _by_group(task.test_groups(), right), "controls": _controls(task, len(right))}
    if changed:
        result["changed"] = dict(changed)
    keep(result, task, run)
    return result


def summarise(
    confusion: NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    ceiling: float | None,
    baseline: Mapping[str, Any] | None,
    cross_entropy: float,
    simulated: bool,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Turn counts into the result that `evaluate` describes.

    Parameters
    ----------
    confusion : ndarray of int64, shape (n_classes, n_classes)
        Windows by true class (row) and predicted class (column), at least one window.
    classes : tuple of str
        Names in the order of the rows.
    ceiling : float or None
        Best accuracy that is possible on these windows, where known.
    baseline : mapping or None
        ``name``, ``accuracy``, ``windows`` if it was scored on others, and what else the reference says of itself.
    cross_entropy : float
        Mean of -log(probability of the true class), nats.
    simulated : bool
        Whether any of the data is simulated.
    notes : tuple of str
        Sentences that must stand beside the result.

    Examples
    --------
    >>> counts = np.array([[8, 2], [1, 9]])
    >>> result = summarise(counts, ("a", "b"), ceiling=0.9, baseline=None, cross_entropy=0.4, simulated=True, notes=())
    >>> result["accuracy"], round(result["share_of_the_way"], 3), result["per_class"]["b"]["recall"]
    (0.85, 0.875, 0.9)
    """
    windows, correct = int(confusion.sum()), int(np.trace(confusion))
    accuracy, chance = correct / windows, 1 / len(classes)
    per_class = {name: _of_class(confusion, index) for index, name in enumerate(classes)}
    recalls = [facts["recall"] for facts in per_class.values() if facts["recall"] is not None]
    f1 = [facts["f1"] for facts in per_class.values() if facts["f1"] is not None]
    scored = None
    if baseline is not None:
        trials = baseline.get("windows", windows)
        scored = {**baseline, "interval": list(wilson_interval(round(baseline["accuracy"] * trials), trials))}
    return {
        "accuracy": accuracy,
        "interval": list(wilson_interval(correct, windows)),
        "macro_accuracy": sum(recalls) / len(recalls),
        "macro_f1": sum(f1) / len(f1),
        "chance": chance,
        "majority": int(confusion.sum(axis=1).max()) / windows,
        "ceiling": ceiling,
        "share_of_the_way": (accuracy - chance) / (ceiling - chance) if ceiling and ceiling > chance else None,
        "baseline": scored,
        "cross_entropy": cross_entropy,
        "classes": list(classes),
        "confusion": confusion.tolist(),
        "per_class": per_class,
        "windows": windows,
        "simulated": simulated,
        "notes": list(notes),
    }


def wilson_interval(successes: int, trials: int, *, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Parameters
    ----------
    successes, trials : int
        Counts, 0 <= successes <= trials and trials >= 1.
    z : float
        Normal quantile; the default gives 95 %.

    Raises
    ------
    ValueError
        The counts are not those of a proportion.

    Examples
    --------
    81 of 263 and 0 of 20 stand in table I of Newcombe 1998, Statistics in Medicine 17:857-872, method 3: 0.2553 to
    0.3662 and 0.0000 to 0.1611.

    >>> [round(bound, 4) for bound in wilson_interval(81, 263)]
    [0.2553, 0.3662]
    >>> [round(bound, 4) for bound in wilson_interval(0, 20)]
    [0.0, 0.1611]
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is no proportion")
    share = successes / trials
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    centre, scale = share + z * z / (2 * trials), 1 + z * z / trials
    # at the ends rounding would leave the interval's exact 0 and 1 by 1e-17
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def _answers(
    classifier: Classifier, task: ClassificationTask, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield targets and class probabilities, batch by batch."""
    for batch in task.test_batches(batch_size):
        tensors = as_tensors(batch)
        probabilities = classifier.probabilities(tensors.tokens, tensors.lengths)
        if probabilities.shape[1] != len(task.classes):
            raise InputError(
                f"the model tells {probabilities.shape[1]} classes apart, the data has {len(task.classes)}"
            )
        yield batch.targets, probabilities


def _by_group(groups: Sequence[str] | None, right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return windows, accuracy and its interval of each group, in the order in which they are met."""
    found = {}
    names = np.array(groups if groups is not None else ())
    for name in dict.fromkeys(names.tolist()):
        count, correct = int((names == name).sum()), int(right[names == name].sum())
        found[name] = {
            "windows": count,
            "accuracy": correct / count,
            "interval": list(wilson_interval(correct, count)),
        }
    return found


def _controls(task: ControlledTask, windows: int) -> list[dict[str, Any]]:
    return [
        {**control, "interval": list(wilson_interval(round(control["accuracy"] * windows), windows))}
        for control in task.controls()
    ]


def _of_class(confusion: NDArray[np.int64], index: int) -> dict[str, Any]:
    """Return windows, recall with its interval, precision and F1; None where nothing is there to divide by."""
    correct, true, predicted = int(confusion[index, index]), int(confusion[index].sum()), int(confusion[:, index].sum())
    return {
        "windows": true,
        "recall": correct / true if true else None,
        "interval": list(wilson_interval(correct, true)) if true else None,
        "precision": correct / predicted if predicted else None,
        "f1": 2 * correct / (true + predicted) if true + predicted else None,
    }
