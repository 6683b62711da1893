"""What training makes small: the mean loss over what counts in a batch, whatever parts and ranks it is cut into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqdomains.backbone import FrameClassifier, MambaConfig, MambaLM, PatchReconstructor
from seqdomains.backbone.frame_head import NOTHING
from seqdomains.backbone.lengths import counted_positions
from seqdomains.backbone.token_cost import token_cost
from seqdomains.errors import ConfigError
from seqdomains.pipelines.batch_tensors import BatchTensors
from seqdomains.pipelines.recipe import StepPlan, TrainConfig


class Objective(Protocol):
    """A mean over what counts in a batch, which is the sum of its parts' totals divided by the sum of their counts."""

    def most(self, plan: StepPlan) -> int:
        """Return how many may count in a batch: what its parts are divided by before all of it is counted."""

    def count(self, part: BatchTensors) -> float:
        """Return how many count in a part, or the sum of their weights."""

    def trial(self, tokens: Tensor) -> BatchTensors:
        """Return windows of any tokens, shape (B, L), as a part, to see what a step takes."""

    def total(self, model: nn.Module, part: BatchTensors, *, device: torch.device, **options: Any) -> Tensor:
        """Return the sum of the losses of a part, shape (), fp32; `options` are of the model's own call."""


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of the windows' classes, or of the shares that mixtures of windows have of them.

    Examples
    --------
    >>> part = BatchTensors(torch.zeros(2, 3), torch.tensor([0, 1]), None, 6)
    >>> CLASSIFICATION.total(lambda tokens, lengths: torch.zeros(2, 4), part, device=torch.device("cpu")).exp().item()
    16.0
    """

    def most(self, plan: StepPlan) -> int:
        """Return the number of windows; all of them count."""
        return plan.windows

    def count(self, part: BatchTensors) -> float:
        """Return the number of windows."""
        return len(part.tokens)

    def trial(self, tokens: Tensor) -> BatchTensors:
        """See `Objective`."""
        return BatchTensors(tokens, torch.zeros(len(tokens), dtype=torch.int64), None, _tokens(tokens))

    def total(self, model: nn.Module, part: BatchTensors, *, device: torch.device, **options: Any) -> Tensor:
        """See `Objective`.

        Raises
        ------
        ValueError
            The windows have no classes.
        """
        logits, targets = _answered(model, part, device, options)
        return F.cross_entropy(logits, targets, reduction="sum")


@dataclass(frozen=True)
class Tagging:
    """Binary cross-entropy of each class by itself, the mean over the classes.

    Parameters
    ----------
    classes : int
        How many there are.

    Examples
    --------
    >>> part = BatchTensors(torch.zeros(2, 3), torch.tensor([[0.0, 1.0], [1.0, 1.0]]), None, 6)
    >>> Tagging(2).total(lambda tokens, lengths: torch.zeros(2, 2), part, device=torch.device("cpu")).exp().item()
    4.0
    """

    classes: int

    def most(self, plan: StepPlan) -> int:
        """Return the number of windows; all of them count."""
        return plan.windows

    def count(self, part: BatchTensors) -> int:
        """Return the number of windows."""
        return len(part.tokens)

    def trial(self, tokens: Tensor) -> BatchTensors:
        """See `Objective`."""
        return BatchTensors(tokens, torch.zeros(len(tokens), self.classes), None, _tokens(tokens))

    def total(self, model: nn.Module, part: BatchTensors, *, device: torch.device, **options: Any) -> Tensor:
        """See `Objective`.

        Raises
        ------
        ValueError
            The windows have no targets.
        """
        logits, targets = _answered(model, part, device, options)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / targets.shape[1]


@dataclass(frozen=True)
class Frames:
    """Cross-entropy of the positions' classes, under a `FrameClassifier`.

    Examples
    --------
    >>> part = BatchTensors(torch.zeros(1, 3), torch.tensor([[0, 1, NOTHING]]), torch.tensor([2]), 2)
    >>> Frames().count(part)
    2
    """

    def most(self, plan: StepPlan) -> int:
        """Return the number of positions; padding among them does not count."""
        return plan.windows * plan.window

    def count(self, part: BatchTensors) -> int:
        """Return the number of positions that something is asked of."""
        return int((self._targets(part) != NOTHING).sum())

    def trial(self, tokens: Tensor) -> BatchTensors:
        """See `Objective`."""
        return BatchTensors(tokens, torch.zeros(tokens.shape[:2], dtype=torch.int64), None, _tokens(tokens))

    def total(self, model: nn.Module, part: BatchTensors, *, device: torch.device, **options: Any) -> Tensor:
        """See `Objective`.

        Raises
        ------
        ValueError
            The positions have no targets.
        """
        tokens, targets = (one.to(device, non_blocking=True) for one in (part.tokens, self._targets(part)))
        return cast(FrameClassifier, model).loss(tokens, targets, **options)

    def _targets(self, part: BatchTensors) -> Tensor:
        if part.targets is None or part.targets.shape != part.tokens.shape[:2]:
            raise ValueError("windows without a target for each position: give a FrameTask")
        return part.targets


def _answered(
    model: nn.Module, part: BatchTensors, device: torch.device, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return logits in fp32, and targets beside them."""
    if part.targets is None:
        raise ValueError("windows without targets: train on them with NextToken, or give a ClassificationTask")
    logits = model(part.tokens.to(device, non_blocking=True), part.lengths, **options)
    return logits.float(), part.targets.to(device, non_blocking=True)


