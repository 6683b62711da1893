"""A model that begins with what another one has learnt."""

from __future__ import annotations

from typing import TypeVar

from seqdomains.backbone.frame_head import FrameClassifier
from seqdomains.backbone.heads import MambaLM, SequenceClassifier
from seqdomains.backbone.reconstruction import PatchReconstructor

Model = TypeVar("Model", bound=SequenceClassifier | FrameClassifier)


def begin_with(
    model: Model,
    trained: MambaLM | SequenceClassifier | FrameClassifier | PatchReconstructor,
    *,
    head_only: bool = False,
) -> Model:
    """Give a new model a copy of a trained one's backbone, and return it.

    Parameters
    ----------
    model : SequenceClassifier or FrameClassifier
        Of the same sizes; its head stays as it is.
    trained : MambaLM, SequenceClassifier, FrameClassifier or PatchReconstructor
        Stays as it is.
    head_only : bool
        Whether the backbone is to stay as it is in training: it asks for no gradient.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> sizes = MambaConfig(d_model=8, n_layer=1)
    >>> model = begin_with(SequenceClassifier(sizes, classes="ab", pooling="mean"), MambaLM(sizes), head_only=True)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['head.weight', 'head.bias']
    """
    model.backbone.load_state_dict(trained.backbone.state_dict())
    model.backbone.requires_grad_(not head_only)
    return model
