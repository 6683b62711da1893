"""A task's batch as tensors that a model takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqdomains.task import Batch, MaskedWindows, Windows


@dataclass(frozen=True)
class BatchTensors:
    """Windows and targets on the CPU, ready to be moved.

    Parameters
    ----------
    tokens : Tensor of any integer dtype, shape (B, L)
        Codes; uint8 stays uint8, which moves 8 times less than int64.
    targets : Tensor of int64, shape (B,) or (B, L), or of float32, shape (B, n_classes), or None
        Class indices of windows or positions, or shares of the classes; codes of hidden tokens, shape (B, L), below 0
        where none is asked; None where each next token is what is asked.
    lengths : Tensor of int64, shape (B,), or None
        Real tokens of each window; None where every window is full. It stays on the CPU, where the model checks it
        without waiting for the device.
    real_tokens : int
        Sum of the lengths.
    masked : Tensor of bool, shape (B, L), or None
        Positions that are hidden and asked for; None where that is not what is asked.
    weights : Tensor of float32, shape (B, L), or None
        How much each position counts; None where all count alike.
    """

    tokens: Tensor
    targets: Tensor | None
    lengths: Tensor | None
    real_tokens: int
    masked: Tensor | None = None
    weights: Tensor | None = None


def as_tensors(batch: Batch | Windows | MaskedWindows, *, pin: bool = False) -> BatchTensors:
    """Wrap a batch's arrays, without a copy where they are contiguous.

    Parameters
    ----------
    batch : Batch or Windows or MaskedWindows
        What the task gave.
    pin : bool
        Whether to copy all but the lengths to page-locked memory, from which a GPU reads while it computes.

    Examples
    --------
    >>> batch = Batch(np.zeros((2, 3), np.uint8), np.array([0, 1]), np.array([3, 2]))
    >>> tensors = as_tensors(batch)
    >>> tensors.tokens.dtype, tensors.lengths, tensors.real_tokens
    (torch.uint8, tensor([3, 2]), 5)
    """
    names = ("tokens", "targets", "weights", "masked")
    arrays = {name: getattr(batch, name) for name in names if getattr(batch, name, None) is not None}
    # from_numpy takes no negative strides, which a flipped window has
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if pin:
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    full = bool((batch.lengths == batch.tokens.shape[1]).all())
    lengths = None if full else torch.from_numpy(np.ascontiguousarray(batch.lengths))
    return BatchTensors(
        tensors.pop("tokens"), tensors.pop("targets", None), lengths, int(batch.lengths.sum()), **tensors
    )