@dataclass(frozen=True)
class NextToken:
    """Negative log-likelihood of each token given those before it, under a `MambaLM`.

    Parameters
    ----------
    ignored : int or None
        A code whose positions do not count.

    Examples
    --------
    >>> NextToken(ignored=4).count(BatchTensors(torch.tensor([[0, 4, 1, 2, 2]]), None, torch.tensor([4]), 4))
    2
    """

    ignored: int | None = None

    def most(self, plan: StepPlan) -> int:
        """Return the number of positions; padding and ignored codes among them do not count."""
        return plan.windows * plan.window

    def count(self, part: BatchTensors) -> float:
        """Return the number of positions that count, or the sum of their weights."""
        counted = counted_positions(part.tokens, part.lengths, self.ignored)
        return _sum(counted, None if part.weights is None else part.weights[:, 1:])

    def trial(self, tokens: Tensor) -> BatchTensors:
        """See `Objective`."""
        return BatchTensors(tokens, None, None, _tokens(tokens))

    def total(self, model: nn.Module, part: BatchTensors, *, device: torch.device, **options: Any) -> Tensor:
        """See `Objective`."""
        tokens = part.tokens.to(device, non_blocking=True)
        weights = None if part.weights is None else part.weights.to(device, non_blocking=True)
        return cast(MambaLM, model).loss(
            tokens, lengths=part.lengths, ignored=self.ignored, weights=weights, reduction="sum", **options
        )


@dataclass(frozen=True)
class MaskedTokens:
    """Negative log-likelihood of the tokens that are hidden, given all others, under a `MambaLM`.

    Row t of the logits is asked for the token at t. A causal model sees those before it alone; a bidirectional one is
    what this is for.

    Examples
    --------
    >>> targets = torch.tensor([[-1, 2, -1, 0]])
    >>> MaskedTokens().count(BatchTensors(torch.tensor([[0, 7, 1, 7]]), targets, None, 4))
    2
    """

    def most(self, plan: StepPlan) -> int:
        """Return the number of positions; those that are not hidden do not count."""
        return plan.windows * plan.window

    def count(self, part: BatchTensors) -> float:
        """Return the number of hidden positions, or the sum of their weights."""
        return _sum(self._targets(part) >= 0, part.weights)

    def trial(self, tokens: Tensor) -> BatchTensors:
        """See `Objective`."""
        return BatchTensors(tokens, tokens.long(), None, _tokens(tokens))

    def total(self, model: nn.Module, part: BatchTensors, *, device: torch.device, **options: Any) -> Tensor:
        """See `Objective`."""
        tokens, targets = (one.to(device, non_blocking=True) for one in (part.tokens, self._targets(part)))
        weights = None if part.weights is None else part.weights.to(device, non_blocking=True)
        return token_cost(cast(MambaLM, model), tokens, targets, weights=weights, **options)

    def _targets(self, part: BatchTensors) -> Tensor:
        if part.targets is None or part.targets.shape != part.tokens.shape:
            raise ValueError("windows without hidden tokens: train on them with NextToken, or give HiddenTokens")
        return part.targets


