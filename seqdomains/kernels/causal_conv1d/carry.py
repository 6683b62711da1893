"""The state that one call of the convolution hands to the next: the last inputs, in plain torch for every device."""

from __future__ import annotations

import torch
from torch import Tensor


def last_inputs(x: Tensor, state: Tensor | None, lags: int, reverse: bool, cu_seqlens: Tensor | None) -> Tensor:
    """Return the last inputs of each sequence in the order of processing; a short one keeps some of its state.

    Parameters
    ----------
    x : Tensor, shape (B, L, D)
        Input with at least one element.
    state : Tensor, shape (B, lags, D) or (S, lags, D), optional
        Inputs before x; zero when absent.
    lags : int
        How many steps the filter looks back.
    reverse : bool
        Whether the first row is the last step.
    cu_seqlens : Tensor, shape (S + 1,), optional
        Borders of packed sequences.

    Returns
    -------
    Tensor, shape (B, lags, D) or (S, lags, D)
        In x's dtype.

    Examples
    --------
    >>> last_inputs(torch.arange(5.0).reshape(1, 5, 1), None, 3, True, None).flatten()
    tensor([2., 1., 0.])
    """
    if cu_seqlens is not None:
        return _last_of_packed(x, state, lags, reverse, cu_seqlens)
    recent = x[:, :lags].flip(1) if reverse else x[:, -lags:]
    length = recent.shape[1]
    if length == lags:
        return recent.clone(memory_format=torch.contiguous_format)
    before = x.new_zeros(x.shape[0], lags - length, x.shape[2]) if state is None else state[:, length:].to(x.dtype)
    return torch.cat([before, recent], 1)


def _last_of_packed(x: Tensor, state: Tensor | None, lags: int, reverse: bool, cu_seqlens: Tensor) -> Tensor:
    rows, inside = _last_rows(cu_seqlens, lags, reverse, x.shape[1])
    recent = x[0][rows]
    if state is None:
        return recent.masked_fill(~inside[..., None], 0)
    # Entry j of a sequence of n steps, where it precedes the sequence, is entry j + n of its state.
    kept = (cu_seqlens.diff()[:, None] + torch.arange(lags, device=x.device)).clamp(max=lags - 1)
    before = state.gather(1, kept[..., None].expand(-1, -1, x.shape[2]).long())
    return torch.where(inside[..., None], recent, before.to(x.dtype))


def _last_rows(cu_seqlens: Tensor, lags: int, reverse: bool, length: int) -> tuple[Tensor, Tensor]:
    """Return the rows of each sequence's last steps in x, shape (S, lags), and which are inside the sequence."""
    starts, ends = cu_seqlens[:-1, None], cu_seqlens[1:, None]
    entry = torch.arange(lags, device=cu_seqlens.device)
    rows = starts + (lags - 1 - entry) if reverse else ends - lags + entry
    return rows.clamp(0, length - 1), (rows >= starts) & (rows < ends)


def add_last_gradient(
    dlast: Tensor, dx: Tensor, dstate: Tensor | None, reverse: bool, cu_seqlens: Tensor | None
) -> None:
    """Add the gradient of `last_inputs` to those of x and, where it is there, of the state, in place."""
    lags = dlast.shape[1]
    if cu_seqlens is not None:
        rows, inside = _last_rows(cu_seqlens, lags, reverse, dx.shape[1])
        # Rows that are not inside repeat others, and add zero.
        own = dlast.masked_fill(~inside[..., None], 0).to(dx.dtype)
        dx[0].index_add_(0, rows.flatten(), own.flatten(0, 1))
        if dstate is not None:
            lengths = cu_seqlens.diff()[:, None]
            for entry in range(lags):
                for kept in range(entry, lags):
                    dstate[:, kept] += dlast[:, entry].masked_fill(lengths != kept - entry, 0).to(dstate.dtype)
        return
    length = min(lags, dx.shape[1])
    recent = dlast[:, lags - length :]
    if reverse:
        dx[:, :length] += recent.flip(1)
    else:
        dx[:, dx.shape[1] - length :] += recent
    if dstate is not None and length < lags:
        dstate[:, length:] += dlast[:, : lags - length]
