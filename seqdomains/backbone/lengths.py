"""Windows of which some are shorter than the tensor that holds them: which of their positions are real and count."""

from __future__ import annotations

import torch
from torch import Tensor


def check_lengths(lengths: Tensor, tokens: Tensor) -> None:
    """Raise ValueError unless `lengths`, shape (B,), are integers from 1 to L for `tokens`, shape (B, L, ...).

    Examples
    --------
    >>> check_lengths(torch.tensor([3, 1]), torch.zeros(2, 3))
    """
    if lengths.shape != tokens.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"lengths of shape {tuple(lengths.shape)} and dtype {lengths.dtype}: expected {tokens.shape[0]} integers"
        )
    # On an accelerator the check would wait for the device; there `gather` refuses a bad index by itself.
    if lengths.device.type == "cpu" and lengths.numel():
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > tokens.shape[1]:
            raise ValueError(f"lengths {shortest} to {longest}: expected 1 to {tokens.shape[1]}, the window")


def behind(lengths: Tensor, count: int) -> Tensor:
    """Tell which of `count` positions lie at and after each window's length, shape (B, count, 1).

    Examples
    --------
    >>> behind(torch.tensor([2, 3]), 3)[:, :, 0].tolist()
    [[False, False, True], [False, False, False]]
    """
    return (torch.arange(count, device=lengths.device) >= lengths[:, None])[:, :, None]


def counted_positions(tokens: Tensor, lengths: Tensor | None = None, ignored: int | None = None) -> Tensor:
    """Tell which positions of windows, from the second on, a language model is asked about.

    Parameters
    ----------
    tokens : Tensor of any integer dtype, shape (B, L)
    lengths : Tensor of any integer dtype, shape (B,), optional
        Real tokens of each window, 1 to L, best left on the CPU; positions at and after them do not count.
    ignored : int, optional
        A code whose positions do not count, such as one that stands for an unknown token.

    Returns
    -------
    counted : Tensor of bool, shape (B, L - 1)

    Raises
    ------
    ValueError
        If `lengths` does not fit `tokens`.

    Examples
    --------
    >>> counted_positions(torch.tensor([[5, 1, 4, 1]]), torch.tensor([3]), ignored=4).tolist()
    [[True, False, False]]
    """
    counted = torch.ones_like(tokens[:, 1:], dtype=torch.bool) if ignored is None else tokens[:, 1:] != ignored
    if lengths is not None:
        check_lengths(lengths, tokens)
        lengths = lengths.to(tokens.device, torch.int64, non_blocking=True)
        counted = counted & (torch.arange(1, tokens.shape[1], device=tokens.device) < lengths[:, None])
    return counted
