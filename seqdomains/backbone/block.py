"""One residual block: add, normalise, mix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.lean import run_block
from seqdomains.backbone.mixer import MambaMixer
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.state import LayerState
from seqdomains.kernels import rms_norm
from seqdomains.kernels.eager import watched


class RMSNorm(nn.Module):
    """Root-mean-square norm that first adds its input to the residual stream; its weight is left uninitialised.

    Parameters
    ----------
    width : int
        Number of channels.
    eps : float
        Added to the mean square.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the norm of `residual + hidden` in the dtype of `hidden`, and the sum itself in fp32."""
        normed, total = rms_norm(hidden, self.weight, residual=residual, eps=self.eps, return_residual=True)
        return normed, total


class Block(nn.Module):
    """Add -> norm -> mixer, as the official code orders it, so that the addition is fused into the norm.

    Parameters
    ----------
    config : MambaConfig
        Sizes of the model.

    Examples
    --------
    >>> from seqdomains.backbone.initialisation import initialise
    >>> config = MambaConfig(d_model=8, n_layer=1)
    >>> block = Block(config)
    >>> initialise(block, config)
    >>> hidden, residual, _ = block(torch.ones(1, 4, 8), None)
    >>> torch.equal(residual, torch.ones(1, 4, 8))
    True
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = MambaMixer(config)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        state: LayerState | None = None,
        *,
        return_state: bool = False,
        shard: SequenceShard | None = None,
        recompute: bool = False,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, LayerState | None]:
        """Advance the residual stream by the previous block's output and compute this block's.

        Parameters
        ----------
        hidden : Tensor, shape (B, L, d_model)
            Output of the block before, not yet added; the embeddings for the first block.
        residual : Tensor, shape (B, L, d_model), fp32, or None
            The stream so far; None for the first block.
        state : LayerState, optional
            Memory of the tokens before.
        return_state, shard, padding
            See `MambaMixer.forward`.
        recompute : bool
            Whether to keep little for the backward pass and compute the rest again; see `lean`. Not where something
            traces.

        Returns
        -------
        hidden : Tensor, shape (B, L, d_model)
        residual : Tensor, shape (B, L, d_model), fp32
        state : LayerState or None
        """
        if recompute and hidden.numel() and torch.is_grad_enabled() and not watched((hidden,)):
            self.mixer.refuse_state(state, return_state=return_state, shard=shard)
            if not self.mixer.plain:
                # The lean block's backward pass is written out for the plain mixer; torch repeats the others whole.
                found: tuple[Tensor, Tensor, LayerState | None] = checkpoint(
                    self._compute, hidden, residual, state, return_state=return_state, shard=shard, padding=padding,
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
                return found
            hidden, residual, after = run_block(
                self.mixer, hidden, residual, state, norm_weight=self.norm.weight, eps=self.norm.eps,
                shard=shard, padding=padding,
            )  # fmt: skip
            return hidden, residual, after if return_state else None
        return self._compute(hidden, residual, state, return_state=return_state, shard=shard, padding=padding)

    def _compute(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        state: LayerState | None,
        *,
        return_state: bool,
        shard: SequenceShard | None,
        padding: Tensor | None,
    ) -> tuple[Tensor, Tensor, LayerState | None]:
        normed, residual = self.norm(hidden, residual)
        hidden, state = self.mixer(normed, state, return_state=return_state, shard=shard, padding=padding)
        return hidden, residual, state
