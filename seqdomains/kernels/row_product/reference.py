"""A matrix times the vectors of rows in plain torch, all rows at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from seqdomains.kernels.row_product import RowWeights


def bind(weights: RowWeights) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the product with these weights."""

    def multiply(hidden: Tensor, residual: Tensor | None) -> Tensor:
        stream = hidden if residual is None else hidden + residual
        if weights.norm is not None:
            stream = stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + weights.eps) * weights.norm
        return linear(stream, weights.matrix, weights.bias)

    return multiply
