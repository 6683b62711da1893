"""From the hidden vectors of a window's positions to one vector."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from seqdomains.backbone.precision import full_precision

Pooling = Literal["last", "mean", "both"]
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "both")


def pool(hidden: Tensor, lengths: Tensor | None, *, pooling: Pooling) -> Tensor:
    """Reduce hidden vectors over time, reading only the first `lengths` of each window.

    Parameters
    ----------
    hidden : Tensor, shape (B, L, d)
        L at least 1.
    lengths : Tensor of int64, shape (B,), or None
        Positions to read, 1 to L, on the device of `hidden`; None means all.
    pooling : "last", "mean" or "both"
        The last of those positions, their mean, or [last, mean].

    Returns
    -------
    pooled : Tensor, shape (B, d) or (B, 2 d), fp32

    Examples
    --------
    >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> pool(hidden, torch.tensor([2]), pooling="both").tolist()
    [[3.0, 2.0]]
    """
    parts = []
    if pooling in ("last", "both"):
        parts.append(last_position(hidden, lengths))
    if pooling in ("mean", "both"):
        parts.append(_mean(hidden, lengths))
    return torch.cat([full_precision(part) for part in parts], dim=-1)


def last_position(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the vector of the last of the first `lengths` positions of each window, 1 to L.

    Examples
    --------
    >>> last_position(torch.tensor([[[1.0], [3.0], [100.0]]]), torch.tensor([2])).tolist()
    [[3.0]]
    """
    if lengths is None:
        return hidden[:, -1]
    index = (lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


def _mean(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    # Summed in fp32: a bf16 sum of a million terms stops growing after a few hundred.
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    if lengths is None:
        return hidden.mean(1, dtype=dtype)
    return sum_of_positions(hidden, lengths) / lengths[:, None]


def sum_of_positions(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """Add the first `lengths` positions of each window, none or all of them where that is out of its range.

    Examples
    --------
    >>> sum_of_positions(torch.tensor([[[1.0], [3.0], [100.0]]]), torch.tensor([2])).tolist()
    [[4.0]]
    """
    if lengths is not None:
        real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        hidden = hidden.masked_fill(~real[:, :, None], 0)
    # A bf16 sum of a million terms stops growing after a few hundred.
    return hidden.sum(1, dtype=torch.promote_types(hidden.dtype, torch.float32))
