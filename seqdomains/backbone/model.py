"""The Mamba backbone: embedding, blocks, final norm."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, cast, overload

import torch
from torch import Tensor, nn

from seqdomains.backbone.block import Block, RMSNorm
from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.initialisation import initialise
from seqdomains.backbone.lengths import behind, check_lengths
from seqdomains.backbone.parameters import unset
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.stages import PoolIn, PoolOut
from seqdomains.backbone.state import InferenceState, LayerState, PoolState
from seqdomains.backbone.strands import beside, other_strand


class MambaBackbone(nn.Module):
    """Tokens to hidden vectors, causally: position t sees tokens 0 to t; all of them with `config.bidirectional`.

    Parameters
    ----------
    config : MambaConfig
        Sizes.
    generator : torch.Generator, optional
        Source of the initial values (CPU); none means torch's global one.

    Examples
    --------
    >>> backbone = MambaBackbone(MambaConfig(d_model=16, n_layer=2))
    >>> tuple(backbone(torch.randint(16, (3, 10))).shape)
    (3, 10, 16)
    """

    def __init__(self, config: MambaConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        if config.features is None:
            self.embedding = unset(nn.Embedding, config.vocab_size, config.d_model)
        else:
            self.projection = unset(nn.Linear, config.features, config.d_model)
        stages = [config.stage(number) for number in range(len(config.pool) + 1)]
        self.layers = nn.ModuleList(Block(stages[number]) for number in config.order for _ in range(config.n_layer))
        borders = [
            (outer.d_model, inner.d_model, factor)
            for (outer, inner), factor in zip(pairwise(stages), config.pool, strict=True)
        ]
        self.pools_in = nn.ModuleList(PoolIn(*border) for border in borders)
        self.pools_out = nn.ModuleList(PoolOut(*border) for border in borders)
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)
        initialise(self, config, generator=generator)

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        state: InferenceState | None = None,
        return_state: Literal[False] = False,
        shard: SequenceShard | None = None,
        recompute: bool = False,
        blocks: int | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        state: InferenceState | None = None,
        return_state: Literal[True],
        shard: SequenceShard | None = None,
        recompute: bool = False,
        blocks: int | None = None,
    ) -> tuple[Tensor, InferenceState]: ...

    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        state: InferenceState | None = None,
        return_state: bool = False,
        shard: SequenceShard | None = None,
        recompute: bool = False,
        blocks: int | None = None,
    ) -> Tensor | tuple[Tensor, InferenceState]:
        """Compute the hidden vectors of a window, or of its next chunk when `state` is given.

        Parameters
        ----------
        tokens : Tensor of any integer dtype, shape (B, L)
            Codes below `config.vocab_size`, or mixtures of them, real numbers of shape (B, L, vocab_size), such as a
            gradient is asked of; with `config.features` real numbers, shape (B, L, features). One token per
            call is the single step; L = 0 gives an empty result.
        lengths : Tensor of any integer dtype, shape (B,), optional
            Real tokens of each window, 1 to L: what stands at and after them changes nothing before them. A causal
            model needs none for that.
        state : InferenceState, optional
            Memory of the tokens before.
        return_state : bool
            Whether to return the memory after the last token too.
        shard : SequenceShard, optional
            Which part of a longer sequence `tokens` is, where other ranks have the rest and make the same call; the
            states are those before and after all of it.
        recompute : bool
            See `Block.forward`.
        blocks : int, optional
            Only so many blocks, from 0, and no final norm; not with stages.

        Returns
        -------
        hidden : Tensor, shape (B, L, d_hidden)
            After the final norm, or the residual stream behind `blocks` blocks.
        state : InferenceState
            Only with `return_state`.

        Raises
        ------
        ValueError
            If `tokens` is not what the model reads, `state` is of another model or batch, `lengths` do not fit, or a
            model that is not causal is given a state or a shard, or asked for a state.
        """
        if not self.config.causal and (state is not None or return_state or shard is not None):
            raise ValueError("a model that reads both sides of a position has no state to begin with or to leave")
        if not self.config.plain and shard is not None:
            raise ValueError("ranks share the sequences of models with one stage of selective blocks, states real")
        if self.config.pool and blocks is not None:
            raise ValueError("blocks: those of a model with stages have vectors of different widths and rates")
        if self.config.complement is not None:
            hidden = self.both_strands(tokens, lengths=lengths, recompute=recompute, blocks=blocks)
            return beside(hidden, None if lengths is None else lengths.to(tokens.device, torch.int64))
        return self._run(tokens, lengths, state, return_state, shard, recompute, blocks)

    def both_strands(
        self, tokens: Tensor, *, lengths: Tensor | None = None, recompute: bool = False, blocks: int | None = None
    ) -> Tensor:
        """Compute the hidden vectors of windows, and where the model has a complement of their other strands too.

        Parameters
        ----------
        tokens, lengths, recompute, blocks
            See `forward`.

        Returns
        -------
        hidden : Tensor, shape (config.strands * B, L, d_model)
            Of all windows, then of their other strands, each from its own beginning.
        """
        if self.config.complement is not None:
            if lengths is not None:
                check_lengths(lengths, tokens)
                lengths = lengths.to(tokens.device, torch.int64, non_blocking=True)
            self._check(tokens, None, blocks)
            tokens = torch.cat([tokens, other_strand(tokens, lengths, complement=self.config.complement)])
            lengths = None if lengths is None else lengths.repeat(2)
        return cast(Tensor, self._run(tokens, lengths, None, False, None, recompute, blocks))

    def _run(
        self,
        tokens: Tensor,
        lengths: Tensor | None,
        state: InferenceState | None,
        return_state: bool,
        shard: SequenceShard | None,
        recompute: bool,
        blocks: int | None,
    ) -> Tensor | tuple[Tensor, InferenceState]:
        self._check(tokens, state, blocks)
        padding = None
        if lengths is not None and self.config.bidirectional:
            check_lengths(lengths, tokens)
            lengths = lengths.to(tokens.device, torch.int64, non_blocking=True)
            padding = behind(lengths, tokens.shape[1])
        hidden, residual, after = self._stages(
            self.embed(tokens), state, return_state=return_state, shard=shard, recompute=recompute, padding=padding,
            blocks=blocks,
        )  # fmt: skip
        if blocks is None:
            hidden, _ = self.norm_f(hidden, residual)
        elif residual is not None:
            hidden = hidden + residual
        return hidden if after is None else (hidden, after)

    def _stages(
        self,
        hidden: Tensor,
        state: InferenceState | None,
        *,
        return_state: bool,
        shard: SequenceShard | None,
        recompute: bool,
        padding: Tensor | None,
        blocks: int | None,
    ) -> tuple[Tensor, Tensor | None, InferenceState | None]:
        """Run the blocks stage by stage; returns the last output, what it is to be added to, and the state behind."""
        config = self.config
        residual: Tensor | None = None
        layers: list[LayerState] = []
        pending: list[Tensor] = []
        held: list[Tensor] = []
        waiting: list[tuple[Tensor, int]] = []  # of each stage on the way in: its stream, and its phase
        for visit, stage in enumerate(config.order):
            if visit > len(config.pool):
                stream, phase = waiting.pop()
                inner = hidden if residual is None else hidden + residual
                hidden, one = self.pools_out[stage](
                    inner,
                    None if state is None else state.pools[stage].held,
                    phase=phase,
                    length=stream.shape[1],
                )
                held.insert(0, one)
                residual = stream
            first = visit * config.n_layer
            for index, block in enumerate(self.layers[:blocks][first : first + config.n_layer], start=first):
                before = None if state is None else state.layers[index]
                hidden, residual, after = block(
                    hidden, residual, before, return_state=return_state, shard=shard, recompute=recompute,
                    padding=padding,
                )  # fmt: skip
                layers.append(after)
            if visit < len(config.pool):
                stream = hidden if residual is None else hidden + residual
                rest = None if state is None else state.pools[stage].pending
                waiting.append((stream, 0 if rest is None else rest.shape[1]))
                hidden, one = self.pools_in[stage](stream, rest)
                pending.append(one)
                residual = None
        if not return_state:
            return hidden, residual, None
        return hidden, residual, InferenceState(tuple(layers), tuple(map(PoolState, pending, held)))

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the vectors that the first block takes, shape (B, L, d_model); see `forward` for `tokens`."""
        if self.config.features is not None:
            projected: Tensor = self.projection(tokens)
            return projected
        if tokens.is_floating_point():
            return tokens @ self.embedding.weight
        # Embedding kernels read 32- and 64-bit codes only; domains store one byte per token.
        embedded: Tensor = self.embedding(tokens if tokens.dtype == torch.int32 else tokens.long())
        return embedded

    def blank(self, windows: int, length: int) -> Tensor:
        """Return windows of zeros in the form that the model reads, on the CPU, to try it on.

        Examples
        --------
        >>> MambaBackbone(MambaConfig(d_model=16, n_layer=1, features=2)).blank(3, 10).shape
        torch.Size([3, 10, 2])
        """
        features = self.config.features
        if features is None:
            return torch.zeros(windows, length, dtype=torch.uint8)
        return torch.zeros(windows, length, features)

    def _check(self, tokens: Tensor, state: InferenceState | None, blocks: int | None) -> None:
        features = self.config.features
        if features is not None:
            if tokens.dim() != 3 or tokens.shape[2] != features or not tokens.is_floating_point():
                raise ValueError(
                    f"features of shape {tuple(tokens.shape)} and dtype {tokens.dtype}: expected real numbers of shape "
                    f"(B, L, {features})"
                )
        elif tokens.is_floating_point() and tokens.dim() == 3 and tokens.shape[2] == self.config.vocab_size:
            pass
        elif tokens.dim() != 2 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)} and dtype {tokens.dtype}: expected integers of shape (B, L)"
            )
        if state is None:
            return
        if len(state.layers) != len(self.layers[:blocks]):
            raise ValueError(f"the state is of {len(state.layers)} blocks and this model has {len(self.layers)}")
        if state.layers and state.layers[0].ssm.shape[0] != tokens.shape[0]:
            raise ValueError(
                f"the state is of {state.layers[0].ssm.shape[0]} sequences and tokens of {tokens.shape[0]}"
            )
