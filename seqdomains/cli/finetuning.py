"""Models that training goes out from: what a run keeps of them, and a classifier on their backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from seqdomains.backbone import LoadedModel, MambaConfig, Pooling, SequenceClassifier
from seqdomains.cli.batch_plan import hash_of
from seqdomains.cli.models import artefact_of, load_model
from seqdomains.errors import InputError


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

    def load(self, check: Callable[[Mapping[str, Any]], object]) -> LoadedModel:
        """Read it.

        Raises
        ------
        InputError
            It is not what it was, or of another domain.
        """
        if hash_of(self.artefact / "model.safetensors") != self.sha256:
            raise InputError(f"{self.artefact} has changed since the run began; put it back, or choose another --out")
        return load_model(self.artefact, device=torch.device("cpu"), check=check)

    def classifier(self, loaded: LoadedModel, *, classes: tuple[str, ...], pooling: Pooling) -> SequenceClassifier:
        """Return a classifier with this backbone and a new head."""
        config: MambaConfig = loaded.model.config
        model = SequenceClassifier(config, classes=classes, pooling=pooling)
        backbone = loaded.model if not hasattr(loaded.model, "backbone") else loaded.model.backbone
        model.backbone.load_state_dict(backbone.state_dict())
        model.backbone.requires_grad_(not self.head_only)
        return model
