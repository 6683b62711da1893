"""One position through a whole residual block: norm, projections, convolution, scan and gate, its memory in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import Implementation, implementation, module_of

__all__ = ["BlockMemory", "BlockStep", "BlockWeights", "chosen_step"]

# Channels within, above which Triton's programs of one row each would read the weights too often: a product of all rows
# at once reads them once.
WIDEST: Final = 1 << 10


@dataclass(frozen=True)
class BlockWeights:
    """What a block's step multiplies with, d channels outside and D within, W taps, N states, R the rank of the step.

    Parameters
    ----------
    norm : Tensor, shape (d,)
    eps : float
        Of the norm.
    to_inner : Tensor, shape (2 D, d)
        To the convolution's input, and behind it to the gate.
    inner_bias : Tensor, shape (2 D,), or None
    taps : Tensor, shape (D, W)
    taps_bias : Tensor, shape (D,), or None
    to_scan : Tensor, shape (R + 2 N, D), or None
        To what the step is made of, to B and to C; complex B and C are N real parts, then N imaginary ones. None where
        B and C are given.
    to_step : Tensor, shape (D, R), or None
    step_bias : Tensor, shape (D,)
    A : Tensor, shape (D, N), real or complex
    B, C : Tensor, shape (D, N), real or complex as A, or None
        Constant in time.
    skip : Tensor, shape (D,)
    out : Tensor, shape (d, D)
    out_bias : Tensor, shape (d,), or None
    """

    norm: Tensor
    eps: float
    to_inner: Tensor
    inner_bias: Tensor | None
    taps: Tensor
    taps_bias: Tensor | None
    to_scan: Tensor | None
    to_step: Tensor | None
    step_bias: Tensor
    A: Tensor
    B: Tensor | None
    C: Tensor | None
    skip: Tensor
    out: Tensor
    out_bias: Tensor | None

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """d, D, W, N and R."""
        return (
            self.norm.shape[0], *self.taps.shape, self.A.shape[1],
            0 if self.to_step is None else self.to_step.shape[1],
        )  # fmt: skip


@dataclass(frozen=True)
class BlockMemory:
    """What a block remembers of each row, in buffers that are changed where they lie.

    Parameters
    ----------
    conv : Tensor, shape (rows, W - 1, D)
    states : Tensor, shape (1 or 2, rows, D, N)
        Real parts, and where A is complex the imaginary ones.
    """

    conv: Tensor
    states: Tensor

    @classmethod
    def empty(cls, weights: BlockWeights, rows: int) -> BlockMemory:
        """Return zeroed buffers for as many rows."""
        _, channels, width, states, _ = weights.sizes
        parts = 2 if weights.A.is_complex() else 1
        return cls(
            weights.taps.new_zeros(rows, width - 1, channels), weights.taps.new_zeros(parts, rows, channels, states)
        )

    def load(self, conv: Tensor, states: Tensor) -> None:
        """Put what `LayerState` holds of one row, or of as many, into that of each."""
        self.conv.copy_(conv.expand_as(self.conv))
        parts = (states.real, states.imag) if states.is_complex() else (states,)
        for own, part in zip(self.states, parts, strict=True):
            own.copy_(part.expand_as(own))


def chosen_step(channels: int, device: torch.device | str, dtype: torch.dtype) -> Implementation:
    """Name the implementation of a block with so many channels within; all but the reference keep rows apart.

    Rows that are kept apart come out the same to the bit however many there are.

    Examples
    --------
    >>> chosen_step(4096, "cpu", torch.float32)
    'cpu'
    """
    name = implementation("block_step", device, dtype)
    return "reference" if name == "triton" and channels > WIDEST else name


class BlockStep:
    """A block that reads one position of each row at a time.

    It is for inference and has no gradient: it is called where none is recorded. All that does not change from step to
    step is found once, so that a step is one call into compiled code on a CPU and three launches on a GPU, which a CUDA
    graph can hold. The results lie in memory that the next step overwrites on a CPU.

    Parameters
    ----------
    weights : BlockWeights
        Of one dtype and device; later changes of them may be seen or not.
    rows : int
        Sequences side by side.

    Raises
    ------
    ValueError
        The weights are in half precision.
    ConfigError
        ``SEQDOMAINS_KERNELS`` asks for what cannot run here.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> d, D, N = 4, 8, 3
    >>> weights = BlockWeights(
    ...     norm=torch.ones(d), eps=1e-5, to_inner=torch.randn(2 * D, d), inner_bias=None, taps=torch.randn(D, 4),
    ...     taps_bias=None, to_scan=None, to_step=None, step_bias=torch.zeros(D), A=-torch.rand(D, N),
    ...     B=torch.ones(D, N), C=torch.randn(D, N), skip=torch.ones(D), out=torch.randn(d, D), out_bias=None,
    ... )
    >>> with torch.no_grad():
    ...     step = BlockStep(weights, rows=2)
    ...     out, stream = step(torch.ones(2, d), torch.ones(2, d))
    >>> tuple(out.shape), stream[0, 0].item(), bool(step.memory.states.any())
    ((2, 4), 2.0, True)
    """

    def __init__(self, weights: BlockWeights, *, rows: int) -> None:
        device, dtype = weights.norm.device, weights.norm.dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"weights of {dtype}: a step is computed in float32 or float64, expected one of these")
        self.memory = BlockMemory.empty(weights, rows)
        name = chosen_step(weights.sizes[1], device, dtype)
        self._run: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
        self._run = module_of("block_step", name, "forward").bind(weights, self.memory)

    def __call__(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Read a position.

        Parameters
        ----------
        hidden : Tensor, shape (rows, d)
            Output of the block before.
        residual : Tensor, shape (rows, d), or None
            The stream so far.

        Returns
        -------
        out : Tensor, shape (rows, d)
        stream : Tensor, shape (rows, d)
            `residual + hidden`.
        """
        return self._run(hidden, residual)
