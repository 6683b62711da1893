"""Which positions of a window a model's answer rests on: every alternative tried, or a gradient followed.

Whatever the method, a position gets the change of the score for each code that could stand there, 0 for its own, and
its importance is the score of its own code minus the mean over all of them: minus the mean change. With tried
alternatives that is in-silico saturation mutagenesis; with gradients it is the gradient times the input whose mean over
the codes is taken off, since a gradient along the direction in which all codes grow alike means nothing (Majdandzic et
al. 2023, doi:10.1186/s13059-023-02956-3).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from seqdomains.backbone import MambaLM, SequenceClassifier
from seqdomains.errors import InputError
from seqdomains.pipelines.answers import PredictOutcome, reading, write_answers
from seqdomains.pipelines.batch.verbs import Runner, Verb
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.scores import ClassScore, LikelihoodScore, MeanScore, Score
from seqdomains.pipelines.tables import Table
from seqdomains.pipelines.tracks import Stretches

Method = Literal["ism", "saliency", "integrated-gradients"]


@dataclass(frozen=True)
class ExplainedWindow:
    """A window, and which of its positions are asked about.

    Parameters
    ----------
    record : str
    start : int
        Position of the window's first token in the record, 0-based.
    tokens : ndarray of uint8, shape (L,)
    first, last : int
        Positions within the window, 0-based half-open.
    """

    record: str
    start: int
    tokens: NDArray[np.uint8]
    first: int
    last: int


@dataclass(frozen=True)
class ExplainedStretch(Stretches):
    """Positions one by one, those whose code has alternatives; `codes` stand there, `of` is what was scored."""

    codes: NDArray[np.uint8]
    of: str


@dataclass
class Completeness:
    """How far integrated gradients are from adding up to the score's difference from the baseline's.

    Parameters
    ----------
    gap, difference : float
        Of the window where they are farthest from it.
    """

    gap: float = 0.0
    difference: float = 0.0

    def take(self, total: float, difference: float) -> None:
        """Take a window's sum and the difference that it should be."""
        if (gap := abs(total - difference)) >= self.gap:
            self.gap, self.difference = gap, difference


