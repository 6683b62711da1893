from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from seqdomains.backbone import MambaLM, SequenceClassifier

POOLINGS = ["last", "mean", "both"]
CLASSES = ("human", "chimpanzee", "gorilla")


@pytest.fixture
def classifier(config, disturb):
    def build(pooling):
        generator = torch.Generator().manual_seed(0)
        return disturb(SequenceClassifier(config, classes=CLASSES, pooling=pooling, generator=generator))

    return build


def test_tied_head_is_the_embedding_and_untied_is_not(config):
    tied = MambaLM(config)
    assert tied.lm_head.weight is tied.backbone.embedding.weight
    loose = MambaLM(config.model_copy(update={"tie_embeddings": False}))
    assert loose.lm_head.weight is not loose.backbone.embedding.weight
    assert sum(p.numel() for p in loose.parameters()) - sum(p.numel() for p in tied.parameters()) == 11 * 24


@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_are_those_of_the_pooled_hidden_vectors(classifier, tokens, pooling):
    model = classifier(pooling)
    with torch.no_grad():
        hidden = model.backbone(tokens)
        parts = {"last": hidden[:, -1], "mean": hidden.mean(1)}
        parts["both"] = torch.cat([parts["last"], parts["mean"]], 1)
        expected = parts[pooling] @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(tokens), expected, rtol=1e-5, atol=1e-6)
        full = torch.tensor([37, 37])
        torch.testing.assert_close(model(tokens, full), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_padded_window_is_the_window_alone(classifier, tokens, pooling):
    model = classifier(pooling)
    lengths = torch.tensor([37, 20], dtype=torch.int32)
    padded = tokens.clone()
    padded[1, 20:] = 7
    targets = torch.tensor([0, 2])
    together = model(padded, lengths)
    cross_entropy(together, targets, reduction="sum").backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = torch.cat([model(tokens[:1]), model(tokens[1:, :20])])
    cross_entropy(alone, targets, reduction="sum").backward()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        assert (gradients[name] - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_the_padding_holds_is_never_read(classifier, tokens, pooling):
    model = classifier(pooling)
    lengths = torch.tensor([5, 20])
    results = []
    for filler in (7, 3):
        padded = tokens.clone()
        padded[0, 5:] = filler
        padded[1, 20:] = filler
        model.zero_grad()
        logits = model(padded, lengths)
        cross_entropy(logits, torch.tensor([0, 1])).backward()
        results.append([logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_both_is_last_then_mean_and_all_of_the_window_matters(classifier, tokens):
    model = classifier("both")
    assert model.head.weight.shape == (3, 48)
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 11
    with torch.no_grad():
        assert not torch.allclose(model(changed), model(tokens))


def test_logits_are_fp32_under_autocast(classifier, tokens):
    model = classifier("both")
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
    assert logits.dtype == torch.float32
    exact = model(tokens)
    assert 1e-5 < (logits - exact).norm() / exact.norm() < 2e-2
    # The head itself runs in fp32: the same hidden vectors give logits that bf16 could not hold.
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        (torch.tensor([0, 3]), "lengths 0 to 3"),
        (torch.tensor([3, 38]), "lengths 3 to 38"),
        (torch.tensor([3]), r"shape \(1,\)"),
        (torch.tensor([3.0, 4.0]), "float32"),
    ],
)
def test_lengths_must_fit(classifier, tokens, lengths, found):
    with pytest.raises(ValueError, match=found):
        classifier("mean")(tokens, lengths)


def test_an_empty_window_has_no_class(classifier, tokens):
    with pytest.raises(ValueError, match="at least one token"):
        classifier("last")(tokens[:, :0])


def test_one_token_is_a_window(classifier, tokens):
    assert classifier("both")(tokens[:, :1], torch.tensor([1, 1])).isfinite().all()


@pytest.mark.parametrize("classes", [(), ("a", "b", "a")])
def test_class_names_are_given_once_each(config, classes):
    with pytest.raises(ValueError, match="each once"):
        SequenceClassifier(config, classes=classes)


def test_unknown_pooling(config):
    with pytest.raises(ValueError, match="last, mean, both"):
        SequenceClassifier(config, classes=CLASSES, pooling="max")
