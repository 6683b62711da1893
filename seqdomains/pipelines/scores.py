"""One number for a window, which an explanation is of: a class's log-odds, or a log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seqdomains.backbone import MambaLM, SequenceClassifier
from seqdomains.backbone.strands import other_strand
from seqdomains.pipelines.ratio import WindowLikelihood


class Score(Protocol):
    """One number for each window, of codes, shape (B, L), or of mixtures of them, shape (B, L, vocab_size)."""

    def __call__(self, tokens: Tensor, *, recompute: bool = False) -> Tensor:
        """Return the scores, shape (B,), float64."""


@dataclass(frozen=True)
class ClassScore:
    """Log-odds of a class, log(p / (1 - p)); of a model's only class its logit.

    Parameters
    ----------
    model : SequenceClassifier
        In evaluation mode.
    number : int or tuple of int
        Of the class, for all windows or for each.
    """

    model: SequenceClassifier
    number: int | tuple[int, ...]

    def __call__(self, tokens: Tensor, *, recompute: bool = False) -> Tensor:
        """See `Score`."""
        logits: Tensor = self.model(tokens, recompute=recompute).double()
        asked = torch.tensor(self.number, device=logits.device).expand(len(logits))[:, None]
        own = logits.gather(1, asked)[:, 0]
        if logits.shape[1] == 1:
            return own
        return own - logits.scatter(1, asked, -torch.inf).logsumexp(1)


@dataclass(frozen=True)
class LikelihoodScore:
    """Log-likelihood of a window's tokens, each given all before it.

    Parameters
    ----------
    model : MambaLM
        In evaluation mode; causal.
    ignored, before : int or None
        See `WindowLikelihood`.
    """

    model: MambaLM
    ignored: int | None = None
    before: int | None = None

    def __call__(self, tokens: Tensor, *, recompute: bool = False) -> Tensor:
        """See `Score`."""
        if not tokens.is_floating_point():
            return WindowLikelihood(self.model, ignored=self.ignored, before=self.before).launch(tokens)
        if self.before is not None:
            head = torch.zeros_like(tokens[:, :1])
            head[..., self.before] = 1
            tokens = torch.cat([head, tokens], dim=1)
        given: Tensor = self.model(tokens[:, :-1], recompute=recompute).log_softmax(-1)
        asked = tokens[:, 1:]
        if self.ignored is not None:
            asked = asked * (torch.arange(asked.shape[-1], device=asked.device) != self.ignored)
        return (asked * given).sum((1, 2), dtype=torch.float64)


@dataclass(frozen=True)
class MeanScore:
    """Mean of a score over a window and its other strand."""

    score: Score
    complement: tuple[int, ...]

    def __call__(self, tokens: Tensor, *, recompute: bool = False) -> Tensor:
        """See `Score`."""
        other = other_strand(tokens, None, complement=self.complement)
        return (self.score(tokens, recompute=recompute) + self.score(other, recompute=recompute)) / 2
