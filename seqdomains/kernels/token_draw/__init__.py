"""Draw tokens of sequences that are written side by side, each from the logits behind the one before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import implementation, module_of

__all__ = ["Sampling", "TokenDraw"]


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

    @property
    def all_stay(self) -> bool:
        """Whether no token is left out for being unlikely, so that none has to be ranked."""
        return self.top_k is None and self.top_p is None and self.temperature > 0

    def most(self, vocabulary: int) -> int:
        """Return how many of the likeliest tokens may be drawn at most."""
        return 1 if self.temperature == 0 else min(self.top_k or vocabulary, vocabulary)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what a token is drawn by, shape (rows, codes), float64.

        Parameters
        ----------
        logits : Tensor, shape (rows, codes)
        """
        order, sorted_ = self.ranked(logits)
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
        order, chances = self.ranked(logits)
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
        return _entropy(self.ranked(logits)[1])

    def ranked(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens, from the likeliest on (the lower code first) where any may be left out, and probabilities."""
        wide = logits.double()
        if self.codes is not None:
            every = torch.arange(logits.shape[1], device=logits.device)
            forbidden = torch.ones_like(every, dtype=torch.bool)
            # Code by code: a list would be copied to the device, which a CUDA graph cannot hold.
            for code in self.codes:
                forbidden = forbidden & (every != code)
            wide = wide.masked_fill(forbidden, float("-inf"))
        if self.all_stay:
            return torch.arange(wide.shape[1], device=wide.device).expand_as(wide), (wide / self.temperature).softmax(1)
        wide, order = wide.sort(dim=1, descending=True, stable=True)
        ranks = torch.arange(wide.shape[1], device=wide.device)
        scaled = (wide / (self.temperature or 1.0)).masked_fill(ranks >= self.most(wide.shape[1]), float("-inf"))
        chances = scaled.softmax(1)
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


class TokenDraw:
    """Draws a token of each row at a time; all that it reads or writes lies in buffers of its own.

    One call is one launch on a GPU, which a CUDA graph can hold, and one call into compiled code on a CPU. What is
    drawn is what `Sampling.choose` says, to the rounding of sums: a random number that falls within 1e-15 of the border
    between two tokens may take the other one.

    Parameters
    ----------
    sampling : Sampling
    rows : int
        Sequences side by side.
    vocabulary : int
        Tokens that a model knows.
    block : int
        Most tokens of a row between two calls of `begin`.
    device : torch.device

    Attributes
    ----------
    logits : Tensor, shape (rows, vocabulary), float32
        Of the next token; whoever calls puts them there.
    now : Tensor of int64, shape (rows,)
        The token that the last call has drawn.

    Examples
    --------
    >>> draw = TokenDraw(Sampling(codes=(1, 2)), rows=2, vocabulary=4, block=3, device=torch.device("cpu"))
    >>> draw.begin(torch.tensor([[0.2, 0.7, 0.1], [0.6, 0.4, 0.9]], dtype=torch.float64))
    >>> for _ in range(3):
    ...     draw()
    >>> tokens, bits = draw.drawn()
    >>> tokens.tolist(), bits[0, 0].item()
    ([[1, 2, 1], [2, 1, 2]], 1.0)
    """

    def __init__(self, sampling: Sampling, *, rows: int, vocabulary: int, block: int, device: torch.device) -> None:
        if sampling.codes is not None and not set(sampling.codes) <= set(range(vocabulary)):
            raise ValueError(f"codes {sampling.codes}: expected some below {vocabulary}")
        self.sampling = sampling
        self.logits = torch.zeros(rows, vocabulary, device=device)
        self.now = torch.zeros(rows, dtype=torch.int64, device=device)
        self.draws = torch.zeros(rows, block, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(rows, block, dtype=torch.int64, device=device)
        self.bits = torch.zeros(rows, block, device=device)
        self.at = torch.zeros(rows, dtype=torch.int64, device=device)
        self.finite = torch.ones(rows, dtype=torch.int32, device=device)
        allowed = torch.ones(vocabulary, dtype=torch.int32)
        if sampling.codes is not None:
            allowed.zero_()[list(sampling.codes)] = 1
        self.allowed = allowed.to(device)
        name = implementation("token_draw", device, torch.float32)
        self._run: Callable[[], None] = module_of("token_draw", name, "forward").bind(self)

    def begin(self, draws: Tensor) -> None:
        """Take the random numbers of the next tokens, shape (rows, count), float64 in [0, 1)."""
        self._count = draws.shape[1]
        self.draws[:, : self._count].copy_(draws)
        self.at.zero_()
        self.finite.fill_(1)

    def __call__(self) -> None:
        """Draw the next token of each row from `logits`."""
        self._run()

    def drawn(self) -> tuple[Tensor, Tensor]:
        """Return the tokens since `begin`, and how many bits of choice each had, shape (rows, count), on the CPU.

        Raises
        ------
        FloatingPointError
            Logits were not finite.
        """
        if not bool(self.finite.all()):
            raise FloatingPointError("logits that are not finite")
        return self.tokens[:, : self._count].cpu().clone(), self.bits[:, : self._count].cpu().clone()
