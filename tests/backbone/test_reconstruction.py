"""Masked reconstruction: what is hidden is not read, all weights learn, and the artefact is read strictly."""

from __future__ import annotations

import json

import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM, PatchReconstructor, from_pretrained
from seqdomains.errors import InputError

CONFIG = MambaConfig(d_model=16, n_layer=2, vocab_size=256, features=5)


def small_model(**changes):
    return PatchReconstructor(CONFIG.model_copy(update=changes), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 20, 5, generator=generator)
    masked = torch.rand(3, 20, generator=generator) < 0.5
    return tokens, masked


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "both sides"])
def test_what_is_hidden_is_not_read(given, bidirectional):
    tokens, masked = given
    model = small_model(bidirectional=bidirectional).eval()
    other = torch.where(masked[:, :, None], torch.full_like(tokens, 50.0), tokens)
    with torch.no_grad():
        assert torch.equal(model(tokens, masked), model(other, masked))
        assert not torch.equal(model(tokens, masked), model(tokens, torch.zeros_like(masked)))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "both sides"])
def test_what_stands_behind_a_window_changes_nothing(given, bidirectional):
    tokens, masked = given
    model, lengths = small_model(bidirectional=bidirectional).eval(), torch.tensor([20, 12, 1])
    masked = masked & (torch.arange(20) < lengths[:, None])
    other = torch.where((torch.arange(20) < lengths[:, None])[:, :, None], tokens, torch.full_like(tokens, 9.0))
    with torch.no_grad():
        assert torch.equal(*(model.loss(one, masked, lengths=lengths) for one in (tokens, other)))
        before = model(tokens, masked)[0, 5]
        changed = model(torch.cat([tokens[:, :15], other[:, :5]], dim=1), masked)[0, 5]
    assert torch.equal(before, changed) != bidirectional


def test_only_what_is_hidden_counts_and_all_weights_learn(given):
    tokens, masked = given
    model = small_model()
    total = model.loss(tokens, masked, reduction="sum")
    found = model(tokens, masked)
    expected = sum((found[row, at] - tokens[row, at]).square().mean() for row, at in masked.nonzero().tolist())
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(model.loss(tokens, masked), expected / masked.sum())
    total.backward()
    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []
    recomputed = small_model()
    recomputed.loss(tokens, masked, reduction="sum", recompute=True).backward()
    torch.testing.assert_close(recomputed.mask.grad, model.mask.grad, rtol=1e-4, atol=1e-5)


def test_a_model_is_what_was_saved(given, tmp_path):
    model = small_model().eval()
    model.save_pretrained(tmp_path / "model", signature={"domain": "audio"})
    loaded = from_pretrained(tmp_path / "model")
    assert loaded.config["architecture"] == "PatchReconstructor"
    with torch.no_grad():
        assert torch.equal(loaded.model(*given), model(*given))
    with pytest.raises(InputError, match="holds a PatchReconstructor, expected a MambaLM"):
        MambaLM.from_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    content = json.loads(path.read_text())
    content["model"]["features"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="features is null, and what is reconstructed are real numbers"):
        from_pretrained(tmp_path / "model")


def test_codes_cannot_be_reconstructed():
    with pytest.raises(ValueError, match="patches are real numbers"):
        PatchReconstructor(MambaConfig(d_model=16, n_layer=1))
