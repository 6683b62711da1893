"""What stands on the backbone: the language model and the classifier of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor, nn

from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.initialisation import initialise
from seqdomains.backbone.lengths import check_lengths, counted_positions
from seqdomains.backbone.model import MambaBackbone
from seqdomains.backbone.parameters import unset
from seqdomains.backbone.pooling import POOLINGS, Pooling, last_position, pool, sum_of_positions
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.state import InferenceState
from seqdomains.backbone.time_chunks import Part, sum_over_chunks
from seqdomains.backbone.token_cost import token_cost


class Artefact(nn.Module):
    """A model that people share: it saves itself to a folder and reads itself back."""

    def save_pretrained(self, folder: str | Path, *, signature: Mapping[str, Any]) -> None:
        """Write the model to `folder`; see `seqdomains.backbone.artefact.save_pretrained`."""
        from seqdomains.backbone.artefact import save_pretrained

        save_pretrained(self, folder, signature=signature)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Read a model of this class from `folder`; see `seqdomains.backbone.artefact.from_pretrained`.

        Raises
        ------
        InputError
            If the folder is damaged or holds a model of another class.
        """
        from seqdomains.backbone.artefact import from_pretrained
        from seqdomains.errors import InputError

        model = from_pretrained(folder, device=device).model
        if not isinstance(model, cls):
            raise InputError(f"{folder}: holds a {type(model).__name__}, expected a {cls.__name__}")
        return model


