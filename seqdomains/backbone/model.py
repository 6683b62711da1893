"""The Mamba backbone: embedding, blocks, final norm."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from seqdomains.backbone.block import Block, RMSNorm
from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.initialisation import initialise
from seqdomains.backbone.parameters import unset
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.state import InferenceState


class MambaBackbone(nn.Module):
    """Tokens to hidden vectors, causally: position t sees tokens 0 to t.

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
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)
        initialise(self, config, generator=generator)

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        state: InferenceState | None = None,
        return_state: Literal[False] = False,
        shard: SequenceShard | None = None,
        recompute: bool = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        state: InferenceState | None = None,
        return_state: Literal[True],
        shard: SequenceShard | None = None,
        recompute: bool = False,
    ) -> tuple[Tensor, InferenceState]: ...

    def forward(
        self,
        tokens: Tensor,
        *,
        state: InferenceState | None = None,
        return_state: bool = False,
        shard: SequenceShard | None = None,
        recompute: bool = False,
    ) -> Tensor | tuple[Tensor, InferenceState]:
        """Compute the hidden vectors of a window, or of its next chunk when `state` is given.

        Parameters
        ----------
        tokens : Tensor of any integer dtype, shape (B, L)
            Codes below `config.vocab_size`; with `config.features` real numbers, shape (B, L, features). One token per
            call is the single step; L = 0 gives an empty result.
        state : InferenceState, optional
            Memory of the tokens before.
        return_state : bool
            Whether to return the memory after the last token too.
        shard : SequenceShard, optional
            Which part of a longer sequence `tokens` is, where other ranks have the rest and make the same call; the
            states are those before and after all of it.
        recompute : bool
            See `Block.forward`.

        Returns
        -------
        hidden : Tensor, shape (B, L, d_model)
            After the final norm.
        state : InferenceState
            Only with `return_state`.

        Raises
        ------
        ValueError
            If `tokens` is not what the model reads or `state` is of another model or batch.
        """
        self._check(tokens, state)
        hidden = self.embed(tokens)
        residual: Tensor | None = None
        layers = []
        for index, block in enumerate(self.layers):
            before = None if state is None else state.layers[index]
            hidden, residual, after = block(
                hidden, residual, before, return_state=return_state, shard=shard, recompute=recompute
            )
            layers.append(after)
        hidden, _ = self.norm_f(hidden, residual)
        return (hidden, InferenceState(tuple(layers))) if return_state else hidden

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the vectors that the first block takes, shape (B, L, d_model)."""
        if self.config.features is not None:
            projected: Tensor = self.projection(tokens)
            return projected
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

    def _check(self, tokens: Tensor, state: InferenceState | None) -> None:
        features = self.config.features
        if features is not None:
            if tokens.dim() != 3 or tokens.shape[2] != features or not tokens.is_floating_point():
                raise ValueError(
                    f"features of shape {tuple(tokens.shape)} and dtype {tokens.dtype}: expected real numbers of shape "
                    f"(B, L, {features})"
                )
        elif tokens.dim() != 2 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)} and dtype {tokens.dtype}: expected integers of shape (B, L)"
            )
        if state is None:
            return
        if len(state.layers) != len(self.layers):
            raise ValueError(f"the state is of {len(state.layers)} blocks and this model has {len(self.layers)}")
        if state.layers[0].ssm.shape[0] != tokens.shape[0]:
            raise ValueError(
                f"the state is of {state.layers[0].ssm.shape[0]} sequences and tokens of {tokens.shape[0]}"
            )
