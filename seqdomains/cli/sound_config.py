"""The tree of an audio run's configuration: one section per component, declared beside that component."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from seqdomains.audio.data_config import ClipData
from seqdomains.audio.front_end import LEVELS, SoundInput
from seqdomains.backbone import MambaConfig, Pooling
from seqdomains.cli.config import read_preset
from seqdomains.cli.run_config import ModelConfig, RunConfig
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.recipe import TrainConfig


def schema_of(preset: str) -> type[RunConfig] | type[SoundRunConfig]:
    """Return the tree that a preset is of: only one of sound says what a model reads.

    Examples
    --------
    >>> schema_of("words").__name__, schema_of("laptop").__name__
    ('SoundRunConfig', 'RunConfig')
    """
    return SoundRunConfig if "input" in read_preset(preset) else RunConfig


class SoundModelConfig(ModelConfig):
    """The backbone and how its positions become one answer; what a position is follows from `input`."""

    vocab_size: Literal[256] = LEVELS
    features: None = None


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

    @property
    def pooling(self) -> Pooling:
        """How positions become one answer."""
        return self.model.pooling

    def backbone(self) -> MambaConfig:
        """Return the sizes of the backbone."""
        return self.model.backbone().model_copy(update={"features": self.input.features})