class MambaLM(Artefact):
    """Next-token model whose output matrix is its embedding, unless `config.tie_embeddings` is off.

    With `config.bidirectional` or `config.complement` it is a model of each token given both of its sides, to be
    trained on masked ones.

    Parameters
    ----------
    config : MambaConfig
        Sizes.
    generator : torch.Generator, optional
        Source of the initial values (CPU); none means torch's global one.

    Examples
    --------
    >>> model = MambaLM(MambaConfig(d_model=128, n_layer=12), generator=torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    1401472
    """

    def __init__(self, config: MambaConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if config.features is not None:
            raise ValueError(f"features {config.features}: a language model reads codes, expected None")
        self.config = config
        self.backbone = MambaBackbone(config, generator=generator)
        self.lm_head = unset(nn.Linear, config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        else:
            initialise(self.lm_head, config, generator=generator)

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        state: InferenceState | None = None,
        return_state: Literal[False] = False,
        recompute: bool = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        state: InferenceState | None = None,
        return_state: Literal[True],
        recompute: bool = False,
    ) -> tuple[Tensor, InferenceState]: ...

    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        state: InferenceState | None = None,
        return_state: bool = False,
        recompute: bool = False,
    ) -> Tensor | tuple[Tensor, InferenceState]:
        """Compute the logits of each next token, or of each token itself where the model is not causal.

        Parameters
        ----------
        tokens : Tensor of any integer dtype, shape (B, L)
            Codes below `config.vocab_size`.
        lengths
            See `MambaBackbone.forward`.
        state : InferenceState, optional
            Memory of the tokens before.
        return_state : bool
            Whether to return the memory after the last token too.
        recompute : bool
            See `seqdomains.backbone.block.Block.forward`.

        Returns
        -------
        logits : Tensor, shape (B, L, vocab_size), fp32
            Row t scores the token at t + 1; the one at t where the model is not causal, which has then read that too:
            it says something where the token was masked.
        state : InferenceState
            Only with `return_state`.
        """
        if not return_state:
            return self.logits(self.backbone(tokens, lengths=lengths, state=state, recompute=recompute))
        hidden, after = self.backbone(tokens, state=state, return_state=True, recompute=recompute)
        return self.logits(hidden), after

    def logits(self, hidden: Tensor) -> Tensor:
        """Turn the backbone's vectors, shape (B, L, d_hidden), into logits; see `forward`.

        Of both strands the sum is taken, each code of the other one as its partner.
        """
        if self.config.complement is None:
            return full_precision(self.lm_head(hidden))
        given, other = hidden.chunk(2, dim=-1)
        of_other = full_precision(self.lm_head(other.flip(-1)))
        return full_precision(self.lm_head(given)) + of_other[..., list(self.config.complement)]

    def loss(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        ignored: int | None = None,
        weights: Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        time_chunk: int | None = None,
        shard: SequenceShard | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Compute the negative log-likelihood of the tokens, each given those before it, in nats.

        Parameters
        ----------
        tokens : Tensor of any integer dtype, shape (B, L)
            L at least 2.
        lengths, ignored
            Which positions count; see `counted_positions`.
        weights : Tensor, shape (B, L), optional
            Factor of each token in the sum and in the mean; one of weight 0 does not count.
        reduction : {"mean", "sum"}
            Over the positions that count.
        time_chunk, shard, recompute
            See `SequenceClassifier.forward`. The logits are made chunk by chunk too.

        Returns
        -------
        loss : Tensor, shape (), fp32
            The mean is NaN where no position counts.

        Raises
        ------
        ValueError
            If there is no second token, or the model is not causal: it has read the token that it would be asked.

        Examples
        --------
        >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
        >>> tokens = torch.randint(4, (2, 50))
        >>> torch.allclose(model.loss(tokens, time_chunk=20), model.loss(tokens), rtol=1e-5)
        True
        """
        if not self.config.causal:
            raise ValueError(
                "a model that reads both sides of a position has seen the next token: train it on masked tokens"
            )
        if tokens.shape[1] < 2:
            raise ValueError(
                f"sequences of {tokens.shape[1]} tokens: the first has none before it, expected at least 2"
            )
        counted = counted_positions(tokens, lengths, ignored)
        if weights is not None:
            weights = weights[:, 1:]
            counted = counted & (weights > 0)
        total = token_cost(
            self,
            tokens[:, :-1],
            tokens[:, 1:].long().masked_fill(~counted, -1),
            weights=weights,
            time_chunk=time_chunk,
            shard=shard,
            recompute=recompute,
        )
        if reduction == "sum":
            return total
        return total / (counted.sum() if weights is None else weights[counted].sum())


class SequenceClassifier(Artefact):
    """One class per window, from its last position, its mean, or both side by side.

    With `config.complement` it reads both strands, and their mean goes to the head: a window and its reverse complement
    have the same logits. A `SequenceTagger` in place of it answers each class by itself.

    Parameters
    ----------
    config : MambaConfig
        Sizes of the backbone.
    classes : sequence of str
        Class names in the order of the logits, at least one, all different.
    pooling : "last", "mean" or "both"
        What the linear layer sees: the hidden vector after the last token, the mean over the tokens, or both
        concatenated.
    generator : torch.Generator, optional
        Source of the initial values (CPU); none means torch's global one.

    Raises
    ------
    ValueError
        If class names are missing or repeated, or `pooling` is unknown.

    Examples
    --------
    >>> model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=("human", "gorilla"), pooling="both")
    >>> tuple(model(torch.zeros(3, 8, dtype=torch.uint8), lengths=torch.tensor([8, 5, 1])).shape)
    (3, 2)
    """

    def __init__(
        self,
        config: MambaConfig,
        *,
        classes: Sequence[str],
        pooling: Pooling = "both",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_classes(classes)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r}: expected one of {', '.join(POOLINGS)}")
        self.config = config
        self.classes = tuple(classes)
        self.pooling = pooling
        self.backbone = MambaBackbone(config, generator=generator)
        width = config.d_model * (2 if pooling == "both" else 1)
        self.head = unset(nn.Linear, width, len(self.classes))
        initialise(self.head, config, generator=generator)

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor | None = None,
        *,
        time_chunk: int | None = None,
        shard: SequenceShard | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Compute the logits of each window.

        Parameters
        ----------
        tokens : Tensor of any integer dtype, shape (B, L)
            Codes, or real numbers of shape (B, L, features) where the model reads those; those at and after a window's
            length change nothing, in the logits or the gradients.
        lengths : Tensor of any integer dtype, shape (B,), optional
            Real tokens of each window, 1 to L, best left on the CPU: there they are checked without waiting for the
            GPU. None means all L.
        time_chunk : int, optional
            Tokens that are in memory at once while a longer window is trained on, for one forward pass more; see
            `seqdomains.backbone.time_chunks`.
        shard : SequenceShard, optional
            Other ranks have the same tokens and make the same call, and each runs its part of the time; see
            `seqdomains.backbone.sequence_parallel`.
        recompute : bool
            See `seqdomains.backbone.block.Block.forward`.

        Returns
        -------
        logits : Tensor, shape (B, n_classes), fp32

        Raises
        ------
        ValueError
            If L is 0, `lengths` does not fit `tokens`, or `time_chunk` or `shard` go with a model that is not causal.
        """
        chunked = time_chunk is not None and time_chunk < tokens.shape[1]
        if not self.config.causal and (shard is not None or chunked):
            raise ValueError("a model that reads both sides of a position takes windows whole: no time_chunk, no shard")
        if tokens.dim() > 1 and tokens.shape[1] == 0:
            raise ValueError("a window of 0 tokens has no class: expected at least one token")
        if lengths is not None:
            check_lengths(lengths, tokens)
            lengths = lengths.to(tokens.device, torch.int64, non_blocking=True)
        if time_chunk is not None and time_chunk < tokens.shape[1]:
            share = self._share(tokens, lengths)
            pooled = sum_over_chunks(self.backbone, tokens, share, chunk=time_chunk, shard=shard, recompute=recompute)
        elif shard is not None:
            first, end = shard.bounds(tokens.shape[1])
            hidden = self.backbone(tokens[:, first:end], shard=shard, recompute=recompute)
            pooled = shard.sum(self._share(tokens, lengths)(hidden, first))
        else:
            hidden = self.backbone.both_strands(tokens, lengths=lengths, recompute=recompute)
            strands = self.config.strands
            pooled = pool(hidden, None if lengths is None else lengths.repeat(strands), pooling=self.pooling)
            # The mean of both strands does not tell which of them was given.
            pooled = pooled.view(strands, len(tokens), -1).mean(0) if strands > 1 else pooled
        # B rows only: bf16 would cost accuracy and save nothing.
        with torch.autocast(pooled.device.type, enabled=False):
            logits: Tensor = self.head(pooled)
        return full_precision(logits)

    def _share(self, tokens: Tensor, lengths: Tensor | None) -> Part:
        """Return what a chunk adds to the pooled vector of its window."""
        count = tokens.shape[1]

        def share(hidden: Tensor, first: int) -> Tensor:
            end = first + hidden.shape[1]
            parts = []
            if self.pooling in ("last", "both"):
                if lengths is None:
                    # Zero, and not absent: ranks that share a window go back through it together.
                    last = hidden[:, -1].masked_fill(hidden.new_full((), end < count, dtype=torch.bool), 0)
                else:
                    within = (lengths - first).clamp(1, hidden.shape[1])
                    elsewhere = (lengths <= first) | (lengths > end)
                    last = last_position(hidden, within).masked_fill(elsewhere[:, None], 0)
                parts.append(full_precision(last))
            if self.pooling in ("mean", "both"):
                parts.append(
                    sum_of_positions(hidden, None) / count
                    if lengths is None
                    else sum_of_positions(hidden, lengths - first) / lengths[:, None]
                )
            return torch.cat(parts, dim=-1)

        return share


class SequenceTagger(SequenceClassifier):
    """As `SequenceClassifier`, but that a window may be of several classes: each is a yes or no by itself.

    See `shares_of`.
    """


def shares_of(model: nn.Module, logits: Tensor) -> Tensor:
    """Turn logits of a model, shape (..., n_classes), into probabilities.

    Those of a `SequenceTagger` are each by itself, those of others sum to 1.

    Examples
    --------
    >>> model = SequenceTagger(MambaConfig(d_model=16, n_layer=1), classes=("dog", "rain", "wind"))
    >>> shares_of(model, torch.zeros(3)).tolist()
    [0.5, 0.5, 0.5]
    """
    return logits.sigmoid() if isinstance(model, SequenceTagger) else logits.softmax(dim=-1)


def check_classes(classes: Sequence[str]) -> None:
    """Raise ValueError unless `classes` are one name or more, each once, that fit into a cell of a table.

    Examples
    --------
    >>> check_classes(("human", "gorilla"))
    """
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes {list(classes)}: expected at least one name, each once")
    if unfit := [name for name in classes if not name or not name.isprintable()]:
        raise ValueError(f"class {unfit[0]!r}: expected a name without tabs and line ends")
