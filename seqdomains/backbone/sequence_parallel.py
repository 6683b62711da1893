"""One sequence over several ranks: each runs a part of time, and what passes between them does not grow with it.

A causal model needs two things of the parts before a rank's own: the last W - 1 inputs of the convolution, and the
state of the scan. The scan is linear in its state, h_end = exp(A sum d) h_start + what the part adds from zero, so that
each rank runs its part from zero, all tell each other that end and the sum of d, and each computes the state that
enters its own part. Gradients go the same way back: the ranks' objectives are added, and every exchange has the adjoint
that belongs to that, so that the sum of all ranks' gradients is the gradient of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from seqdomains.backbone.precision import full_precision
from seqdomains.kernels import selective_scan

# Tokens of a part: as many as the widest convolution looks back.
LEAST_PART: Final = 3
# Makes of what all ranks told, stacked, and of further tensors the state that enters a part and the last one.
Make = Callable[..., tuple[Tensor, Tensor]]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shard: SequenceShard) -> Tensor:
        ctx.shard = shard
        return shard.total(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.shard.total(gradient), None


class _Exchange(torch.autograd.Function):
    """Tell all ranks a tensor, and make of what all have told the state that enters a rank's part and the last one.

    Every rank takes part in both directions, whether or not its own part needs what is told: a rank that did not would
    leave the others waiting.
    """

    @staticmethod
    def forward(ctx: Any, shard: SequenceShard, make: Make, own: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        told = shard.gathered(own)
        ctx.shard, ctx.make = shard, make
        ctx.save_for_backward(told, *others)
        return make(told, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = ctx.make(*inputs)
        pairs = [(one, slope) for one, slope in zip(outputs, gradients, strict=True) if one.requires_grad]
        found = torch.autograd.grad(
            [one for one, _ in pairs], inputs, [slope for _, slope in pairs], allow_unused=True, materialize_grads=True
        )
        # What a rank told went to all of them: what each has made of it is added.
        return None, None, ctx.shard.total(found[0])[ctx.shard.rank], *found[1:]


def _sum_of_steps(dt: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return softplus(dt.to(dtype) + bias).sum(1)


@dataclass(frozen=True)
class SequenceShard:
    """A rank's place among those that share a sequence; its part is the `rank`-th of `size`, in the order of time.

    Parameters
    ----------
    group : ProcessGroup or None
        Of these ranks; None is all there are.
    rank : int
        Within the group.
    size : int
        Of the group.
    """

    group: Any
    rank: int
    size: int

    def bounds(self, length: int) -> tuple[int, int]:
        """Return where this rank's part of `length` tokens begins and ends.

        Raises
        ------
        ValueError
            A part would be too short, on whichever rank: all refuse, and none waits for another.

        Examples
        --------
        >>> [SequenceShard(None, rank, 3).bounds(10) for rank in range(3)]
        [(0, 3), (3, 6), (6, 10)]
        """
        if length // self.size < LEAST_PART:
            raise ValueError(
                f"{length} tokens for {self.size} ranks: each needs {LEAST_PART}, which a convolution looks back; use "
                "fewer ranks, or longer windows or chunks"
            )
        return self.rank * length // self.size, (self.rank + 1) * length // self.size

    def gathered(self, tensor: Tensor) -> Tensor:
        """Return all ranks' tensors, stacked, without a gradient; each must have the same shape and dtype."""
        found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous(), group=self.group)
        return torch.stack(found)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors without a gradient."""
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors."""
        total: Tensor = _Sum.apply(tensor, self)
        return total

    def tails(self, x: Tensor, before: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
        """Exchange the last `width` steps of each rank's part.

        Parameters
        ----------
        x : Tensor, shape (B, l, D)
            This rank's part.
        before : Tensor, shape (B, width, D), or None
            The steps before the first rank's part, the same on all ranks; None is zeros.
        width : int

        Returns
        -------
        before : Tensor, shape (B, width, D)
            The steps before this rank's part.
        last : Tensor, shape (B, width, D)
            The last steps of all.
        """
        tail = x[:, x.shape[1] - width :]

        def make(told: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
            return told[self.rank - 1] if self.rank else first, told[-1]

        # In float32, since not every backend adds 16 bits.
        first = torch.zeros_like(tail) if before is None else before
        found = _Exchange.apply(self, make, full_precision(tail), full_precision(first))
        return found[0].to(x.dtype), found[1].to(x.dtype)

    def scan(
        self,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor,
        *,
        h0: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Run this rank's part of a selective scan with softplus; see `seqdomains.kernels.selective_scan`.

        Parameters
        ----------
        h0 : Tensor, shape (B, D, N), or None
            The state before the first rank's part, the same on all ranks; None is zero.

        Returns
        -------
        y : Tensor, shape (B, l, D)
        h_last : Tensor, shape (B, D, N)
            The state behind the last rank's part, the same on all ranks.
        """
        # y of this pass is not used; what is wanted is where the part leads from zero.
        _, end = selective_scan(u, dt, A, B, C, None, None, bias, softplus=True, return_state=True)
        # Computed again in the backward pass: in float32 it would be twice the size of dt.
        steps = checkpoint(_sum_of_steps, dt, bias, end.dtype, use_reentrant=False, preserve_rng_state=False)

        def make(told: Tensor, A: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
            states = [first]
            for ends, sums in zip(told[..., :-1], told[..., -1:], strict=True):
                states.append(torch.exp(A * sums) * states[-1] + ends)
            return states[self.rank], states[-1]

        own = torch.cat([end, steps[:, :, None]], dim=2)
        entering, last = _Exchange.apply(self, make, own, A, torch.zeros_like(end) if h0 is None else h0)
        return selective_scan(u, dt, A, B, C, D, z, bias, softplus=True, h0=entering), last
