"""The tree of the configuration of a language model of DNA, and the published sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.backbone import MambaConfig
from seqdomains.cli.run_config import Strandedness, complement_of
from seqdomains.genomics.language_data import LanguageData
from seqdomains.pipelines.bits import BitsConfig
from seqdomains.pipelines.recipe import TrainConfig

Size = Literal["250K", "700K", "1.4M", "3.5M", "7M", "19.3M", "40.7M"]
# Width and blocks of the models of arXiv:2312.00752, section 4.3: the rounded sizes of its figure 5 match with tied
# embeddings of 16 codes, N = 16, expansion 2 and a rank of width / 16.
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "250K": (64, 8),
    "700K": (96, 10),
    "1.4M": (128, 12),
    "3.5M": (192, 14),
    "7M": (256, 16),
    "19.3M": (384, 20),
    "40.7M": (512, 24),
}


class LanguageModelConfig(MambaConfig):
    """The backbone of a language model of DNA: by its sizes, or by the name of a published one.

    Examples
    --------
    >>> config = LanguageModelConfig(size="1.4M")
    >>> config.d_model, config.n_layer
    (128, 12)
    """

    d_model: int = Field(64, ge=1)
    n_layer: int = Field(4, ge=1)
    vocab_size: Literal[16] = 16
    features: None = None
    reverse_complement: Strandedness = "none"
    complement: None = None
    size: Size | None = None

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("size") not in SIZES:
            return given
        width, blocks = SIZES[given["size"]]
        for key, value in (("d_model", width), ("n_layer", blocks)):
            if given.get(key, value) != value:
                raise ValueError(
                    f"{key} {given[key]}: size {given['size']} has {value}; leave {key} out, or set model.size=null"
                )
        return {**given, "d_model": width, "n_layer": blocks}


class LanguageConfig(BaseModel):
    """Everything that `genomics pretrain` may be told.

    Examples
    --------
    >>> LanguageConfig().backbone().vocab_size
    16
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # A preset says it, so that one of a classifier is not taken for it.
    objective: Literal["next-token", "masked"] = "next-token"
    model: LanguageModelConfig = LanguageModelConfig()
    data: LanguageData = LanguageData()
    train: TrainConfig = TrainConfig()
    evaluate: BitsConfig = BitsConfig()

    def backbone(self) -> MambaConfig:
        """Return the sizes of the backbone."""
        own = self.model.model_dump(exclude={"size", "reverse_complement", "complement"})
        return MambaConfig(**own, complement=complement_of(self.model.reverse_complement))
