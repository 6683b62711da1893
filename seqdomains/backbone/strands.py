"""A sequence read from its other end with each code's partner in its place, as DNA's other strand is.

A model that is equivariant under this (parameter sharing over channels, arXiv:2403.03234, section 3.2) applies one
backbone to both strands and lays their channels side by side, those of the other strand in reverse: its residual stream
is 2 d_model wide, and the reverse complement of a window has the same vectors with time and channels reversed. No block
mixes the halves, so that the strands go through it as rows of the batch, each from its own beginning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def turned(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse the real positions of each window, and leave what stands behind them in its place.

    Parameters
    ----------
    values : Tensor, shape (B, L) or (B, L, ...)
    lengths : Tensor of int64, shape (B,), on the device of `values`, or None
        Real positions of each window; None means all.

    Examples
    --------
    >>> turned(torch.tensor([[1, 2, 3, 0]]), torch.tensor([3])).tolist()
    [[3, 2, 1, 0]]
    """
    if lengths is None:
        return values.flip(1)
    at = torch.arange(values.shape[1], device=values.device)
    source = torch.where(at < lengths[:, None], lengths[:, None] - 1 - at, at)
    return values.gather(1, source.view(*source.shape, *[1] * (values.dim() - 2)).expand_as(values))


def other_strand(tokens: Tensor, lengths: Tensor | None, *, complement: Sequence[int]) -> Tensor:
    """Read windows from their other end, each code's partner in its place.

    Parameters
    ----------
    tokens : Tensor, shape (B, L) or (B, L, n_codes)
        Codes of an integer dtype, or mixtures of codes.
    lengths : Tensor of int64, shape (B,), or None
        See `turned`.
    complement : sequence of int
        The partner of each code.

    Examples
    --------
    >>> other_strand(torch.tensor([[0, 0, 1, 4]]), torch.tensor([3]), complement=(3, 2, 1, 0, 4)).tolist()
    [[2, 3, 3, 4]]
    """
    partner = torch.tensor(complement, device=tokens.device)
    if tokens.is_floating_point():
        return turned(tokens[..., partner], lengths)
    return turned(partner.to(tokens.dtype)[tokens.long()], lengths)


def beside(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """Lay the vectors of both strands side by side, position by position.

    Parameters
    ----------
    hidden : Tensor, shape (2 B, L, d)
        Of all windows, then of their other strands, each from its own beginning.
    lengths : Tensor of int64, shape (B,), or None
        See `turned`.

    Returns
    -------
    Tensor, shape (B, L, 2 d)
        The channels of the other strand in reverse.

    Examples
    --------
    >>> beside(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]), None).tolist()
    [[[1.0, 2.0, 8.0, 7.0], [3.0, 4.0, 6.0, 5.0]]]
    """
    given, other = hidden.chunk(2)
    return torch.cat([given, turned(other, lengths).flip(-1)], dim=-1)


class MeanOfStrands(nn.Module):
    """A classifier whose probabilities are the mean of what it says of a window and of its other strand.

    Parameters
    ----------
    model : Module
        Called as ``model(tokens, lengths)``; gives logits of shape (B, n_classes).
    complement : sequence of int
        The partner of each code.

    Examples
    --------
    >>> class First(nn.Module):
    ...     def forward(self, tokens, lengths=None):
    ...         return torch.nn.functional.one_hot(tokens[:, 0], 4).float()
    >>> both = MeanOfStrands(First(), complement=(3, 2, 1, 0))
    >>> both(torch.tensor([[0, 0, 1]])).softmax(1)[0]
    tensor([0.3251, 0.1749, 0.3251, 0.1749], dtype=torch.float64)
    """

    def __init__(self, model: nn.Module, *, complement: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.complement = tuple(complement)
        if (classes := getattr(model, "classes", None)) is not None:
            self.classes = classes

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logarithms of the mean probabilities, shape (B, n_classes), float64.

        The strands go through the model one after the other, and need no more memory than one.
        """
        on_device = None if lengths is None else lengths.to(tokens.device, torch.int64)
        other = other_strand(tokens, on_device, complement=self.complement)
        found = [self.model(one, lengths).double().log_softmax(-1) for one in (tokens, other)]
        return torch.logaddexp(*found) - math.log(2)
