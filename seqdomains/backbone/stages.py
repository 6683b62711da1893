"""Borders between the stages of a U-Net: neighbouring positions become one, and one becomes what they are told.

The way in puts the vectors of p positions, a group, side by side and projects them to one vector of the next stage. The
way out projects a vector to p of them, for the positions of the NEXT group: a position is told of whole groups before
its own alone, so that nothing is seen before its time, and a rest that makes no whole group is needed by nobody yet. So
any length goes, without padding, and what a position is told does not depend on where a sequence ends or is cut: groups
are counted from its beginning. (SaShiMi, arXiv:2202.09729, section 4, shifts by a group too, and wants lengths that all
factors divide.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqdomains.backbone.parameters import unset


class PoolIn(nn.Module):
    """The way to the next inner stage.

    Parameters
    ----------
    width, inner : int
        Of the stage and of the next one.
    factor : int
        Positions of a group.
    """

    def __init__(self, width: int, inner: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = unset(nn.Linear, factor * width, inner)

    def forward(self, stream: Tensor, pending: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a vector for each group that is whole now, shape (B, n, inner), and the rest, shape (B, k, width).

        Parameters
        ----------
        stream : Tensor, shape (B, L, width)
        pending : Tensor, shape (B, k, width), or None
            The rest of the call before; none at a sequence's beginning.

        Examples
        --------
        >>> pool = PoolIn(8, 16, 4)
        >>> pooled, pending = pool(torch.zeros(2, 11, 8), torch.zeros(2, 3, 8))
        >>> tuple(pooled.shape), tuple(pending.shape)
        ((2, 3, 16), (2, 2, 8))
        """
        if pending is not None and pending.shape[1]:
            stream = torch.cat([pending.to(stream.dtype), stream], dim=1)
        groups = stream.shape[1] // self.factor
        end = groups * self.factor
        whole, rest = stream[:, :end], stream[:, end:]
        pooled: Tensor = self.linear(whole.reshape(whole.shape[0], groups, self.factor * whole.shape[2]))
        return pooled, rest


class PoolOut(nn.Module):
    """The way back from the next inner stage.

    Parameters
    ----------
    width, inner : int
        Of the stage and of the next one.
    factor : int
        Positions of a group.
    """

    def __init__(self, width: int, inner: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = unset(nn.Linear, inner, factor * width)

    def forward(self, pooled: Tensor, held: Tensor | None, *, phase: int, length: int) -> tuple[Tensor, Tensor]:
        """Return what each position of the outer stage is told, shape (B, L, width), and what the next group is.

        Parameters
        ----------
        pooled : Tensor, shape (B, n, inner)
            Of the groups that this call made whole.
        held : Tensor, shape (B, 1, factor * width), or None
            What the call before has left for the group that is being read; None tells nothing, as to the first group.
        phase : int
            Positions of that group which the calls before have read.
        length : int
            Positions of this call, L.

        Examples
        --------
        >>> told, held = PoolOut(8, 16, 4)(torch.ones(2, 3, 16), None, phase=3, length=11)
        >>> tuple(told.shape), tuple(held.shape), bool(told[:, 0].any())
        ((2, 11, 8), (2, 1, 32), False)
        """
        found = self.linear(pooled)
        first = found.new_zeros(found.shape[0], 1, found.shape[2]) if held is None else held.to(found.dtype)
        groups = torch.cat([first, found], dim=1)
        told = groups.reshape(groups.shape[0], groups.shape[1] * self.factor, -1)[:, phase : phase + length]
        # A copy: a view would keep all of it.
        return told, groups[:, -1:].clone()
