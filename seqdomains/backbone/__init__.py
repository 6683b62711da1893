"""The Mamba backbone: configuration, block, model, heads, inference state, artefacts."""

from __future__ import annotations

from seqdomains.backbone.artefact import LoadedModel, from_pretrained, save_pretrained
from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.frame_head import FrameClassifier
from seqdomains.backbone.heads import MambaLM, SequenceClassifier, SequenceTagger
from seqdomains.backbone.initialisation import no_weight_decay
from seqdomains.backbone.model import MambaBackbone
from seqdomains.backbone.official import load_official, official_state_dict
from seqdomains.backbone.pooling import Pooling
from seqdomains.backbone.reconstruction import PatchReconstructor
from seqdomains.backbone.state import InferenceState, LayerState

__all__ = [
    "FrameClassifier",
    "InferenceState",
    "LayerState",
    "LoadedModel",
    "MambaBackbone",
    "MambaConfig",
    "MambaLM",
    "PatchReconstructor",
    "Pooling",
    "SequenceClassifier",
    "SequenceTagger",
    "from_pretrained",
    "load_official",
    "no_weight_decay",
    "official_state_dict",
    "save_pretrained",
]
