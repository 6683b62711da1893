"""A classifier that begins with what another model has learnt."""

from __future__ import annotations

from collections.abc import Sequence

from seqdomains.backbone.heads import MambaLM, SequenceClassifier
from seqdomains.backbone.pooling import Pooling


def with_new_head(
    model: MambaLM | SequenceClassifier, *, classes: Sequence[str], pooling: Pooling, head_only: bool = False
) -> SequenceClassifier:
    """Return a classifier with a copy of a model's backbone and a new head.

    Parameters
    ----------
    model : MambaLM or SequenceClassifier
        Stays as it is.
    classes : sequence of str
        Those of the new head.
    pooling : "last", "mean" or "both"
        What the new head sees.
    head_only : bool
        Whether the backbone is to stay as it is in training: it asks for no gradient.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = with_new_head(MambaLM(MambaConfig(d_model=8, n_layer=1)), classes="ab", pooling="mean", head_only=True)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['head.weight', 'head.bias']
    """
    new = SequenceClassifier(model.config, classes=classes, pooling=pooling)
    new.backbone.load_state_dict(model.backbone.state_dict())
    new.backbone.requires_grad_(not head_only)
    return new
