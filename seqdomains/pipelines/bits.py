"""Score a language model on the fixed test windows: bits per position, beside simple references."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from seqdomains.backbone import InferenceState, MambaLM
from seqdomains.backbone.lengths import counted_positions
from seqdomains.errors import InputError
from seqdomains.pipelines.batch_tensors import BatchTensors, as_tensors
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.scoring import keep, scoring
from seqdomains.task import HiddenTokens, PretrainingTask, Windows

_log = logging.getLogger(__name__)


class BitsConfig(BaseModel):
    """How to score a language model; nothing here changes the result beyond rounding.

    Examples
    --------
    >>> BitsConfig().batch_size
    32
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(32, ge=1, description="Windows on the device at once.")
    tokens_at_once: int = Field(
        1 << 14, ge=1, description="Tokens on the device at once; what is left of the windows follows with the state."
    )


def evaluate_bits(
    model: MambaLM,
    task: PretrainingTask,
    config: BitsConfig,
    run: RunFolder | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Score `model` on the test windows of `task`, in fp32.

    The memory does not grow with their length, but for `HiddenTokens`: of those one is read as a whole.

    Parameters
    ----------
    model : MambaLM
    task : PretrainingTask
        Gives test windows and references.
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
        What `summarise_bits` returns.

    Raises
    ------
    InputError
        No position of the test windows counts, or the logits are not finite.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> from seqdomains.task import Windows
    >>> class Dice:
    ...     ignored, codes, simulated = None, 8, True
    ...     def test_batches(self, batch_size):
    ...         yield Windows(np.random.default_rng(0).integers(8, size=(2, 1000)), np.array([1000, 500]))
    ...     def baselines(self):
    ...         return [{"name": "a fair die", "bits": 3.0}]
    ...     def notes(self):
    ...         return ()
    >>> model = MambaLM(MambaConfig(d_model=8, n_layer=1, vocab_size=8))
    >>> result = evaluate_bits(model, Dice(), BitsConfig(), progress=False)
    >>> result["positions"], round(result["bits"], 1), result["uniform"]
    (1498, 3.0, 3.0)
    """
    nats, counts = window_costs(model, task, config, device=device, progress=progress)
    if not counts.any():
        raise InputError("no position of the test windows counts: there is nothing to evaluate on")
    _log.info("scored %d windows; now the references on the same windows", len(nats))
    result = summarise_bits(
        nats,
        counts,
        codes=task.codes,
        baselines=task.baselines(),
        simulated=task.simulated,
        notes=task.notes(),
    )
    keep(result, task, run)
    return result


class ScoredWindows(Protocol):
    """What is scored: a `PretrainingTask`, or other windows of one."""

    @property
    def ignored(self) -> int | None:
        """A code whose positions do not count."""

    def test_batches(self, batch_size: int) -> Iterator[Windows]:
        """Yield the windows, always in the same order."""


def window_costs(
    model: MambaLM,
    task: ScoredWindows,
    config: BitsConfig,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what each test window costs, for who wants more than the mean: differences of models window by window.

    Parameters
    ----------
    model, config, device, progress
        See `evaluate_bits`.
    task : ScoredWindows
        Gives the windows.

    Returns
    -------
    nats : ndarray of float64, shape (n,)
        Sum of -log(probability) over the positions of each window that count, in the order of the windows.
    counts : ndarray of int64, shape (n,)
        How many these are.

    Raises
    ------
    InputError
        The logits are not finite.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> class Silence:
    ...     ignored = None
    ...     def test_batches(self, batch_size):
    ...         yield Windows(np.zeros((2, 10), np.uint8), np.array([10, 5]))
    >>> model = MambaLM(MambaConfig(d_model=8, n_layer=1, vocab_size=8))
    >>> nats, counts = window_costs(model, Silence(), BitsConfig(), progress=False)
    >>> nats.shape, counts.tolist()
    ((2,), [9, 4])
    """
    device = torch.device(device)
    nats: list[NDArray[np.float64]] = []
    counts: list[NDArray[np.int64]] = []
    with scoring(model, device=device, progress=progress) as show:
        for batch in task.test_batches(config.batch_size):
            part = as_tensors(batch)
            if isinstance(batch, HiddenTokens):
                lost, counted = _nats_of_masked(model, part, device, at_once=config.tokens_at_once)
            else:
                counted = counted_positions(part.tokens, part.lengths, task.ignored)
                if part.weights is not None:
                    counted = counted & (part.weights[:, 1:] > 0)
                lost = _nats(model, part.tokens, counted, device, at_once=config.tokens_at_once)
            nats.append(lost)
            counts.append(counted.sum(1).numpy())
            show(sum(map(len, nats)), "windows", False)
    none = np.zeros(0)
    return np.concatenate([none, *nats]), np.concatenate([none.astype(np.int64), *counts])


def summarise_bits(
    nats: NDArray[np.float64],
    counts: NDArray[np.int64],
    *,
    codes: int,
    baselines: Sequence[Mapping[str, Any]],
    simulated: bool,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Turn what each window costs into a result.

    Parameters
    ----------
    nats : ndarray of float64, shape (n,)
        Sum of -log(probability) over the positions of each window that count.
    counts : ndarray of int64, shape (n,)
        How many these are, at least one in all.
    codes : int
        Number of codes that a position may be.
    baselines : sequence of mapping
        ``name`` and ``bits`` of each, and what else it says of itself.
    simulated : bool
        Whether any of the data is simulated.
    notes : tuple of str
        Sentences that must stand beside the result.

    Returns
    -------
    dict
        JSON-ready: ``kind`` ("bits"), ``bits`` per position over all windows, its ``standard_error`` from how windows
        differ (None for a single one), ``uniform`` (of codes that are all alike), ``baselines``, ``positions``,
        ``windows``, ``simulated``, ``notes``.

    Examples
    --------
    >>> nats = np.array([100.0, 220.0]) * np.log(2)
    >>> counts = np.array([100, 100])
    >>> result = summarise_bits(nats, counts, codes=4, baselines=(), simulated=False, notes=())
    >>> round(result["bits"], 9), round(result["standard_error"], 9)
    (1.6, 0.6)
    """
    bits, positions = nats / math.log(2), int(counts.sum())
    return {
        "kind": "bits",
        "bits": float(bits.sum()) / positions,
        "standard_error": ratio_error(bits, counts),
        "uniform": math.log2(codes),
        "baselines": [dict(one) for one in baselines],
        "positions": positions,
        "windows": int((counts > 0).sum()),
        "simulated": simulated,
        "notes": list(notes),
    }


def ratio_error(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float | None:
    """Return the standard error of sum(sums) / sum(counts) from how windows differ; None for a single one.

    That of a ratio of two sums (Cochran 1977, Sampling Techniques, 2.11): longer windows weigh more.

    Examples
    --------
    >>> ratio_error(np.array([10.0, 30.0]), np.array([10, 10])), ratio_error(np.array([1.0]), np.array([1]))
    (1.0, None)
    """
    positions, windows = int(counts.sum()), int((counts > 0).sum())
    if windows < 2:
        return None
    spread = float(np.square(sums - sums.sum() / positions * counts).sum())
    return math.sqrt(windows / (windows - 1) * spread) / positions


def _nats(
    model: MambaLM, tokens: Tensor, counted: Tensor, device: torch.device, *, at_once: int
) -> NDArray[np.float64]:
    """Return what each window costs, read in pieces with the state carried along."""
    model.config.require_causal("bits of each next token", instead="Score it on masked tokens.")
    total = np.zeros(len(tokens))
    step = max(1, at_once // len(tokens))
    state: InferenceState | None = None
    for first in range(0, tokens.shape[1] - 1, step):
        piece = tokens[:, first : first + step + 1].to(device)
        with torch.inference_mode():
            logits, state = model(piece[:, :-1], state=state, return_state=True)
            lost = cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten().long(), reduction="none")
        lost = lost.view(len(piece), -1).to("cpu", torch.float64).masked_fill(~counted[:, first : first + step], 0)
        if not bool(lost.isfinite().all()):
            raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
        total += lost.sum(1).numpy()
    return total


def _nats_of_masked(
    model: MambaLM, part: BatchTensors, device: torch.device, *, at_once: int
) -> tuple[NDArray[np.float64], Tensor]:
    """Return what the hidden tokens of each window cost, and which they are."""
    if part.targets is None:
        raise ValueError("masked windows have targets")
    counted = part.targets >= 0
    if part.weights is not None:
        counted = counted & (part.weights > 0)
    total = []
    step = max(1, at_once // part.tokens.shape[1])
    for first in range(0, len(part.tokens), step):
        tokens, targets, asked = (one[first : first + step] for one in (part.tokens, part.targets, counted))
        with torch.inference_mode():
            logits = model(tokens.to(device))
            lost = cross_entropy(
                logits.flatten(0, 1), targets.clamp(min=0).flatten().long().to(device), reduction="none"
            )
        lost = lost.view(len(tokens), -1).to("cpu", torch.float64).masked_fill(~asked, 0)
        if not bool(lost.isfinite().all()):
            raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
        total.append(lost.sum(1).numpy())
    return np.concatenate(total), counted
