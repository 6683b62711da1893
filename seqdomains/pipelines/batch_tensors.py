"""A task's batch as tensors that a model takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqdomains.task import Batch, Windows


@dataclass(frozen=True)
class BatchTensors:
    """Windows and targets on the CPU, ready to be moved.

    Parameters
    ----------
    tokens : Tensor of any integer dtype, shape (B, L)
        Codes; uint8 stays uint8, which moves 8 times less than int64.
    targets : Tensor, int64 of shape (B,), a signed integer dtype of shape (B, L), or None
        Class indices; of masked windows what each position is asked, below 0 for nothing; None where each next token
        is what is asked.
    lengths : Tensor of int64, shape (B,), or None
        Real tokens of each window; None where every window is full. It stays on the CPU, where the model checks it
        without waiting for the device.
    real_tokens : int
        Sum of the lengths.
    weights : Tensor of float32, shape (B, L), or None
        How much each position counts; None where all count alike.
    """

    tokens: Tensor
    targets: Tensor | None
    lengths: Tensor | None
    real_tokens: int
    weights: Tensor | None = None


def as_tensors(batch: Batch | Windows, *, pin: bool = False) -> BatchTensors:
    """Wrap a batch's arrays, without a copy where they are contiguous.

    Parameters
    ----------
    batch : Batch or Windows
        What the task gave.
    pin : bool
        Whether to copy tokens, targets and weights to page-locked memory, from which a GPU reads while it computes.

    Examples
    --------
    >>> batch = Batch(np.zeros((2, 3), np.uint8), np.array([0, 1]), np.array([3, 2]))
    >>> tensors = as_tensors(batch)
    >>> tensors.tokens.dtype, tensors.lengths, tensors.real_tokens
    (torch.uint8, tensor([3, 2]), 5)
    """
    arrays = (batch.tokens, getattr(batch, "targets", None), getattr(batch, "weights", None))
    # from_numpy takes no negative strides, which a flipped window has
    tensors = [None if array is None else torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    tokens, targets, weights = (one.pin_memory() if pin and one is not None else one for one in tensors)
    assert tokens is not None  # noqa: S101 - for the type checker
    full = bool((batch.lengths == batch.tokens.shape[1]).all())
    lengths = None if full else torch.from_numpy(np.ascontiguousarray(batch.lengths))
    return BatchTensors(tokens, targets, lengths, int(batch.lengths.sum()), weights)
