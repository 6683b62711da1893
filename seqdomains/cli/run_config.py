"""The tree of a genomics run's configuration: one section per component, declared beside that component."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from seqdomains.backbone import MambaConfig, Pooling
from seqdomains.cli.finetuning import Origin
from seqdomains.cli.models import Strands
from seqdomains.genomics.alphabet import COMPLEMENT, GapPolicy
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.recipe import TrainConfig

Strandedness = Literal["none", "equivariant"]
"""Whether a model reads both strands with the same weights, so that the reverse complement has the same answer."""


def complement_of(strandedness: Strandedness) -> tuple[int, ...] | None:
    """Return the partners of the codes of DNA, for a backbone that is to know them.

    Examples
    --------
    >>> complement_of("none"), complement_of("equivariant")[:4]
    (None, (3, 2, 1, 0))
    """
    return None if strandedness == "none" else tuple(COMPLEMENT.tolist())


class ModelConfig(MambaConfig):
    """The backbone and how its positions become one answer.

    Examples
    --------
    >>> ModelConfig(d_model=128, n_layer=12).backbone() == MambaConfig(d_model=128, n_layer=12)
    True
    """

    d_model: int = Field(64, ge=1)
    n_layer: int = Field(2, ge=1)
    pooling: Pooling = "mean"
    reverse_complement: Strandedness = "none"
    complement: None = None

    def backbone(self) -> MambaConfig:
        """Return the part that the backbone reads."""
        own = self.model_dump(exclude={"pooling", "reverse_complement", "complement"})
        return MambaConfig(**own, complement=complement_of(self.reverse_complement))


class RunConfig(BaseModel):
    """Everything that `genomics train` and `genomics finetune` may be told.

    Examples
    --------
    >>> RunConfig().data.window
    4096
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = ModelConfig()
    data: SpeciesData = SpeciesData()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    strands: Strands = "forward"
    finetune: Origin | None = None

    @property
    def pooling(self) -> Pooling:
        """How positions become one answer."""
        return self.model.pooling

    def backbone(self) -> MambaConfig:
        """Return the sizes of the backbone."""
        return self.model.backbone()


class PredictData(BaseModel):
    """How `genomics predict` reads its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gap_policy: GapPolicy = "reject"


class PredictConfig(BaseModel):
    """What --set may tell `genomics predict`: the keys of a run's configuration that make sense there.

    Examples
    --------
    >>> PredictConfig().data.gap_policy
    'reject'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: PredictData = PredictData()
    strands: Strands = "forward"
