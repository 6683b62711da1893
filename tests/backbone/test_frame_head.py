"""The classifier of positions and the tagger: what they answer, and what their artefacts say, read strictly."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from seqdomains.backbone import (
    FrameClassifier,
    MambaConfig,
    SequenceClassifier,
    SequenceTagger,
    from_pretrained,
    save_pretrained,
)
from seqdomains.backbone.frame_head import NOTHING
from seqdomains.errors import InputError

CLASSES = ("background", "dog", "rain")
SIZES = MambaConfig(d_model=16, n_layer=2)


@pytest.fixture
def model():
    return FrameClassifier(SIZES, classes=CLASSES, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def tokens():
    return torch.randint(16, (2, 60), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cuts", [(1,) * 60, (7, 40, 13), (59, 1)])
@torch.no_grad()
def test_pieces_with_the_state_are_the_whole(model, tokens, cuts):
    state, parts = None, []
    for part in tokens.split(cuts, dim=1):
        logits, state = model(part, state=state, return_state=True)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_answer_does_not_know_what_follows(model, tokens):
    changed = tokens.clone()
    changed[:, 30:] = 0
    torch.testing.assert_close(model(changed)[:, :30], model(tokens)[:, :30])


@pytest.mark.parametrize("chunk", [None, 17])
def test_the_loss_is_of_what_is_asked(model, tokens, chunk):
    targets = torch.randint(3, tokens.shape, generator=torch.Generator().manual_seed(2))
    targets[1, 20:] = NOTHING
    expected = cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum")
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    found = model.loss(tokens, targets, time_chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(torch.autograd.grad(found, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [FrameClassifier, SequenceTagger])
def test_an_artefact_says_what_it_is_and_is_read_strictly(tmp_path, tokens, kind):
    saved = kind(SIZES, classes=CLASSES, generator=torch.Generator().manual_seed(0)).eval()
    save_pretrained(saved, tmp_path / "a", signature={"domain": "toy"})
    loaded = from_pretrained(tmp_path / "a").model
    assert type(loaded) is kind
    assert loaded.classes == CLASSES
    with torch.no_grad():
        assert torch.equal(loaded(tokens), saved(tokens))
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    assert config["architecture"] == kind.__name__
    for key, value, found in (
        ("threshold", 0.5, "threshold: Extra inputs are not permitted"),
        ("classes", ["a", "a"], "each once"),
        ("architecture", "Frames", "architecture"),
    ):
        path.write_text(json.dumps({**config, key: value}))
        with pytest.raises(InputError, match=found):
            from_pretrained(tmp_path / "a")
    path.write_text(json.dumps({**config, "classes": ["a", "b"]}))
    with pytest.raises(InputError, match=r"head\.weight"):
        from_pretrained(tmp_path / "a")


def test_a_classifier_is_no_tagger_and_its_artefact_is_as_ever(tmp_path):
    save_pretrained(SequenceClassifier(SIZES, classes=CLASSES), tmp_path / "a", signature={})
    keys = list(json.loads((tmp_path / "a" / "config.json").read_text()))
    assert keys == ["format_version", "architecture", "model", "signature", "weights_sha256", "classes", "pooling"]
    with pytest.raises(InputError, match="holds a SequenceClassifier, expected a SequenceTagger"):
        SequenceTagger.from_pretrained(tmp_path / "a")


@pytest.mark.parametrize("classes", [(), ("a", "a"), ("a\tb",)])
def test_bad_classes(classes):
    with pytest.raises(ValueError, match="expected"):
        FrameClassifier(SIZES, classes=classes)
