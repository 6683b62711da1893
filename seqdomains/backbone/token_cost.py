"""What the tokens that a language model is asked cost: its negative log-likelihood, in chunks or on several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import cross_entropy

from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.time_chunks import sum_over_positions

if TYPE_CHECKING:
    from seqdomains.backbone.heads import MambaLM

# What torch's cross-entropy leaves out.
_NOTHING = -100


def token_cost(
    model: MambaLM,
    tokens: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    time_chunk: int | None = None,
    shard: SequenceShard | None = None,
    recompute: bool = False,
) -> Tensor:
    """Add up the negative log-likelihood of `targets` under the logits of each position, in nats.

    Parameters
    ----------
    model : MambaLM
    tokens : Tensor of any integer dtype, shape (B, L)
        What the model reads.
    targets : Tensor of a signed integer dtype, shape (B, L)
        What row t of the logits is asked; a negative one is not asked. `MambaLM.loss` asks it for the token at t + 1,
        a masked model is asked for the one at t, which it does not read.
    weights : Tensor, shape (B, L), optional
        Factors of the positions; where there are none all count alike.
    time_chunk, shard, recompute
        See `SequenceClassifier.forward`. The logits are made chunk by chunk too.

    Returns
    -------
    total : Tensor, shape (), fp32

    Examples
    --------
    >>> import torch
    >>> from seqdomains.backbone import MambaConfig, MambaLM
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    >>> tokens, hidden = torch.randint(4, (2, 50)), torch.rand(2, 50) < 0.5
    >>> total = token_cost(model, tokens.masked_fill(hidden, 15), tokens.masked_fill(~hidden, -1))
    >>> bool(total > 0), total.shape
    (True, torch.Size([]))
    """
    targets = targets.long().masked_fill(targets < 0, _NOTHING)

    def part(hidden: Tensor, first: int) -> Tensor:
        logits = model.logits(hidden).flatten(0, 1)
        own = targets[:, first : first + hidden.shape[1]].flatten()
        if weights is None:
            return cross_entropy(logits, own, ignore_index=_NOTHING, reduction="sum")
        lost = cross_entropy(logits, own, ignore_index=_NOTHING, reduction="none")
        return (lost * weights[:, first : first + hidden.shape[1]].flatten()).sum()

    of_head = (model.lm_head.weight,) if not model.config.tie_embeddings else ()
    return sum_over_positions(
        model.backbone, tokens, part, time_chunk=time_chunk, parameters=of_head, shard=shard, recompute=recompute
    )
