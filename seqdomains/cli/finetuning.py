"""Models that training goes out from: what a run keeps of them, and a classifier on their backbone."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from seqdomains.backbone import LoadedModel, Pooling, SequenceClassifier
from seqdomains.backbone.transfer import Model, begin_with
from seqdomains.cli.batch_plan import hash_of
from seqdomains.cli.models import artefact_of
from seqdomains.errors import ConfigError
from seqdomains.pipelines.recipe import TrainConfig


class Origin(BaseModel):
    """What a fine-tuned model began as.

    Parameters
    ----------
    artefact : Path
        Its folder.
    sha256 : str
        Of its weights: a repeated command goes on from the same.
    head_only : bool
        Whether the backbone stays as it is and the head alone is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    artefact: Path
    sha256: str
    head_only: bool = False

    @classmethod
    def of(cls, path: Path, *, head_only: bool) -> Origin:
        """Look at an artefact, or at that of a run."""
        artefact = artefact_of(path).absolute()
        return cls(artefact=artefact, sha256=hash_of(artefact / "model.safetensors"), head_only=head_only)

    def check(self, train: TrainConfig) -> None:
        """Refuse a rate for a backbone that stays as it is.

        Raises
        ------
        ConfigError
            There is one.
        """
        if self.head_only and train.backbone_lr_scale != 1:
            raise ConfigError(
                f"train.backbone_lr_scale: {train.backbone_lr_scale:g} is for a backbone that learns, and with "
                "--head-only it stays as it is; leave out one of the two"
            )

    def classifier(self, loaded: LoadedModel, *, classes: tuple[str, ...], pooling: Pooling) -> SequenceClassifier:
        """Return a classifier with this backbone and a new head."""
        return self.begun(SequenceClassifier(loaded.model.config, classes=classes, pooling=pooling), loaded)

    def begun(self, model: Model, loaded: LoadedModel) -> Model:
        """Give a new model of the same sizes this backbone, and return it."""
        return begin_with(model, loaded.model, head_only=self.head_only)
