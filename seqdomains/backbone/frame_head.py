"""The classifier of positions: what each frame of a sequence is, said as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.heads import Artefact, check_classes
from seqdomains.backbone.initialisation import initialise
from seqdomains.backbone.model import MambaBackbone
from seqdomains.backbone.parameters import unset
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.state import InferenceState
from seqdomains.backbone.time_chunks import sum_over_positions

# A target that nothing is asked of: padding.
NOTHING: Final = -100


class FrameClassifier(Artefact):
    """One class per position, from what was read up to it: its answer never waits for what is to come.

    Parameters
    ----------
    config : MambaConfig
        Sizes of the backbone.
    classes : sequence of str
        Class names in the order of the logits, all different; the first is the background, which is none of the others.
    generator : torch.Generator, optional
        Source of the initial values (CPU); none means torch's global one.

    Raises
    ------
    ValueError
        If class names are missing or repeated.
    InputError
        If the backbone reads both sides of a position.

    Examples
    --------
    >>> model = FrameClassifier(MambaConfig(d_model=16, n_layer=1), classes=("background", "speech"))
    >>> tokens = torch.randint(16, (1, 20))
    >>> first, state = model(tokens[:, :7], return_state=True)
    >>> rest = model(tokens[:, 7:], state=state)
    >>> torch.allclose(torch.cat([first, rest], dim=1), model(tokens), atol=1e-5)
    True
    """

    def __init__(
        self, config: MambaConfig, *, classes: Sequence[str], generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        check_classes(classes)
        config.require_causal(
            "a class for each frame, as it is read,",
            instead="Leave model.bidirectional off, or train a classifier of whole windows.",
        )
        self.config = config
        self.classes = tuple(classes)
        self.backbone = MambaBackbone(config, generator=generator)
        self.head = unset(nn.Linear, config.d_model, len(self.classes))
        initialise(self.head, config, generator=generator)

    @overload
    def forward(
        self, tokens: Tensor, *, state: InferenceState | None = None, return_state: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, *, state: InferenceState | None = None, return_state: Literal[True]
    ) -> tuple[Tensor, InferenceState]: ...

    def forward(
        self, tokens: Tensor, *, state: InferenceState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, InferenceState]:
        """Compute the logits of each position.

        Parameters
        ----------
        tokens : Tensor of any integer dtype, shape (B, L)
            Codes, or real numbers of shape (B, L, features) where the model reads those.
        state : InferenceState, optional
            Memory of the positions before.
        return_state : bool
            Whether to return the memory after the last position too.

        Returns
        -------
        logits : Tensor, shape (B, L, n_classes), fp32
        state : InferenceState
            Only with `return_state`.
        """
        hidden, after = self.backbone(tokens, state=state, return_state=True)
        logits = full_precision(self.head(hidden))
        return (logits, after) if return_state else logits

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        time_chunk: int | None = None,
        shard: SequenceShard | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Add up the cross-entropy of the positions, in nats.

        Parameters
        ----------
        tokens : Tensor, shape (B, L) or (B, L, features)
        targets : Tensor of int64, shape (B, L)
            Index into `classes`, or `NOTHING` where nothing is asked.
        time_chunk, shard, recompute
            See `SequenceClassifier.forward`. The logits are made chunk by chunk too.

        Returns
        -------
        loss : Tensor, shape (), fp32

        Examples
        --------
        >>> model = FrameClassifier(MambaConfig(d_model=16, n_layer=1), classes=("background", "speech"))
        >>> tokens, targets = torch.randint(16, (2, 50)), torch.randint(2, (2, 50))
        >>> torch.allclose(model.loss(tokens, targets, time_chunk=20), model.loss(tokens, targets), rtol=1e-5)
        True
        """

        def part(hidden: Tensor, first: int) -> Tensor:
            logits = full_precision(self.head(hidden))
            own = targets[:, first : first + hidden.shape[1]]
            return cross_entropy(logits.flatten(0, 1), own.flatten(), ignore_index=NOTHING, reduction="sum")

        return sum_over_positions(
            self.backbone,
            tokens,
            part,
            time_chunk=time_chunk,
            parameters=tuple(self.head.parameters()),
            shard=shard,
            recompute=recompute,
        )