def _tokens(tokens: Tensor) -> int:
    return tokens.shape[0] * tokens.shape[1]


def _sum(counted: Tensor, weights: Tensor | None) -> float:
    return int(counted.sum()) if weights is None else float((weights * counted).sum(dtype=torch.float64))


@dataclass(frozen=True)
class Reconstruction:
    """Squared error of what is hidden in windows of a `MaskedTask`, under a `PatchReconstructor`.

    Examples
    --------
    >>> masked = torch.tensor([[False, True, True]])
    >>> Reconstruction().count(BatchTensors(torch.zeros(1, 3, 2), None, None, 3, masked))
    2
    """

    def most(self, plan: StepPlan) -> int:
        """Return the number of positions, of which those that are not hidden do not count."""
        return plan.windows * plan.window

    def count(self, part: BatchTensors) -> float:
        """Return the number of hidden positions."""
        return int(_masked(part).sum())

    def trial(self, tokens: Tensor) -> BatchTensors:
        """See `Objective`."""
        masked = torch.ones(tokens.shape[:2], dtype=torch.bool)
        return BatchTensors(tokens, None, None, _tokens(tokens), masked)

    def total(self, model: nn.Module, part: BatchTensors, *, device: torch.device, **options: Any) -> Tensor:
        """See `Objective`.

        Raises
        ------
        ValueError
            Nothing says what is hidden.
        """
        tokens, masked = part.tokens.to(device, non_blocking=True), _masked(part).to(device, non_blocking=True)
        return cast(PatchReconstructor, model).loss(tokens, masked, lengths=part.lengths, reduction="sum", **options)


def _masked(part: BatchTensors) -> Tensor:
    if part.masked is None:
        raise ValueError("windows of which nothing is hidden: give a MaskedTask")
    return part.masked


CLASSIFICATION: Final = Classification()


def refuse_unfit(config: TrainConfig, sizes: MambaConfig, *, objective: Objective | None = None) -> None:
    """Refuse what a model that is not causal, or not plain, cannot be trained with.

    Parameters
    ----------
    config : TrainConfig
    sizes : MambaConfig
        Of the model's backbone.
    objective : Objective, optional
        Where it is known.

    Raises
    ------
    ConfigError
        Time chunks, ranks that share a window, next tokens or frames.

    Examples
    --------
    >>> refuse_unfit(TrainConfig(time_chunk=64), MambaConfig(d_model=8, n_layer=1, bidirectional=True))
    Traceback (most recent call last):
    seqdomains.errors.ConfigError: train.time_chunk: the model reads both sides of a position, so that windows stay ...
    """
    if not sizes.plain and config.sequence_ranks > 1:
        raise ConfigError(
            "train.sequence_ranks: ranks share the windows of models with one stage of selective blocks with real "
            "states; leave it at 1, and ranks share the batch, or set train.time_chunk to save memory"
        )
    if sizes.causal:
        return
    reason = "the model reads both sides of a position"
    problems = []
    if config.time_chunk is not None:
        problems.append(
            f"train.time_chunk: {reason}, so that windows stay whole; lower train.micro_batch, or set "
            "train.recompute=true"
        )
    if config.sequence_ranks > 1:
        problems.append(
            f"train.sequence_ranks: {reason}, so that windows stay whole; leave it at 1, and ranks share the batch"
        )
    if isinstance(objective, NextToken):
        problems.append(
            f"model.bidirectional, model.reverse_complement: {reason} and has seen the next token, which it would be "
            "asked; train it on masked tokens"
        )
    if isinstance(objective, Frames):
        problems.append(
            f"model.bidirectional, model.reverse_complement: {reason}, and a class for each frame is said as it is "
            "read; leave it off, or train a classifier of whole windows"
        )
    if problems:
        raise ConfigError(problems)
