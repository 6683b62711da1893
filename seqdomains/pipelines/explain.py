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
from itertools import groupby, islice
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from seqdomains.backbone import MambaLM, SequenceClassifier
from seqdomains.errors import InputError
from seqdomains.pipelines.answers import PredictOutcome, reading, write_answers
from seqdomains.pipelines.batch.verbs import Predict, Runner, Verb
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


# The positions that were asked about, and values of shape (positions, 1 + codes).
Explained = tuple[ExplainedStretch, NDArray[np.float64]]


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


@dataclass
class Explainer:
    """Explains windows.

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
    ignored, before : int or None
        See `LikelihoodScore`.
    steps : int
        Of integrated gradients.
    at_once : int
        Windows on the device at once to begin with; after memory ran out it stays at what fitted.
    device : torch.device
    """

    model: SequenceClassifier | MambaLM
    method: Method
    codes: tuple[int, ...]
    device: torch.device
    number: int | None = None
    complement: tuple[int, ...] | None = None
    ignored: int | None = None
    before: int | None = None
    steps: int = 32
    at_once: int = 1
    completeness: Completeness = field(default_factory=Completeness)

    def explain(self, windows: Iterable[ExplainedWindow]) -> Iterator[Explained]:
        """Yield each window's positions with alternatives, and for each its importance and the changes for all codes.

        Neighbouring windows of one length go through the model together.

        Raises
        ------
        InputError
            A window does not fit into the memory, or a score is not finite.
        """
        for _, alike in groupby(windows, key=lambda window: len(window.tokens)):
            while some := list(islice(alike, self.at_once)):
                numbers = self._numbers(some)
                if self.method == "ism":
                    changes = [self._tried(window, number) for window, number in zip(some, numbers, strict=True)]
                else:
                    changes = self._in_parts(some, numbers)
                for window, number, found in zip(some, numbers, changes, strict=True):
                    yield self._explained(window, number, found)

    def _explained(self, window: ExplainedWindow, number: int, changes: NDArray[np.float64]) -> Explained:
        asked = window.tokens[window.first : window.last]
        known = np.isin(asked, self.codes)
        _refuse_infinite(bool(np.isfinite(changes[known]).all()))
        starts = window.start + window.first + np.flatnonzero(known)
        values = np.concatenate([0.0 - changes[known].mean(axis=1, keepdims=True), changes[known]], axis=1)
        of = "log_likelihood" if isinstance(self.model, MambaLM) else self.model.classes[number]
        return ExplainedStretch(window.record, starts, starts + 1, asked[known], of), values

    def _numbers(self, windows: Sequence[ExplainedWindow]) -> list[int]:
        """Return the class that each window is scored for; of a language model there is nothing to choose."""
        if isinstance(self.model, MambaLM) or self.number is not None:
            return [self.number or 0] * len(windows)
        runner = self._runner(cast(Verb, Predict(self.model, complement=self.complement)))
        found: list[int] = runner.fetch(runner.launch([window.tokens for window in windows])).argmax(axis=1).tolist()
        return found

    def _score(self, numbers: int | tuple[int, ...]) -> Score:
        score: Score = (
            LikelihoodScore(self.model, self.ignored, self.before)
            if isinstance(self.model, MambaLM)
            else ClassScore(self.model, numbers)
        )
        return score if self.complement is None else MeanScore(score, self.complement)

    def _runner(self, verb: Verb) -> Runner:
        return Runner(verb, device=self.device, batch_size=self.at_once, precision="float32")

    def _tried(self, window: ExplainedWindow, number: int) -> NDArray[np.float64]:
        """Return score changes of every alternative, shape (positions, codes); NaN where there are none."""
        # `launch` is all that a runner asks of a verb for `launch` and `fetch`.
        runner = self._runner(cast(Verb, _Launched(self._score(number))))
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
        self.at_once = runner.batch_size
        return changes

    def _alternatives(self, window: ExplainedWindow) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        for place in range(window.first, window.last):
            if window.tokens[place] in self.codes:
                for column, code in enumerate(self.codes):
                    if code != window.tokens[place]:
                        changed = window.tokens.copy()
                        changed[place] = code
                        yield place, column, changed

    def _in_parts(self, windows: Sequence[ExplainedWindow], numbers: Sequence[int]) -> list[NDArray[np.float64]]:
        """Return what gradients say of windows, fewer at once where the memory runs out."""
        found: list[NDArray[np.float64]] = []
        while len(found) < len(windows):
            part = slice(len(found), len(found) + self.at_once)
            try:
                found += self._followed(windows[part], tuple(numbers[part]))
            except torch.OutOfMemoryError as error:
                if self.at_once == 1:
                    length = len(windows[0].tokens)
                    raise InputError(
                        f"one window of {length} tokens does not fit into the memory; give a smaller --window"
                    ) from error
                self.at_once //= 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        return found

    def _followed(self, windows: Sequence[ExplainedWindow], numbers: tuple[int, ...]) -> list[NDArray[np.float64]]:
        """Return what the gradient says of every alternative; blocks are computed again, for windows that are long."""
        score = self._score(numbers)
        tokens = torch.from_numpy(np.stack([window.tokens for window in windows])).to(self.device)
        given = one_hot(tokens.long(), self.model.config.vocab_size).float()
        codes = torch.tensor(self.codes, device=self.device)
        if self.method == "saliency":
            slope = _slope(score, given)
        else:
            blank = given.clone()
            blank[torch.isin(tokens, codes.to(tokens.dtype))] = 0
            blank[..., codes] += (blank.sum(2) == 0)[..., None] / len(self.codes)
            slope = torch.zeros_like(given, dtype=torch.float64)
            for step in range(self.steps):
                # Midpoints of equal parts: their error falls with the square of the number of steps.
                slope += _slope(score, torch.lerp(blank, given, (step + 0.5) / self.steps)) / self.steps
            with torch.inference_mode():
                differences = (score(given) - score(blank)).tolist()
            totals = ((given - blank) * slope).sum((1, 2)).tolist()
            for total, difference in zip(totals, differences, strict=True):
                self.completeness.take(total, difference)
        own = slope.gather(2, tokens[..., None].long())
        changes = (slope[..., codes] - own).double().cpu().numpy()
        return [row[window.first : window.last] for row, window in zip(changes, windows, strict=True)]


class _Launched:
    """A score in the form that a runner calls."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def launch(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._score(tokens)


def _slope(score: Score, mixture: Tensor) -> Tensor:
    """Return the gradient of each window's score, shape (B, L, vocab_size)."""
    mixture = mixture.detach().requires_grad_()
    with torch.enable_grad():
        scored = score(mixture, recompute=True)
        _refuse_infinite(bool(scored.isfinite().all()))
        # Windows do not see each other: the gradient of the sum is that of each.
        (found,) = torch.autograd.grad(scored.sum(), mixture)
    return found


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
        yield from explainer.explain(reading(windows))

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
