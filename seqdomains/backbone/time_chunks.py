"""Train on a sequence in time chunks: exact gradients in memory that does not depend on its length.

A causal backbone needs of what came before a position only its state there. So the sequence is run once through all
blocks chunk by chunk, without a graph, and the state at each border is kept: a few hundred kilobytes. Then it is run
again from the last chunk to the first, each from its own state and with a graph, through which go the gradient of the
chunk's own result and that of the state it leaves, which the chunk behind it has given. Nothing is cut off: the
gradients are those of the whole sequence. It costs one forward pass more, as any checkpointing does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqdomains.backbone.model import MambaBackbone
from seqdomains.backbone.sequence_parallel import LEAST_PART, SequenceShard
from seqdomains.backbone.state import InferenceState

# Hidden vectors of a chunk, shape (B, l, d), and the position of the first of them.
Part = Callable[[Tensor, int], Tensor]


def sum_over_chunks(
    backbone: MambaBackbone,
    tokens: Tensor,
    part: Part,
    *,
    chunk: int,
    parameters: Sequence[Tensor] = (),
    shard: SequenceShard | None = None,
    recompute: bool = False,
) -> Tensor:
    """Add up what `part` says of each chunk of a sequence's hidden vectors.

    Parameters
    ----------
    backbone : MambaBackbone
    tokens : Tensor of any integer dtype, shape (B, L)
        L at least 1.
    part : callable
        Takes the hidden vectors of a chunk, shape (B, l, d_model), and the position of the first; returns a tensor of
        the same shape for each chunk. It is called again for each in the backward, under the autocast of this call.
    chunk : int
        Tokens of a chunk; the last one may be shorter.
    parameters : sequence of Tensor
        That `part` uses.
    shard : SequenceShard, optional
        Other ranks have the same tokens and make the same call, and each runs its part of every chunk.
    recompute : bool
        See `Block.forward`: chunks may then be three times as long.

    Returns
    -------
    total : Tensor
        With a gradient for all parameters, as if it had come from one pass over the sequence. With `shard` it is the
        sum over all ranks, on each of them.

    Raises
    ------
    ValueError
        `chunk` is not positive or there are no tokens.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> backbone = MambaBackbone(MambaConfig(d_model=16, n_layer=2))
    >>> tokens = torch.randint(4, (2, 100))
    >>> whole = torch.autograd.grad(backbone(tokens).square().sum(), backbone.embedding.weight)
    >>> total = sum_over_chunks(backbone, tokens, lambda hidden, first: hidden.square().sum(), chunk=33)
    >>> torch.allclose(torch.autograd.grad(total, backbone.embedding.weight)[0], whole[0], rtol=1e-4, atol=1e-4)
    True
    """
    if chunk < 1 or not tokens.shape[1]:
        raise ValueError(f"chunks of {chunk} tokens of a sequence of {tokens.shape[1]}: expected at least 1 of each")
    # Once each, tied ones too.
    trained = tuple({id(one): one for one in (*backbone.parameters(), *parameters) if one.requires_grad}.values())
    device = tokens.device.type
    run = _Run(
        backbone,
        tokens,
        part,
        chunk,
        device,
        autocast=torch.is_autocast_enabled(device),
        dtype=torch.get_autocast_dtype(device),
        recorded=torch.is_grad_enabled() and bool(trained),
        shard=shard,
        recompute=recompute,
    )
    total: Tensor = _SumOverChunks.apply(run, *trained)
    return total if shard is None else shard.sum(total)


def sum_over_positions(
    backbone: MambaBackbone,
    tokens: Tensor,
    part: Part,
    *,
    time_chunk: int | None,
    parameters: Sequence[Tensor] = (),
    shard: SequenceShard | None = None,
    recompute: bool = False,
) -> Tensor:
    """Add up what `part` says of a sequence's hidden vectors, whole or in chunks as `sum_over_chunks` does.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> backbone = MambaBackbone(MambaConfig(d_model=16, n_layer=1))
    >>> tokens = torch.randint(4, (2, 100))
    >>> whole, chunks = (
    ...     sum_over_positions(backbone, tokens, lambda hidden, first: hidden.square().sum(), time_chunk=chunk)
    ...     for chunk in (None, 30)
    ... )
    >>> torch.allclose(whole, chunks, rtol=1e-5)
    True
    """
    if time_chunk is not None and time_chunk < tokens.shape[1]:
        return sum_over_chunks(
            backbone, tokens, part, chunk=time_chunk, parameters=parameters, shard=shard, recompute=recompute
        )
    if shard is not None:
        first, end = shard.bounds(tokens.shape[1])
        return shard.sum(part(backbone(tokens[:, first:end], shard=shard, recompute=recompute), first))
    return part(backbone(tokens, recompute=recompute), 0)


@dataclass(frozen=True)
class _Run:
    backbone: MambaBackbone
    tokens: Tensor
    part: Part
    chunk: int
    device: str
    autocast: bool
    dtype: torch.dtype
    recorded: bool
    shard: SequenceShard | None
    recompute: bool

    def borders(self) -> list[tuple[int, int]]:
        """Return where each chunk begins and ends; a rest too short for all ranks goes with the chunk before it."""
        length = self.tokens.shape[1]
        least = 1 if self.shard is None else self.shard.size * LEAST_PART
        ends = [end for end in range(self.chunk, length, self.chunk) if length - end >= least]
        return list(pairwise([0, *ends, length]))

    @contextmanager
    def casting(self) -> Iterator[None]:
        """Cast as where the sum was asked for, each weight once.

        A cast that was made where no graph is recorded would serve later calls in the same autocast too, which then
        lost a gradient: the cache is emptied on both sides.
        """
        torch.clear_autocast_cache()
        try:
            with torch.autocast(self.device, self.dtype, enabled=self.autocast):
                yield
        finally:
            torch.clear_autocast_cache()

    def advance(self, chunk: tuple[int, int], state: InferenceState | None) -> tuple[Tensor, InferenceState]:
        """Run one chunk; returns what is said of it, and the state behind it."""
        start, stop = chunk
        piece = self.tokens[:, start:stop]
        first, end = (0, piece.shape[1]) if self.shard is None else self.shard.bounds(piece.shape[1])
        hidden, after = self.backbone(
            piece[:, first:end], state=state, return_state=True, shard=self.shard, recompute=self.recompute
        )
        return self.part(hidden, start + first), after

    def record(self, chunk: tuple[int, int], state: InferenceState | None) -> _Recorded:
        """Run one chunk with a graph."""
        own = [] if state is None else [one.detach().requires_grad_() for one in state.tensors()]
        with torch.enable_grad():
            found, after = self.advance(chunk, None if state is None else state.with_tensors(own))
        return _Recorded(found, own, after.tensors())


class _Recorded(NamedTuple):
    """A chunk's result, the tensors of the state that it began with, and those of the state that it leaves."""

    found: Tensor
    entering: list[Tensor]
    leaving: list[Tensor]


