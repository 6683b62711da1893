"""Class probabilities of windows, as many at once as fit into the memory."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqdomains.backbone.heads import shares_of
from seqdomains.errors import InputError

_log = logging.getLogger(__name__)


class Classifier:
    """A model in evaluation mode that answers any number of windows, halving its batch when the memory runs out.

    Parameters
    ----------
    model : Module
        Called as ``model(tokens, lengths)``; gives logits of shape (B, n_classes). See `borrowed` for its device and
        mode.
    device : torch.device
        Where it lies.
    batch_size : int
        Windows at once to begin with; after memory ran out it stays at what fitted.

    Examples
    --------
    >>> class Counter(nn.Module):
    ...     def forward(self, tokens, lengths=None):
    ...         return torch.stack([(tokens == code).sum(1).float() for code in (0, 1)], dim=1)
    >>> classifier = Classifier(Counter(), device=torch.device("cpu"), batch_size=1)
    >>> classifier.probabilities(torch.tensor([[0, 1], [1, 1]])).round(3).tolist()
    [[0.5, 0.5], [0.119, 0.881]]
    """

    def __init__(self, model: nn.Module, *, device: torch.device, batch_size: int) -> None:
        self.model = model
        self.device = device
        self.batch_size = batch_size

    def probabilities(self, tokens: Tensor, lengths: Tensor | None = None) -> NDArray[np.float64]:
        """Return the class probabilities of each window.

        Parameters
        ----------
        tokens : Tensor of any integer dtype, shape (B, L)
            On the CPU.
        lengths : Tensor of int64, shape (B,), optional
            Real tokens of each window, on the CPU.

        Returns
        -------
        ndarray of float64, shape (B, n_classes)
            Each row sums to 1, unless the model is a `SequenceTagger`; taken in float64.

        Raises
        ------
        InputError
            One window alone does not fit into the memory, or the logits are not finite.
        """
        rows: list[Tensor] = []
        first = 0
        while first < len(tokens):
            part = slice(first, first + self.batch_size)
            try:
                logits = self._logits(tokens[part], None if lengths is None else lengths[part])
            except torch.OutOfMemoryError as error:
                self._halve(tokens.shape[1], error)
                continue
            rows.append(logits)
            first += len(logits)
        logits = torch.cat(rows)
        if not bool(torch.isfinite(logits).all()):
            raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
        probabilities: NDArray[np.float64] = shares_of(self.model, logits).numpy()
        return probabilities

    def _logits(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.model(tokens.to(self.device), lengths)
        return logits.to("cpu", torch.float64)

    def _halve(self, length: int, error: Exception) -> None:
        at_once = self.batch_size
        if at_once == 1:
            raise InputError(
                f"one window of {length} tokens does not fit into the memory; use a shorter window"
            ) from error
        self.batch_size = at_once // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning("%d windows of %d tokens do not fit into the memory; trying %d", at_once, length, self.batch_size)
