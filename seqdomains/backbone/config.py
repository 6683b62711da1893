"""The shape of a Mamba model, checked once and frozen."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.errors import InputError

Count = Annotated[int, Field(ge=1)]


class MambaConfig(BaseModel):
    """Sizes and initialisation constants of a Mamba backbone, under the names of the official code.

    Parameters
    ----------
    d_model : int
        Width of the residual stream.
    n_layer : int
        Number of Mamba blocks; with `pool`, of each stage on its way in and on its way out.
    vocab_size : int
        Number of token codes; kept as given, never padded.
    features : int or None
        Where set, a position is as many real numbers, projected to the residual stream, in place of a code.
    d_state : int
        States per inner channel (N of the paper).
    expand : int
        Inner channels per channel of the residual stream.
    d_conv : int
        Width of the causal convolution, 2 to 4 tokens.
    dt_rank : int or "auto"
        Rank of the projection to the step size; "auto" is d_model / 16 rounded up.
    dt_min, dt_max, dt_init_floor : float
        The step after softplus is drawn log-uniformly in [dt_min, dt_max], then raised to at least dt_init_floor.
    norm_eps : float
        Added to the mean square in the RMS norms.
    bias : bool
        Biases in `in_proj` and `out_proj`.
    conv_bias : bool
        Bias in the convolution.
    tie_embeddings : bool
        Whether the language-model head is the embedding matrix itself.
    bidirectional : bool
        Whether each block also runs from the last position to the first, with a convolution, projections and decays of
        its own between the same outer projections: a position then knows both of its sides, and nothing is causal.
    complement : tuple of int or None
        Where set, the partner of each code on the other strand: the model reads both strands with the same weights, and
        the reverse complement of a window has the same answer, or the same vectors in reverse; see `strands`.
    states : "real" or "complex"
        What a state is: a number that decays, or a pair that decays and turns. Continuous signals want pairs,
        discrete ones do not (section 3.6 there). `d_state` counts pairs then, and B and C are complex too.
    time_invariant : "none", "outer" or "all"
        Of which blocks B, C and the step are constants that are learnt, and do not follow from the input: none, those
        of all stages but the innermost, or all.
    pool : tuple of int
        Where given, the model is a U-Net of stages (arXiv:2202.09729): between two stages so many positions become one,
        the outermost number first, and back. Nothing is seen before its time, and any length goes; see `stages`.
    pool_expand : int
        How much wider each stage is than the one around it.

    Raises
    ------
    pydantic.ValidationError
        For an unknown key or a value out of range.

    References
    ----------
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752.

    Examples
    --------
    >>> config = MambaConfig(d_model=128, n_layer=12)
    >>> config.d_inner, config.rank
    (256, 8)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    d_model: Count
    n_layer: Count
    vocab_size: Count = 16
    features: Count | None = None
    d_state: Count = 16
    expand: Count = 2
    d_conv: Annotated[int, Field(ge=2, le=4)] = 4
    dt_rank: Count | Literal["auto"] = "auto"
    dt_min: Annotated[float, Field(gt=0)] = 0.001
    dt_max: Annotated[float, Field(gt=0)] = 0.1
    dt_init_floor: Annotated[float, Field(gt=0)] = 1e-4
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    bias: bool = False
    conv_bias: bool = True
    tie_embeddings: bool = True
    bidirectional: bool = False
    complement: tuple[int, ...] | None = None
    states: Literal["real", "complex"] = "real"
    time_invariant: Literal["none", "outer", "all"] = "none"
    pool: tuple[Annotated[int, Field(ge=2)], ...] = ()
    pool_expand: Count = 2

    @model_validator(mode="after")
    def _order_steps(self) -> Self:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} is above dt_max {self.dt_max}; swap them or widen the range")
        return self

    @model_validator(mode="after")
    def _pair_codes(self) -> Self:
        if self.complement is None:
            return self
        if self.features is not None:
            raise ValueError("complement: codes have partners, and the model reads features; leave one of the two")
        codes = range(self.vocab_size)
        if len(self.complement) != len(codes) or any(
            code not in codes or self.complement[code] != own for own, code in enumerate(self.complement)
        ):
            raise ValueError(
                f"complement {list(self.complement)}: expected the partner of each of the {len(codes)} codes, and each "
                "to be its partner's"
            )
        return self

    @model_validator(mode="after")
    def _stages_are_causal(self) -> Self:
        if self.pool and not self.causal:
            raise ValueError(
                "pool: stages take positions in one direction; leave bidirectional off and complement null"
            )
        if self.time_invariant == "outer" and not self.pool:
            raise ValueError('time_invariant "outer": there is one stage alone; give pool, or "all" or "none"')
        return self

    @property
    def order(self) -> tuple[int, ...]:
        """Stages in the order in which they run, each of `n_layer` blocks; 0 is the outermost one.

        Examples
        --------
        >>> MambaConfig(d_model=64, n_layer=3, pool=(16, 16)).order
        (0, 1, 2, 1, 0)
        """
        inwards = range(len(self.pool))
        return (*inwards, len(self.pool), *reversed(inwards))

    @property
    def blocks(self) -> int:
        """Number of Mamba blocks in all."""
        return self.n_layer * len(self.order)

    @property
    def plain(self) -> bool:
        """Whether it is Mamba as the official code has it: one stage of selective blocks with real states."""
        return self.states == "real" and self.time_invariant == "none" and not self.pool

    def stage(self, number: int) -> MambaConfig:
        """Return the sizes of the blocks of one stage, as of a model without stages.

        Examples
        --------
        >>> config = MambaConfig(d_model=64, n_layer=3, pool=(16, 16), time_invariant="outer")
        >>> [(stage.d_model, stage.time_invariant) for stage in map(config.stage, range(3))]
        [(64, 'all'), (128, 'all'), (256, 'none')]
        """
        outer = self.time_invariant == "outer" and number < len(self.pool)
        return self.model_copy(
            update={
                "d_model": self.d_model * self.pool_expand**number,
                "time_invariant": "all" if self.time_invariant == "all" or outer else "none",
                "pool": (),
            }
        )

    @property
    def strands(self) -> int:
        """How often a window goes through the blocks."""
        return 1 if self.complement is None else 2

    @property
    def d_hidden(self) -> int:
        """Width of a position's vector: d_model of each strand."""
        return self.strands * self.d_model

    @property
    def causal(self) -> bool:
        """Whether a position knows only of those before it, so that a sequence can be read on from a state."""
        return not self.bidirectional and self.complement is None

    def require_causal(self, what: str, *, instead: str) -> None:
        """Refuse a model that reads both sides of a position where one must be read on from what came before.

        Raises
        ------
        InputError
            The model is not causal; `what` names what asks for one that is, `instead` says what the user can do.

        Examples
        --------
        >>> MambaConfig(d_model=8, n_layer=1).require_causal("a stream", instead="Use predict.")
        """
        if not self.causal:
            raise InputError(
                f"the model reads both sides of a position, and {what} takes one that reads from the first position to "
                f"the last alone. {instead}"
            )

    @property
    def d_inner(self) -> int:
        """Channels of the convolution and the scan (D of the paper)."""
        return self.expand * self.d_model

    @property
    def rank(self) -> int:
        """Rank of the step-size projection with "auto" resolved."""
        return math.ceil(self.d_model / 16) if self.dt_rank == "auto" else self.dt_rank