class _SumOverChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, *trained: Tensor) -> Tensor:
        states: list[InferenceState | None] = []
        total: Tensor | float = 0.0
        state: InferenceState | None = None
        *before, last = run.borders()
        with run.casting():
            for chunk in before:
                states.append(state)
                found, state = run.advance(chunk, state)
                total = found + total
        with run.casting():
            # Backward begins with the last chunk: its graph is kept, and it is run once.
            recorded = run.record(last, state) if run.recorded else None
            found = run.advance(last, state)[0] if recorded is None else recorded.found.detach()
        ctx.run, ctx.states, ctx.last = run, [*states, state], recorded
        ctx.save_for_backward(*trained)
        return found + total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        run, trained, last, ctx.last = ctx.run, ctx.saved_tensors, ctx.last, None
        wanted: list[Tensor | None] = [None] * len(trained)
        behind: Sequence[Tensor | None] = ()  # gradients of the state behind the chunk
        with run.casting():
            for chunk, state in reversed(list(zip(run.borders(), ctx.states, strict=True))):
                recorded, last = last or run.record(chunk, state), None
                slopes = _slopes(recorded, gradient, behind, trained)
                behind = slopes[len(trained) :]
                for place, slope in enumerate(slopes[: len(trained)]):
                    so_far = wanted[place]
                    wanted[place] = slope if so_far is None else so_far if slope is None else so_far + slope
        return None, *wanted


def _slopes(
    chunk: _Recorded, gradient: Tensor, behind: Sequence[Tensor | None], trained: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Return the gradients of the trained parameters and of the state that a chunk began with."""
    # A chunk may have no share in the result, such as one before the last position, and nothing follows the last one.
    ends = [(chunk.found, gradient)] if chunk.found.requires_grad else []
    ends += [
        (one, slope)
        for one, slope in zip(chunk.leaving, behind, strict=bool(behind))
        if slope is not None and one.requires_grad  # frozen blocks leave a state without a graph
    ]
    inputs = [*trained, *chunk.entering]
    if not ends:
        return [None] * len(inputs)
    return torch.autograd.grad([end for end, _ in ends], inputs, [slope for _, slope in ends], allow_unused=True)
