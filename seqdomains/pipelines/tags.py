"""Score a model that answers each class by itself on the fixed test windows, beside a simple reference and chance."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqdomains.backbone import SequenceTagger
from seqdomains.errors import InputError
from seqdomains.pipelines.batch_tensors import as_tensors
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.inference import Classifier
from seqdomains.pipelines.ranking import ranking, rankings
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.scoring import keep, scoring
from seqdomains.task import TaggingTask

_log = logging.getLogger(__name__)

# The probability from which on a class is said.
THRESHOLD = 0.5


def evaluate_tags(
    model: SequenceTagger,
    task: TaggingTask,
    config: EvaluateConfig,
    run: RunFolder | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Score `model` on the test windows of `task`, in fp32.

    Parameters
    ----------
    model : SequenceTagger
    task : TaggingTask
        Gives test windows and the reference.
    config : EvaluateConfig
        How many windows at once.
    run : RunFolder, optional
        Where to write evaluation.json and the test windows; none writes nothing.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    dict
        What `summarise_tags` returns, with ``cross_entropy`` (binary, nats, mean over windows and classes).

    Raises
    ------
    InputError
        There are no test windows, or the model's classes are not those of the task.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> from seqdomains.task import Batch
    >>> class Streets:
    ...     classes, simulated = ("dog", "rain"), True
    ...     def test_batches(self, batch_size):
    ...         labels = np.array([[1, 1], [0, 1], [0, 0]], np.float32)
    ...         yield Batch(np.zeros((3, 8), np.uint8), labels, np.array([8, 8, 8]))
    ...     def baseline_scores(self):
    ...         return "a cat", np.array([[1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    ...     def notes(self):
    ...         return ()
    >>> model = SequenceTagger(MambaConfig(d_model=8, n_layer=1), classes=Streets.classes)
    >>> result = evaluate_tags(model, Streets(), EvaluateConfig(), progress=False)
    >>> result["windows"], result["mean_average_precision"], round(result["chance"], 3)
    (3, 0.5, 0.5)
    >>> round(result["baseline"]["mean_average_precision"], 3), round(result["baseline"]["micro_f1"], 3)
    (0.917, 0.8)
    """
    device = torch.device(device)
    classes = task.classes
    if model.classes != classes:
        raise InputError(f"the model knows the classes {', '.join(model.classes)}, the data has {', '.join(classes)}")
    truths: list[NDArray[np.bool_]] = []
    shares: list[NDArray[np.float64]] = []
    with scoring(model, device=device, progress=progress) as show:
        classifier = Classifier(model, device=device, batch_size=config.batch_size)
        for batch in task.test_batches(config.batch_size):
            tensors = as_tensors(batch)
            shares.append(classifier.probabilities(tensors.tokens, tensors.lengths))
            truths.append(batch.targets > 0)
            show(sum(map(len, shares)), "windows", False)
    if not shares:
        raise InputError("there are no test windows to evaluate on")
    labels, found = np.concatenate(truths), np.concatenate(shares)
    _log.info("scored %d windows; now a reference, where there is one", len(labels))
    reference = task.baseline_scores()
    result = summarise_tags(
        labels,
        found,
        classes,
        baseline=None if reference is None else (reference[0], reference[1]),
        simulated=task.simulated,
        notes=task.notes(),
    )
    tiny = np.finfo(np.float64).tiny
    result["cross_entropy"] = float(-np.log(np.maximum(np.where(labels, found, 1 - found), tiny)).mean())
    keep(result, task, run)
    return result


def summarise_tags(
    labels: NDArray[np.bool_],
    shares: NDArray[np.float64],
    classes: tuple[str, ...],
    *,
    baseline: tuple[str, NDArray[np.float64]] | None,
    simulated: bool,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Turn probabilities into a result.

    Parameters
    ----------
    labels : ndarray of bool, shape (n, n_classes)
        Whether a window is of a class.
    shares : ndarray of float64, shape (n, n_classes)
        The probability of each.
    classes : tuple of str
        Names in the order of the columns.
    baseline : tuple of (str, ndarray) or None
        Name and scores of a reference, above 0 for yes.
    simulated : bool
        Whether any of the data is simulated.
    notes : tuple of str
        Sentences that must stand beside the result.

    Returns
    -------
    dict
        JSON-ready: ``kind`` ("tags"), ``mean_average_precision``, ``mean_auc`` and ``d_prime`` (see `ranking`),
        ``chance`` (the mean average precision of any order: the share of windows that a class has), ``micro_f1`` and
        ``macro_f1`` at a probability of 0.5, the latter over the classes that windows have, ``baseline`` with its
        ``name`` and the same of it, ``classes``, ``per_class``, ``windows``, ``simulated``, ``notes``.

    Examples
    --------
    >>> labels = np.array([[True], [False]])
    >>> found = summarise_tags(labels, np.array([[0.4], [0.1]]), ("dog",), baseline=None, simulated=False, notes=())
    >>> found["mean_average_precision"], found["micro_f1"], found["per_class"]["dog"]["windows"]
    (1.0, 0.0, 1)
    """
    prevalence = labels.mean(axis=0)
    told = (prevalence > 0) & (prevalence < 1)
    ranks, f1 = rankings(labels, shares), _f1(labels, shares >= THRESHOLD)
    per_class: dict[str, Any] = {
        name: {
            "windows": int(labels[:, place].sum()),
            "average_precision": None if (rank := ranks[place]) is None else rank[0],
            "auc": None if rank is None else rank[1],
            "chance": float(prevalence[place]),
            "f1": f1[place],
        }
        for place, name in enumerate(classes)
    }
    beside = None
    if baseline is not None:
        name, scores = baseline
        beside = {"name": name, **_scored(labels, scores, scores > 0)}
        for own, rank in zip(per_class.values(), rankings(labels, scores), strict=True):
            own["baseline"] = None if rank is None else rank[0]
    if absent := [name for place, name in enumerate(classes) if not labels[:, place].any()]:
        notes = (*notes, f"No test window has {', '.join(absent)}: left out of the means.")
    return {
        "kind": "tags",
        **_scored(labels, shares, shares >= THRESHOLD),
        "chance": float(prevalence[told].mean()) if told.any() else None,
        "baseline": beside,
        "classes": list(classes),
        "per_class": per_class,
        "windows": len(labels),
        "simulated": simulated,
        "notes": list(notes),
    }


def _scored(labels: NDArray[np.bool_], scores: NDArray[np.float64], said: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return what the model and the reference are compared by."""
    # What the windows never have would be 0 as soon as it is said once, and no average precision stands beside it.
    own = [one for place, one in enumerate(_f1(labels, said)) if one is not None and labels[:, place].any()]
    return {
        **ranking(labels, scores),
        "micro_f1": _f1(labels.reshape(-1, 1), said.reshape(-1, 1))[0],
        "macro_f1": sum(own) / len(own) if own else None,
    }


def _f1(labels: NDArray[np.bool_], said: NDArray[np.bool_]) -> list[float | None]:
    """Return the F1 of each column; None where nothing is of it and nothing is said to be."""
    both, either = (labels & said).sum(axis=0), labels.sum(axis=0) + said.sum(axis=0)
    return [2 * int(true) / int(count) if count else None for true, count in zip(both, either, strict=True)]