@dataclass(frozen=True)
class Explainer:
    """Explains windows one after the other.

    Parameters
    ----------
    model : SequenceClassifier or MambaLM
        In evaluation mode on the device.
    method : {"ism", "saliency", "integrated-gradients"}
        Every alternative tried; the gradient at the window; or its mean on the way to the window from one where every
        code is as likely as every other at each position.
    codes : tuple of int
        That stand for each other: the four bases. A position with another code is not explained.
    number : int or None
        Of the class; None is each window's own, the most likely one. Not of a language model.
    complement : tuple of int or None
        Where given, the score is the mean over both strands.
    ignored : int or None
        See `LikelihoodScore`.
    steps : int
        Of integrated gradients.
    runner_size : int
        Windows at once to begin with.
    device : torch.device
    """

    model: SequenceClassifier | MambaLM
    method: Method
    codes: tuple[int, ...]
    device: torch.device
    number: int | None = None
    complement: tuple[int, ...] | None = None
    ignored: int | None = None
    steps: int = 32
    runner_size: int = 1
    completeness: Completeness = field(default_factory=Completeness)

    def explain(self, window: ExplainedWindow) -> tuple[ExplainedStretch, NDArray[np.float64]]:
        """Return the positions with alternatives, and for each its importance and the changes for all codes.

        Raises
        ------
        InputError
            The window does not fit into the memory, or the score is not finite.
        """
        score, of = self._score(window.tokens)
        if self.method == "ism":
            changes = self._tried(score, window)
        else:
            try:
                changes = self._followed(score, window)
            except torch.OutOfMemoryError as error:
                raise InputError(
                    f"one window of {len(window.tokens)} tokens does not fit into the memory; give a smaller --window"
                ) from error
        asked = window.tokens[window.first : window.last]
        known = np.isin(asked, self.codes)
        _refuse_infinite(bool(np.isfinite(changes[known]).all()))
        starts = window.start + window.first + np.flatnonzero(known)
        values = np.concatenate([-changes[known].mean(axis=1, keepdims=True), changes[known]], axis=1)
        return ExplainedStretch(window.record, starts, starts + 1, asked[known], of), values

    def _score(self, tokens: NDArray[np.uint8]) -> tuple[Score, str]:
        score: Score
        if isinstance(self.model, MambaLM):
            score, of = LikelihoodScore(self.model, self.ignored), "log_likelihood"
        else:
            number = self.number
            if number is None:
                with torch.inference_mode():
                    number = int(self.model(torch.from_numpy(tokens)[None].to(self.device))[0].argmax())
            score, of = ClassScore(self.model, number), self.model.classes[number]
        return (score if self.complement is None else MeanScore(score, self.complement)), of

    def _tried(self, score: Score, window: ExplainedWindow) -> NDArray[np.float64]:
        """Return score changes of every alternative, shape (positions, codes); NaN where there are none."""
        # `launch` is all that a runner asks of a verb for `launch` and `fetch`.
        verb = cast(Verb, _Launched(score))
        runner = Runner(verb, device=self.device, batch_size=self.runner_size, precision="float32")
        changes = np.full((window.last - window.first, len(self.codes)), np.nan)
        own = runner.fetch(runner.launch([window.tokens]))[0]
        alternatives = self._alternatives(window)
        while some := list(islice(alternatives, runner.batch_size)):
            scores = runner.fetch(runner.launch([tokens for *_, tokens in some]))
            for (place, column, _), found in zip(some, scores, strict=True):
                changes[place - window.first, column] = found - own
        asked = window.tokens[window.first : window.last]
        for column, code in enumerate(self.codes):
            changes[asked == code, column] = 0
        return changes

    def _alternatives(self, window: ExplainedWindow) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        for place in range(window.first, window.last):
            if window.tokens[place] in self.codes:
                for column, code in enumerate(self.codes):
                    if code != window.tokens[place]:
                        changed = window.tokens.copy()
                        changed[place] = code
                        yield place, column, changed

    def _followed(self, score: Score, window: ExplainedWindow) -> NDArray[np.float64]:
        """Return what the gradient says of every alternative; blocks are computed again, for windows that are long."""
        tokens = torch.from_numpy(window.tokens).to(self.device)
        given = one_hot(tokens.long(), self.model.config.vocab_size).float()
        codes = torch.tensor(self.codes, device=self.device)
        if self.method == "saliency":
            slope = _slope(score, given)
        else:
            blank = given.clone()
            blank[torch.isin(tokens, codes.to(tokens.dtype))] = 0
            blank[:, codes] += (blank.sum(1) == 0)[:, None] / len(self.codes)
            slope = torch.zeros_like(given, dtype=torch.float64)
            for step in range(self.steps):
                # Midpoints of equal parts: their error falls with the square of the number of steps.
                slope += _slope(score, torch.lerp(blank, given, (step + 0.5) / self.steps)) / self.steps
            with torch.inference_mode():
                ends = [float(score(one[None])) for one in (given, blank)]
            self.completeness.take(float(((given - blank) * slope).sum()), ends[0] - ends[1])
        asked = slice(window.first, window.last)
        own = slope[asked].gather(1, tokens[asked, None].long())
        changes: NDArray[np.float64] = (slope[asked][:, codes] - own).double().cpu().numpy()
        return changes


class _Launched:
    """A score in the form that a runner calls."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def launch(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._score(tokens)


def _slope(score: Score, mixture: Tensor) -> Tensor:
    """Return the gradient of a window's score, shape (L, vocab_size)."""
    mixture = mixture[None].detach().requires_grad_()
    with torch.enable_grad():
        scored = score(mixture, recompute=True)
        _refuse_infinite(bool(scored.isfinite().all()))
        (found,) = torch.autograd.grad(scored.sum(), mixture)
    return found[0]


def _refuse_infinite(finite: bool) -> None:
    if not finite:
        raise InputError("the model gives scores that are not finite; its weights are damaged or its input is")


