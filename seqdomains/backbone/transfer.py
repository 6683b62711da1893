"""A model that begins with what another one has learnt."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from seqdomains.backbone.frame_head import FrameClassifier
from seqdomains.backbone.heads import SequenceClassifier

Model = TypeVar("Model", bound=SequenceClassifier | FrameClassifier)


def begin_from(learnt: nn.Module, model: Model, *, head_only: bool = False) -> Model:
    """Give a new model a copy of another one's backbone, and return it.

    Parameters
    ----------
    learnt : Module
        Any model on a backbone of the same sizes; it stays as it is.
    model : SequenceClassifier or FrameClassifier
        Its head stays new.
    head_only : bool
        Whether the backbone is to stay as it is in training: it asks for no gradient.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig, MambaLM
    >>> sizes = MambaConfig(d_model=8, n_layer=1)
    >>> model = begin_from(MambaLM(sizes), SequenceClassifier(sizes, classes="ab"), head_only=True)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['head.weight', 'head.bias']
    """
    backbone = learnt.get_submodule("backbone")
    model.backbone.load_state_dict(backbone.state_dict())
    model.backbone.requires_grad_(not head_only)
    return model
