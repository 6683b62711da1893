"""Score a classifier of positions on the fixed test windows, beside a simple reference and the commonest class."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.backbone import FrameClassifier, InferenceState
from seqdomains.backbone.frame_head import NOTHING
from seqdomains.errors import InputError
from seqdomains.pipelines.batch_tensors import as_tensors
from seqdomains.pipelines.bits import BitsConfig, ratio_error
from seqdomains.pipelines.ranking import rankings
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.scoring import keep, scoring
from seqdomains.task import FrameTask

_log = logging.getLogger(__name__)


def evaluate_frames(
    model: FrameClassifier,
    task: FrameTask,
    config: BitsConfig,
    run: RunFolder | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Score `model` on the test windows of `task`, in fp32; on the device the memory does not grow with their length.

    Parameters
    ----------
    model : FrameClassifier
    task : FrameTask
        Gives test windows and the reference.
    config : BitsConfig
        How much at once.
    run : RunFolder, optional
        Where to write evaluation.json and the test windows; none writes nothing.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    dict
        What `summarise_frames` returns.

    Raises
    ------
    InputError
        There is no position to score, or the model's classes are not those of the task.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> from seqdomains.task import Batch
    >>> class Knocks:
    ...     classes, simulated = ("background", "knock"), True
    ...     def test_batches(self, batch_size):
    ...         targets = np.array([[0, 1, 0, 0], [1, 0, -100, -100]])
    ...         yield Batch(np.zeros((2, 4), np.uint8), targets, np.array([4, 2]))
    ...     def baseline(self):
    ...         return None
    ...     def notes(self):
    ...         return ()
    >>> model = FrameClassifier(MambaConfig(d_model=8, n_layer=1), classes=Knocks.classes)
    >>> result = evaluate_frames(model, Knocks(), BitsConfig(), progress=False)
    >>> result["frames"], result["windows"], round(result["majority"], 3)
    (6, 2, 0.667)
    """
    device = torch.device(device)
    classes = task.classes
    if model.classes != classes:
        raise InputError(f"the model knows the classes {', '.join(model.classes)}, the data has {', '.join(classes)}")
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    right: list[NDArray[np.float64]] = []
    counts: list[NDArray[np.int64]] = []
    ranked: list[tuple[NDArray[np.bool_], NDArray[np.float32]]] = []
    surprise = 0.0
    with scoring(model, device=device, progress=progress) as show:
        for batch in task.test_batches(config.batch_size):
            own, asked = np.zeros(len(batch.targets)), (batch.targets != NOTHING).sum(axis=1)
            step = max(1, config.tokens_at_once // len(own))
            for first, shares in _pieces(model, as_tensors(batch).tokens, device, step=step):
                targets = batch.targets[:, first : first + shares.shape[1]]
                rows, columns = np.nonzero(targets != NOTHING)
                truth, found = targets[rows, columns], shares[rows, columns]
                said = found.argmax(axis=1)
                np.add.at(confusion, (truth, said), 1)
                np.add.at(own, rows, truth == said)
                likely = np.maximum(found[np.arange(len(truth)), truth], np.finfo(np.float64).tiny)
                surprise -= float(np.log(likely).sum())
                if len(classes) == 2:
                    ranked.append((truth == 1, found[:, 1].astype(np.float32)))
            right.append(own)
            counts.append(asked)
            show(sum(map(len, right)), f"windows, accuracy {np.trace(confusion) / max(1, confusion.sum()):.3f}", False)
    if not confusion.any():
        raise InputError("there is no position to evaluate on")
    _log.info("scored %d positions; now a reference, where there is one", confusion.sum())
    area = None
    if ranked:
        rank = rankings(*(np.concatenate(one)[:, None] for one in zip(*ranked, strict=True)))[0]
        area = None if rank is None else rank[1]
    result = summarise_frames(
        confusion,
        classes,
        error=ratio_error(np.concatenate(right), np.concatenate(counts)),
        auc=area,
        baseline=task.baseline(),
        simulated=task.simulated,
        notes=task.notes(),
    )
    result |= {"windows": sum(map(len, right)), "cross_entropy": surprise / int(confusion.sum())}
    keep(result, task, run)
    return result


def summarise_frames(
    confusion: NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    error: float | None,
    auc: float | None,
    baseline: Mapping[str, Any] | None,
    simulated: bool,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Turn counts of positions into a result.

    Parameters
    ----------
    confusion : ndarray of int64, shape (n_classes, n_classes)
        Positions by true class (row) and predicted class (column), at least one.
    classes : tuple of str
        Names in the order of the rows, the background first.
    error : float or None
        Standard error of the accuracy, from how windows differ: positions of one window are alike.
    auc : float or None
        Area under the ROC curve of two classes.
    baseline : mapping or None
        See `seqdomains.task.FrameTask.baseline`.
    simulated : bool
        Whether any of the data is simulated.
    notes : tuple of str
        Sentences that must stand beside the result.

    Returns
    -------
    dict
        JSON-ready: ``kind`` ("frames"), ``accuracy`` over all positions and its ``standard_error``, ``majority`` (share
        of the commonest class), ``macro_f1``, ``auc``, ``baseline`` with the same of the reference, ``classes``,
        ``confusion``, ``per_class``, ``frames``, ``simulated``, ``notes``.

    Examples
    --------
    >>> counts = np.array([[8, 2], [1, 9]])
    >>> found = summarise_frames(
    ...     counts, ("background", "speech"), error=None, auc=0.9, baseline=None, simulated=True, notes=()
    ... )
    >>> found["accuracy"], found["majority"], round(found["per_class"]["speech"]["f1"], 3)
    (0.85, 0.5, 0.857)
    """
    beside = None
    if baseline is not None:
        beside = dict(baseline) | _scored(baseline["confusion"])
        beside["confusion"] = np.asarray(baseline["confusion"]).tolist()
    per_class = {}
    for place, name in enumerate(classes):
        correct, true, said = int(confusion[place, place]), int(confusion[place].sum()), int(confusion[:, place].sum())
        per_class[name] = {
            "frames": true,
            "recall": correct / true if true else None,
            "precision": correct / said if said else None,
            "f1": _f1(confusion)[place],
        }
    return {
        "kind": "frames",
        **_scored(confusion),
        "standard_error": error,
        "majority": int(confusion.sum(axis=1).max()) / int(confusion.sum()),
        "auc": auc,
        "baseline": beside,
        "classes": list(classes),
        "confusion": confusion.tolist(),
        "per_class": per_class,
        "frames": int(confusion.sum()),
        "simulated": simulated,
        "notes": list(notes),
    }


def _scored(confusion: NDArray[np.int64]) -> dict[str, float | None]:
    """Return what the model and the reference are compared by."""
    own = [one for one in _f1(confusion) if one is not None]
    return {"accuracy": int(np.trace(confusion)) / int(confusion.sum()), "macro_f1": sum(own) / len(own)}


def _f1(confusion: NDArray[np.int64]) -> list[float | None]:
    """Return the F1 of each class; None where nothing is of it and nothing is said to be."""
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    return [
        2 * int(true) / int(count) if count else None for true, count in zip(np.diag(confusion), either, strict=True)
    ]


def _pieces(
    model: FrameClassifier, tokens: Tensor, device: torch.device, *, step: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield where each piece of the windows begins and its probabilities, read with the state carried along."""
    state: InferenceState | None = None
    for first in range(0, tokens.shape[1], step):
        shares, state = frame_shares(model, tokens[:, first : first + step], state, device)
        yield first, shares


def frame_shares(
    model: FrameClassifier, tokens: Tensor, state: InferenceState | None, device: torch.device
) -> tuple[NDArray[np.float64], InferenceState]:
    """Return the class probabilities of each position of the next piece, and the state behind it.

    Parameters
    ----------
    model : FrameClassifier
        In evaluation mode, on the device.
    tokens : Tensor, shape (B, L) or (B, L, features)
        On the CPU.
    state : InferenceState or None
        Memory of the positions before; None at the beginning.
    device : torch.device

    Raises
    ------
    InputError
        The logits are not finite.
    """
    with torch.inference_mode():
        logits, state = model(tokens.to(device), state=state, return_state=True)
        logits = logits.to("cpu", torch.float64)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
    shares: NDArray[np.float64] = logits.softmax(dim=-1).numpy()
    return shares, state
