"""Masked reconstruction: a model that is shown a window with some of its patches hidden, and asked for these."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.heads import Artefact
from seqdomains.backbone.initialisation import EMBEDDING_STD, initialise
from seqdomains.backbone.model import MambaBackbone
from seqdomains.backbone.parameters import unset
from seqdomains.backbone.precision import full_precision


class PatchReconstructor(Artefact):
    """Says what real numbers stand at hidden positions of a window.

    A learned patch, `mask`, stands in place of each hidden one, and a linear layer makes a patch of the vector that the
    backbone has there. A causal backbone knows what came before a hidden position alone; a bidirectional one knows both
    sides.

    Parameters
    ----------
    config : MambaConfig
        Sizes, with `features`: the real numbers of a position.
    generator : torch.Generator, optional
        Source of the initial values (CPU); none means torch's global one.

    Raises
    ------
    ValueError
        The config is of a model that reads codes.

    Examples
    --------
    >>> model = PatchReconstructor(MambaConfig(d_model=16, n_layer=1, features=4))
    >>> masked = torch.zeros(2, 10, dtype=torch.bool)
    >>> masked[:, 3:6] = True
    >>> tuple(model(torch.randn(2, 10, 4), masked).shape)
    (2, 10, 4)
    """

    def __init__(self, config: MambaConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if config.features is None:
            raise ValueError("features None: patches are real numbers, expected how many a position has")
        self.config = config
        self.backbone = MambaBackbone(config, generator=generator)
        self.mask = nn.Parameter(torch.empty(config.features))
        nn.init.normal_(self.mask, std=EMBEDDING_STD, generator=generator)
        self.head = unset(nn.Linear, config.d_model, config.features)
        initialise(self.head, config, generator=generator)

    def forward(
        self, tokens: Tensor, masked: Tensor, *, lengths: Tensor | None = None, recompute: bool = False
    ) -> Tensor:
        """Return what the model takes each position to be.

        Parameters
        ----------
        tokens : Tensor of float32, shape (B, L, features)
            What stands at `masked` is not read.
        masked : Tensor of bool, shape (B, L)
            Hidden positions.
        lengths : Tensor of any integer dtype, shape (B,), optional
            Real positions of each window; what stands behind them changes nothing before them.
        recompute : bool
            See `seqdomains.backbone.block.Block.forward`.

        Returns
        -------
        patches : Tensor, shape (B, L, features), fp32
        """
        shown = torch.where(masked[:, :, None], self.mask.to(tokens.dtype), tokens)
        return full_precision(self.head(self.backbone(shown, lengths=lengths, recompute=recompute)))

    def loss(
        self,
        tokens: Tensor,
        masked: Tensor,
        *,
        lengths: Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        recompute: bool = False,
    ) -> Tensor:
        """Compute the squared error of the hidden patches, each the mean over its numbers.

        Parameters
        ----------
        tokens, masked, lengths, recompute
            See `forward`.
        reduction : {"mean", "sum"}
            Over the hidden positions of all windows.

        Returns
        -------
        loss : Tensor, shape (), fp32
            The mean is NaN where nothing is hidden.

        Examples
        --------
        >>> model = PatchReconstructor(MambaConfig(d_model=16, n_layer=1, features=4))
        >>> tokens, masked = torch.randn(2, 10, 4), torch.rand(2, 10) < 0.5
        >>> expected = (model(tokens, masked) - tokens)[masked].square().mean()
        >>> torch.allclose(model.loss(tokens, masked), expected, rtol=1e-5)
        True
        """
        errors = patch_errors(self(tokens, masked, lengths=lengths, recompute=recompute), tokens)
        total = errors.masked_fill(~masked, 0).sum()
        return total if reduction == "sum" else total / masked.sum()


def patch_errors(found: Tensor, tokens: Tensor) -> Tensor:
    """Return the squared error of each position, shape (B, L): the mean over its numbers, in fp32.

    Examples
    --------
    >>> patch_errors(torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])).tolist()
    [[1.0, 2.0]]
    """
    return (found.float() - tokens.float()).square().mean(-1)
