"""The tree of an audio run's configuration: one section per component, declared beside that component."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.audio.data_config import ClipData
from seqdomains.audio.front_end import LEVELS, SoundInput
from seqdomains.audio.masking import MaskConfig
from seqdomains.backbone import MambaConfig, Pooling
from seqdomains.cli.config import command_of
from seqdomains.cli.finetuning import Origin
from seqdomains.cli.language_config import LanguageConfig
from seqdomains.cli.run_config import ModelConfig, RunConfig
from seqdomains.pipelines.bits import BitsConfig
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.recipe import TrainConfig


def schema_of(
    preset: str,
) -> type[RunConfig] | type[LanguageConfig] | type[SoundRunConfig] | type[SoundPretrainConfig]:
    """Return the tree that a preset is of.

    Examples
    --------
    >>> [schema_of(name).__name__ for name in ("laptop", "pretrain-tiny", "words", "codes")]
    ['RunConfig', 'LanguageConfig', 'SoundRunConfig', 'SoundPretrainConfig']
    """
    schemas: dict[str, type[RunConfig] | type[LanguageConfig] | type[SoundRunConfig] | type[SoundPretrainConfig]] = {
        "genomics train": RunConfig,
        "genomics pretrain": LanguageConfig,
        "audio train": SoundRunConfig,
        "audio pretrain": SoundPretrainConfig,
    }
    return schemas[command_of(preset)]


class SoundModelConfig(ModelConfig):
    """The backbone and how its positions become one answer; what a position is follows from `input`."""

    vocab_size: Literal[256] = LEVELS
    features: None = None
    reverse_complement: Literal["none"] = "none"


class SoundRunConfig(BaseModel):
    """Everything that `audio train` may be told.

    Examples
    --------
    >>> SoundRunConfig(input=SoundInput(codec="waveform", patch=8)).backbone().features
    8
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: SoundModelConfig = SoundModelConfig()
    input: SoundInput = SoundInput()
    data: ClipData = ClipData()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    finetune: Origin | None = None

    @property
    def pooling(self) -> Pooling:
        """How positions become one answer."""
        return self.model.pooling

    def backbone(self) -> MambaConfig:
        """Return the sizes of the backbone."""
        return self.model.backbone().model_copy(update={"features": self.input.features})


class PretrainedModelConfig(MambaConfig):
    """The backbone of a model without classes; what a position is follows from `input`."""

    d_model: int = Field(64, ge=1)
    n_layer: int = Field(3, ge=1)
    vocab_size: Literal[256] = LEVELS
    features: None = None
    complement: None = None


class SoundPretrainConfig(BaseModel):
    """Everything that `audio pretrain` may be told.

    Examples
    --------
    >>> SoundPretrainConfig().backbone().vocab_size
    256
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # A preset says it, so that one of a classifier is not taken for it.
    objective: Literal["next-token", "masked"] = "next-token"
    model: PretrainedModelConfig = PretrainedModelConfig()
    input: SoundInput = SoundInput()
    mask: MaskConfig = MaskConfig()
    data: ClipData = ClipData()
    train: TrainConfig = TrainConfig()
    evaluate: BitsConfig = BitsConfig()

    def backbone(self) -> MambaConfig:
        """Return the sizes of the backbone."""
        return MambaConfig(**self.model.model_dump() | {"features": self.input.features})

    @model_validator(mode="after")
    def _masked_windows_are_whole(self) -> Self:
        if self.objective == "masked" and (self.train.time_chunk is not None or self.train.sequence_ranks > 1):
            raise ValueError(
                "train.time_chunk, train.sequence_ranks: windows of objective masked are computed whole; lower "
                "train.micro_batch or data.seconds to save memory, or set train.recompute=true"
            )
        return self
