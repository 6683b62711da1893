"""How a token is drawn from what a model says comes next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits.

    Parameters
    ----------
    temperature : float
        The logits are divided by it; 0 takes the likeliest token.
    top_k : int, optional
        Only the likeliest k tokens.
    top_p : float, optional
        Of those, only the fewest whose probabilities are p together (nucleus sampling, arXiv:1904.09751).
    codes : tuple of int, optional
        Only these; all that the model has, if not given.

    Raises
    ------
    ValueError
        A value is out of range.

    Examples
    --------
    >>> logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]]))
    >>> Sampling(top_p=0.6).probabilities(logits).tolist()[0][::3]
    [0.571428..., 0.0]
    >>> [found.item() for found in Sampling(temperature=0).choose(logits, torch.tensor([0.9]))]
    [0, 0.0]
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    codes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: expected a number from 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: expected 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p:g}: expected a number above 0 and up to 1")
        if self.codes is not None and not self.codes:
            raise ValueError("codes: expected one or more")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what a token is drawn by, shape (rows, codes), float64.

        Parameters
        ----------
        logits : Tensor, shape (rows, codes)
        """
        order, sorted_ = self._sorted(logits)
        return torch.zeros_like(sorted_).scatter(1, order, sorted_)

    def choose(self, logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a token for each row.

        Parameters
        ----------
        logits : Tensor, shape (rows, codes)
        draws : Tensor, shape (rows,)
            Uniform numbers in [0, 1).

        Returns
        -------
        tokens : Tensor of int64, shape (rows,)
        bits : Tensor of float64, shape (rows,)
            Entropy of what each was drawn by.
        """
        order, chances = self._sorted(logits)
        up_to = _running_sums(chances)
        # Not above the last one that can be: rounding may leave the sum below 1.
        places = torch.arange(chances.shape[1], device=chances.device)
        last = torch.where(chances > 0, places, 0).amax(1)
        place = (up_to <= (draws.to(up_to.dtype) * up_to[:, -1])[:, None]).sum(1)
        return order.gather(1, torch.minimum(place, last)[:, None])[:, 0], _entropy(chances)

    def entropy(self, logits: Tensor) -> Tensor:
        """Return how many bits of choice a token has, shape (rows,), float64.

        Parameters
        ----------
        logits : Tensor, shape (rows, codes)

        Examples
        --------
        >>> Sampling(codes=(0, 1)).entropy(torch.zeros(1, 4)).item()
        1.0
        """
        return _entropy(self._sorted(logits)[1])

    def _sorted(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens, from the likeliest on (the lower code first) where any may be left out, and probabilities."""
        wide = logits.double()
        if self.codes is not None:
            every = torch.arange(logits.shape[1], device=logits.device)
            forbidden = torch.ones_like(every, dtype=torch.bool)
            # Code by code: a list would be copied to the device, which a CUDA graph cannot hold.
            for code in self.codes:
                forbidden = forbidden & (every != code)
            wide = wide.masked_fill(forbidden, float("-inf"))
        if self.top_k is None and self.top_p is None and self.temperature > 0:
            # Nothing is left out, so that no token has to be ranked: a fifth of the time of a small model's step.
            return torch.arange(wide.shape[1], device=wide.device).expand_as(wide), (wide / self.temperature).softmax(1)
        wide, order = wide.sort(dim=1, descending=True, stable=True)
        ranks = torch.arange(wide.shape[1], device=wide.device)
        most = 1 if self.temperature == 0 else self.top_k or wide.shape[1]
        chances = (wide / (self.temperature or 1.0)).masked_fill(ranks >= most, float("-inf")).softmax(1)
        if self.top_p is not None:
            # The token with which the sum reaches p is among them.
            before = _running_sums(chances) - chances
            chances = chances.masked_fill(before >= self.top_p, 0)
            chances = chances / chances.sum(1, keepdim=True)
        return order, chances


def _entropy(chances: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(chances).sum(1)
    return nats / math.log(2)


def _running_sums(chances: Tensor) -> Tensor:
    """Add up along rows; on a GPU by a product with a triangle, since cumsum has no deterministic form there."""
    if chances.device.type == "cpu":
        return chances.cumsum(1)
    size = chances.shape[1]
    return chances @ torch.ones(size, size, dtype=chances.dtype, device=chances.device).triu()