def explain(
    explainer: Explainer,
    inputs: Iterable[tuple[str, Iterable[ExplainedWindow]]],
    opened: AbstractContextManager[Table[ExplainedStretch]],
    *,
    total: int | None = None,
    progress: bool = True,
) -> PredictOutcome:
    """Write the importance of each position that is asked about, and the changes for all codes.

    Parameters
    ----------
    explainer : Explainer
        Its model is put on its device, and is back where it was afterwards.
    inputs : iterable of (str, iterable of ExplainedWindow)
        Each input's name and windows, read one after the other.
    opened : context manager
        Gives the table; it takes values of shape (positions, 1 + codes): importance, then changes.
    total : int, optional
        Number of positions, for the progress display.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    PredictOutcome
        Number of rows.

    Raises
    ------
    InputError
        An input is bad, a window does not fit into the memory, a score is not finite, a language model is not causal,
        or the output cannot be written.
    StoppedError
        SIGTERM or Ctrl-C came; no file was written.

    Examples
    --------
    >>> from contextlib import nullcontext
    >>> from seqdomains.backbone import MambaConfig
    >>> class Shown:
    ...     def begin_input(self): ...
    ...     def write(self, rows, values): print(rows.starts.tolist(), values.shape, values[:, 1:].min(0).tolist())
    >>> model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1, vocab_size=5), classes=("a", "b"))
    >>> explainer = Explainer(model, "saliency", codes=(0, 1, 2, 3), device=torch.device("cpu"))
    >>> window = ExplainedWindow("chr1", 100, np.array([0, 1, 4, 2], np.uint8), first=1, last=4)
    >>> outcome = explain(explainer, [("toy", [window])], nullcontext(Shown()), progress=False)  # doctest: +ELLIPSIS
    [101, 103] (2, 5) [...]
    """
    if isinstance(explainer.model, MambaLM):
        explainer.model.config.require_causal(
            "a log-likelihood", instead="Explain a classifier, or give a model that was trained on each next token."
        )

    def answers(windows: Iterable[ExplainedWindow]) -> Generator[tuple[ExplainedStretch, NDArray[np.float64]]]:
        for window in reading(windows):
            yield explainer.explain(window)

    with deterministic(), borrowed(explainer.model, device=explainer.device, training=False):
        found = ((name, answers(windows)) for name, windows in inputs)
        return write_answers(found, opened, name="explain", on_error="stop", total=total, progress=progress)


def recovery(importance: NDArray[np.float64], truth: NDArray[np.bool_]) -> dict[str, Any]:
    """Tell how well importance finds the positions that are known to matter.

    Parameters
    ----------
    importance : ndarray, shape (n,)
    truth : ndarray of bool, shape (n,)
        At least one of each kind.

    Returns
    -------
    dict
        ``average_precision`` of the importance (the area under the precision-recall curve, as a sum of steps),
        ``of_magnitude`` of its absolute value, ``chance`` (the share of positions that matter), ``positions``.

    Raises
    ------
    InputError
        All positions matter, or none.

    Examples
    --------
    >>> recovery(np.array([0.9, 0.1, 0.2, -0.8]), np.array([True, False, False, True]))["of_magnitude"]
    1.0
    """
    from sklearn.metrics import average_precision_score

    require_both_kinds(int(truth.sum()), len(truth))
    return {
        "average_precision": float(average_precision_score(truth, importance)),
        "of_magnitude": float(average_precision_score(truth, np.abs(importance))),
        "chance": float(truth.mean()),
        "positions": len(truth),
    }


def require_both_kinds(inside: int, positions: int) -> None:
    """Refuse positions of which all are in the truth, or none: nothing can be told of their order.

    Examples
    --------
    >>> require_both_kinds(3, 10)
    """
    if inside in (0, positions):
        raise InputError(
            f"{inside} of the {positions} positions to explain are in the truth: expected some inside and some "
            "outside; give other regions"
        )


def concatenated(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return parts as one array; of none, an empty one.

    Examples
    --------
    >>> concatenated([]).shape
    (0,)
    """
    return np.concatenate(parts) if parts else np.zeros(0)
