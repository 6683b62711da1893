"""Score a reconstructor on the fixed test windows: squared error of what is hidden, beside simple references."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqdomains.backbone import PatchReconstructor
from seqdomains.backbone.reconstruction import patch_errors
from seqdomains.errors import InputError
from seqdomains.pipelines.bits import BitsConfig, ratio_error
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.scoring import keep, scoring
from seqdomains.task import MaskedTask, MaskedWindows

_log = logging.getLogger(__name__)


def evaluate_reconstruction(
    model: PatchReconstructor,
    task: MaskedTask,
    config: BitsConfig,
    run: RunFolder | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Score `model` on what is hidden in the test windows of `task`, in fp32.

    Parameters
    ----------
    model : PatchReconstructor
    task : MaskedTask
        Gives test windows and references.
    config : BitsConfig
        How much at once; a window is never cut.
    run : RunFolder, optional
        Where to write evaluation.json and the test windows; none writes nothing.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    dict
        What `summarise_errors` returns.

    Raises
    ------
    InputError
        Nothing is hidden in the test windows, or the model's answer is not finite.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> class Noise:
    ...     simulated = True
    ...     def test_batches(self, batch_size):
    ...         tokens = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    ...         yield MaskedWindows(tokens, np.arange(100).reshape(2, 50) % 2 == 0, np.array([50, 50]))
    ...     def baselines(self):
    ...         return [{"name": "mean", "error": 1.0}]
    ...     def notes(self):
    ...         return ()
    >>> model = PatchReconstructor(MambaConfig(d_model=8, n_layer=1, features=3))
    >>> result = evaluate_reconstruction(model, Noise(), BitsConfig(), progress=False)
    >>> result["positions"], result["error"] > 0.8
    (50, True)
    """
    device = torch.device(device)
    missed: list[NDArray[np.float64]] = []
    counts: list[NDArray[np.int64]] = []
    with scoring(model, device=device, progress=progress) as show:
        for batch in task.test_batches(config.batch_size):
            at_once = max(1, config.tokens_at_once // batch.tokens.shape[1])
            for first in range(0, len(batch.tokens), at_once):
                missed.append(_missed(model, batch, slice(first, first + at_once), device))
            counts.append(batch.masked.sum(1))
            show(sum(map(len, missed)), "windows", False)
    if not any(count.any() for count in counts):
        raise InputError("nothing is hidden in the test windows: there is nothing to evaluate on")
    _log.info("scored %d windows; now the references on the same windows", sum(map(len, missed)))
    result = summarise_errors(
        np.concatenate(missed),
        np.concatenate(counts),
        baselines=task.baselines(),
        simulated=task.simulated,
        notes=task.notes(),
    )
    keep(result, task, run)
    return result


def summarise_errors(
    missed: NDArray[np.float64],
    counts: NDArray[np.int64],
    *,
    baselines: Sequence[Mapping[str, Any]],
    simulated: bool,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Turn what is missed in each window into a result.

    Parameters
    ----------
    missed : ndarray of float64, shape (n,)
        Sum of the squared errors of the hidden positions of each window.
    counts : ndarray of int64, shape (n,)
        How many these are, at least one in all.
    baselines : sequence of mapping
        ``name`` and ``error`` of each.
    simulated : bool
        Whether any of the data is simulated.
    notes : tuple of str
        Sentences that must stand beside the result.

    Returns
    -------
    dict
        JSON-ready: ``kind`` ("reconstruction"), ``error`` (mean squared error over all hidden positions), its
        ``standard_error`` from how windows differ (None for a single one), ``baselines``, ``positions``, ``windows``,
        ``simulated``, ``notes``.

    Examples
    --------
    >>> missed, counts = np.array([10.0, 30.0]), np.array([10, 10])
    >>> result = summarise_errors(missed, counts, baselines=(), simulated=False, notes=())
    >>> result["error"], result["standard_error"]
    (2.0, 1.0)
    """
    return {
        "kind": "reconstruction",
        "error": float(missed.sum()) / int(counts.sum()),
        "standard_error": ratio_error(missed, counts),
        "baselines": [dict(one) for one in baselines],
        "positions": int(counts.sum()),
        "windows": int((counts > 0).sum()),
        "simulated": simulated,
        "notes": list(notes),
    }


def _missed(model: PatchReconstructor, batch: MaskedWindows, rows: slice, device: torch.device) -> NDArray[np.float64]:
    """Return the sum of the squared errors of what is hidden in each window."""
    tokens, masked = (torch.from_numpy(one[rows]).to(device) for one in (batch.tokens, batch.masked))
    with torch.inference_mode():
        found = model(tokens, masked, lengths=torch.from_numpy(batch.lengths[rows]))
        errors = patch_errors(found, tokens).masked_fill(~masked, 0)
    missed: NDArray[np.float64] = errors.to("cpu", torch.float64).sum(1).numpy()
    if not np.isfinite(missed).all():
        raise InputError("the model's patches are not finite; its weights are damaged or its input is")
    return missed
