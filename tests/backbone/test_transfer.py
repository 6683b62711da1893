import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.backbone.transfer import begin_with

CONFIG = MambaConfig(d_model=8, n_layer=2)


@pytest.mark.parametrize("kind", ["language model", "classifier"])
def test_the_backbone_is_copied_and_the_head_is_new(kind):
    first = MambaLM(CONFIG) if kind == "language model" else SequenceClassifier(CONFIG, classes=("a", "b"))
    new = SequenceClassifier(CONFIG, classes=("x", "y", "z"), pooling="mean")
    head = new.head.weight.detach().clone()
    model = begin_with(new, first)
    assert model is new
    assert torch.equal(model.head.weight, head)
    pairs = list(zip(first.backbone.parameters(), model.backbone.parameters(), strict=True))
    assert all(torch.equal(old, new) and old.data_ptr() != new.data_ptr() for old, new in pairs)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_backbone_gets_no_gradient_and_the_head_does():
    model = begin_with(SequenceClassifier(CONFIG, classes=("x", "y"), pooling="both"), MambaLM(CONFIG), head_only=True)
    model(torch.zeros(2, 5, dtype=torch.uint8)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == [
        "head.weight",
        "head.bias",
    ]
