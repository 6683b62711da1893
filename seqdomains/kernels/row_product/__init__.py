"""A matrix times the vector of each row, of which each comes out the same however many rows there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import implementation, module_of

__all__ = ["RowProduct", "RowWeights"]


@dataclass(frozen=True)
class RowWeights:
    """What a row is multiplied with.

    Parameters
    ----------
    matrix : Tensor, shape (outputs, K)
    bias : Tensor, shape (outputs,), or None
    norm : Tensor, shape (K,), or None
        Scale of an RMS norm that comes first; None leaves it out.
    eps : float
        Of the norm.
    """

    matrix: Tensor
    bias: Tensor | None = None
    norm: Tensor | None = None
    eps: float = 0.0


class RowProduct:
    """Multiplies a vector of each row with one matrix.

    A library's product chooses its order of additions by how many rows it has. Here each row is a product of its own,
    so that a row's result is the same to the bit whatever others stand beside it; only the reference, plain torch, does
    not promise that. For inference, without a gradient: one call into compiled code on a CPU, one launch on a GPU.

    Parameters
    ----------
    weights : RowWeights
        Of one dtype and device; later changes of them may be seen or not.

    Raises
    ------
    ValueError
        The weights are in half precision.
    ConfigError
        ``SEQDOMAINS_KERNELS`` asks for what cannot run here.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> multiply = RowProduct(RowWeights(torch.randn(5, 3)))
    >>> rows = torch.randn(7, 3)
    >>> many, alone = multiply(rows).clone(), multiply(rows[4:5])
    >>> tuple(many.shape), torch.equal(many[4], alone[0])
    ((7, 5), True)
    """

    def __init__(self, weights: RowWeights) -> None:
        device, dtype = weights.matrix.device, weights.matrix.dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"weights of {dtype}: a product is computed in float32 or float64, expected one of these")
        name = implementation("row_product", device, dtype)
        self._run: Callable[[Tensor, Tensor | None], Tensor]
        self._run = module_of("row_product", name, "forward").bind(weights)

    def __call__(self, hidden: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply `hidden`, or its sum with `residual`.

        Parameters
        ----------
        hidden : Tensor, shape (rows, K)
        residual : Tensor, shape (rows, K), optional

        Returns
        -------
        Tensor, shape (rows, outputs)
            In memory that the next call overwrites on a CPU.
        """
        return self._run(hidden, residual)
