"""One sequence over several ranks: each runs a part of time, and what passes between them does not grow with it.

A causal model needs two things of the parts before a rank's own: the last W - 1 inputs of the convolution, and the
state of the scan. The scan is linear in its state, h_end = exp(A sum d) h_start + what the part adds from zero. So each
rank finds out where its part leads from zero, all tell each other that end and the sum of d, and each computes the
state that enters its own part. Gradients go the same way back: each tells what of its own output's gradient reaches its
start, and computes the gradient of the state that it has left. The ranks' objectives are added: the sum of all ranks'
gradients is the gradient of the whole sequence.

On a GPU no scan is run twice, since its kernels know a part's end, and in the backward pass what reaches its start,
before they need what enters it (`seqdomains.kernels.raw`). On a CPU, and where the reference runs, each direction has a
pass more that writes no outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from seqdomains.backbone.precision import full_precision
from seqdomains.kernels import raw

# Tokens of a part: as many as the widest convolution looks back.
LEAST_PART: Final = 3


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shard: SequenceShard) -> Tensor:
        ctx.shard = shard
        return shard.total(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.shard.total(gradient), None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, shard: SequenceShard, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        before, last = shard.tails(x, state, weight.shape[1] - 1)
        u, _ = raw.convolve(x, weight, bias, before, True)
        ctx.shard, ctx.began = shard, state is not None
        ctx.save_for_backward(x, weight, bias, before)
        return u, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, du: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, before = ctx.saved_tensors
        dx, dweight, dbias, dbefore = raw.convolve_backward(du, None, x, weight, bias, before, True, False, None)
        dstate = ctx.shard.tails_back(dx, dbefore, dlast)
        return None, dx, dweight, None if bias is None else dbias, dstate if ctx.began else None


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shard: SequenceShard, h0: Tensor | None, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        y, last, kept = shard.run_scan(inputs, h0)
        ctx.shard, ctx.began = shard, h0 is not None
        ctx.save_for_backward(*inputs, *kept)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, states, entering, sums = ctx.saved_tensors
        *gradients, dh0 = ctx.shard.run_scan_back(dy, dlast, inputs, KeptOfScan(states, entering, sums))
        own = [None if one is None else gradient for one, gradient in zip(inputs, gradients, strict=True)]
        return None, dh0 if ctx.began else None, *own


class KeptOfScan(NamedTuple):
    """What the backward of a scan needs beside its inputs.

    Parameters
    ----------
    states : Tensor
        What the kernels keep.
    entering : Tensor, shape (B, D, N), or None
        The state that enters this rank's part, or a scan that is not shared.
    sums : Tensor, shape (R, B, D, 1), or None
        The sum of the steps of each rank's part; None where the scan is not shared.
    """

    states: Tensor
    entering: Tensor | None
    sums: Tensor | None


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
        found = tensor.new_empty(self.size, *tensor.shape)
        dist.all_gather(list(found), tensor.contiguous(), group=self.group)
        return found

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
        """Exchange the last `width` steps of each rank's part, without a gradient; see `tails_back`.

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
        # In float32, since not every backend knows all 16-bit types.
        told = self.gathered(full_precision(tail)).to(x.dtype)
        if self.rank:
            return told[self.rank - 1], told[-1]
        return torch.zeros_like(tail) if before is None else before.to(x.dtype), told[-1]

    def tails_back(self, dx: Tensor, dbefore: Tensor, dlast: Tensor | None) -> Tensor:
        """Do the adjoint of `tails`.

        Parameters
        ----------
        dx : Tensor, shape (B, l, D)
            Gradient of this rank's part by what it was used for here; what the others' use adds is added in place.
        dbefore, dlast : Tensor, shape (B, width, D)
            Gradients of what `tails` returned; of `last` None where it was not used here.

        Returns
        -------
        dbefore : Tensor, shape (B, width, D)
            This rank's share in the gradient of the steps before the first rank's part.
        """
        width = dbefore.shape[1]
        dlast = torch.zeros_like(dbefore) if dlast is None else dlast.to(dbefore.dtype)
        told = self.gathered(full_precision(torch.cat([dbefore, dlast], 1)))
        follows = self.rank + 1 < self.size
        dx[:, dx.shape[1] - width :] += told[self.rank + 1, :, :width] if follows else told[:, :, width:].sum(0)
        return torch.zeros_like(dbefore) if self.rank else dbefore

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run this rank's part of a causal convolution with SiLU; see `seqdomains.kernels.causal_conv1d`.

        Parameters
        ----------
        state : Tensor, shape (B, W - 1, D), or None
            The inputs before the first rank's part, the same on all ranks; None is zeros.

        Returns
        -------
        u : Tensor, shape (B, l, D)
        last : Tensor, shape (B, W - 1, D)
            The last inputs of the last rank's part, the same on all ranks.
        """
        with torch.autocast(x.device.type, enabled=False):
            found: tuple[Tensor, Tensor] = _Convolution.apply(self, x, weight, bias, state)
        return found

    def scan(
        self,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
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
        with torch.autocast(u.device.type, enabled=False):
            found: tuple[Tensor, Tensor] = _Scan.apply(self, h0, u, dt, A, B, C, D, z, bias)
        return found

    def run_scan(self, inputs: Sequence[Tensor | None], h0: Tensor | None) -> tuple[Tensor, Tensor, KeptOfScan]:
        """Do what `scan` does without a graph; `inputs` are those before h0. See `run_scan_back`."""
        A: Any = inputs[2]
        found: list[Tensor] = []

        def enter(end: Tensor, total: Tensor) -> Tensor:
            told = self.gathered(torch.cat([end, total[:, :, None]], 2))
            states = [torch.zeros_like(end) if h0 is None else h0.to(end.dtype)]
            for ends, sums in zip(told[..., :-1], told[..., -1:], strict=True):
                states.append(torch.exp(A * sums) * states[-1] + ends)
            found.extend((states[self.rank].contiguous(), states[-1], told[..., -1:]))
            return found[0]

        y, _, states = raw.scan(*inputs, None, None, True, False, enter=enter)
        entering, last, sums = found
        return y, last, KeptOfScan(states, entering, sums)

    def run_scan_back(
        self,
        dy: Tensor,
        dlast: Tensor | None,
        inputs: Sequence[Tensor | None],
        kept: KeptOfScan,
        *,
        output: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return the gradients of `inputs`, this rank's share in that of h0, and with `output` y again.

        `dlast` is the gradient of the last state, None where it was not used here. Gradients of absent inputs are empty
        tensors, as those of `raw.scan_backward`; `output` is for where `raw.scan_repeats_output` says so.
        """
        A: Any = inputs[2]
        sums: Any = kept.sums
        N = A.shape[1]

        def enter(start: Tensor) -> Tensor:
            slope = torch.zeros_like(start) if dlast is None else dlast.to(start.dtype)
            told = self.gathered(torch.cat([start, slope], 2))
            q = told[..., N:].sum(0)
            for rank in range(self.size - 1, self.rank, -1):
                q = torch.exp(A * sums[rank]) * q + told[rank, ..., :N]
            return q.contiguous()

        backward = raw.scan_backward_with_output if output else raw.scan_backward
        gradients = [*backward(dy, None, *inputs, kept.entering, None, kept.states, True, False, enter=enter)]
        if self.rank:
            gradients[8] = torch.zeros_like(gradients[8])
        return tuple(gradients)
