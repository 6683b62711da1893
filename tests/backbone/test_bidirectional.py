"""A backbone that reads both sides: each position knows all others, padding changes nothing, nothing is carried."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaBackbone, MambaConfig, MambaLM, SequenceClassifier, from_pretrained
from seqdomains.backbone.official import official_state_dict
from seqdomains.backbone.rate import rescale_steps
from seqdomains.errors import InputError
from seqdomains.kernels import causal_conv1d, selective_scan

SIZES = {"d_model": 16, "n_layer": 2, "vocab_size": 11, "d_state": 5, "bidirectional": True}


def backbone_of(disturb, **sizes):
    return disturb(MambaBackbone(MambaConfig(**SIZES | sizes), generator=torch.Generator().manual_seed(0)))


def draw(*shape):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(3))


def test_a_mixer_is_two_directions_between_tied_projections(disturb):
    """The reverse direction is the forward one of the flipped input, with weights of its own."""
    mixer = backbone_of(disturb, bias=True).layers[0].mixer
    hidden = torch.randn(2, 37, 16, generator=torch.Generator().manual_seed(1))
    x, z = mixer.in_proj(hidden).chunk(2, -1)
    total = torch.zeros_like(x)
    for path, flip in ((mixer, False), (mixer.reverse, True)):
        given, gate = (x.flip(1), z.flip(1)) if flip else (x, z)
        weight = path.conv1d.weight.squeeze(1)
        u = causal_conv1d(given.contiguous(), weight, path.conv1d.bias, activation="silu")
        dt, B, C = path.x_proj(u).split([1, 5, 5], -1)
        A = -path.A_log.exp()
        y = selective_scan(u, dt @ path.dt_proj.weight.t(), A, B, C, path.D, gate.contiguous(), path.dt_proj.bias)
        total = total + (y.flip(1) if flip else y)
    assert torch.allclose(mixer(hidden)[0], mixer.out_proj(total), atol=1e-5)
    own = {name for name, _ in mixer.named_parameters() if name.startswith("reverse.")}
    shared = {"in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias"}
    assert own == {f"reverse.{name}" for name, _ in mixer.named_parameters() if name not in own | shared}


def test_parameters_are_those_of_the_formula():
    """Per block one more convolution, projection to step, B and C, step, decay and skip."""
    d, D, N, R, W, blocks = 32, 64, 16, 2, 4, 3
    count = {
        both: sum(
            one.numel() for one in MambaLM(MambaConfig(d_model=d, n_layer=blocks, bidirectional=both)).parameters()
        )
        for both in (False, True)
    }
    path = D * W + D + D * (R + 2 * N) + R * D + D + D * N + D
    assert count[False] == 16 * d + d + blocks * (d + 3 * d * D + path)
    assert count[True] - count[False] == blocks * path


def test_every_position_sees_every_other_one(disturb):
    backbone = backbone_of(disturb).eval()
    tokens = draw(1, 40)
    hidden = backbone(tokens)
    for changed in (0, 20, 39):
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % 11
        assert ((backbone(other) - hidden).abs().amax(-1) > 0).all()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_what_stands_behind_the_end_changes_nothing(disturb, recompute, bias):
    """Exactly: values and gradients are the same bits whatever the padding holds."""
    lengths = torch.tensor([41, 40, 17, 1])
    found = []
    for fill in (0, 7):
        backbone = backbone_of(disturb, bias=bias)
        tokens = draw(4, 41).masked_fill(torch.arange(41) >= lengths[:, None], fill)
        hidden = backbone(tokens, lengths=lengths, recompute=recompute)
        real = [row[:length] for row, length in zip(hidden, lengths.tolist(), strict=True)]
        torch.cat(real).square().sum().backward()
        found.append([*(one.detach() for one in real), *(one.grad for one in backbone.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with torch.no_grad():
        for row, values, length in zip(tokens, real, lengths.tolist(), strict=True):
            assert torch.allclose(backbone(row[None, :length])[0], values, atol=2e-5)


@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
def test_a_classifier_reads_its_window_alone(disturb, pooling):
    model = SequenceClassifier(MambaConfig(**SIZES), classes=("a", "b"), pooling=pooling)
    model = disturb(model).eval()
    tokens, lengths = draw(2, 30), torch.tensor([30, 12])
    with torch.no_grad():
        found = model(tokens, lengths)
        assert torch.allclose(found[1:], model(tokens[1:, :12]), atol=1e-5)
        padded = tokens.clone()
        padded[1, 12:] = 3
        assert torch.equal(found, model(padded, lengths))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_recomputation_gives_the_same_gradients(disturb, padded, autocast):
    lengths = torch.tensor([50, 23]) if padded else None
    found = []
    for recompute in (False, True):
        generator = torch.Generator().manual_seed(0)
        config = MambaConfig(**SIZES, bias=True)
        model = disturb(SequenceClassifier(config, classes=("a", "b"), pooling="both", generator=generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(draw(2, 50), lengths, recompute=recompute)
        logits.logsumexp(1).sum().backward()
        found.append([logits.detach(), *(one.grad for one in model.parameters())])
    for one, other in zip(*found, strict=True):
        error = float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))
        assert error < (5e-2 if autocast else 1e-5)


def test_a_language_model_scores_each_position_from_both_sides(disturb):
    model = disturb(MambaLM(MambaConfig(**SIZES))).eval()
    tokens = draw(1, 12)
    assert tuple(model(tokens).shape) == (1, 12, 11)
    other = tokens.clone()
    other[0, 11] = (other[0, 11] + 1) % 11
    assert not torch.equal(model(tokens)[0, 3], model(other)[0, 3])
    assert torch.equal(model(tokens, lengths=torch.tensor([11]))[0, 3], model(other, lengths=torch.tensor([11]))[0, 3])


def test_what_needs_causality_is_refused():
    config = MambaConfig(**SIZES)
    model, classifier = MambaLM(config), SequenceClassifier(config, classes=("a", "b"))
    tokens = draw(1, 12)
    with pytest.raises(ValueError, match="has seen the next token"):
        model.loss(tokens)
    with pytest.raises(ValueError, match="has no state"):
        model(tokens, return_state=True)
    with pytest.raises(ValueError, match="it has no state"):
        model.backbone.layers[0](torch.zeros(1, 4, 16), None, return_state=True, recompute=True)
    with pytest.raises(ValueError, match="takes windows whole"):
        classifier(tokens, time_chunk=5)
    with pytest.raises(InputError, match="no Mamba-1 language model elsewhere"):
        official_state_dict(model)
    with pytest.raises(InputError, match=r"both sides of a position, and a stream takes one .* alone\. Use predict\."):
        config.require_causal("a stream", instead="Use predict.")
    assert torch.isfinite(classifier(tokens, time_chunk=12)).all()


def test_steps_of_both_directions_are_rescaled(disturb):
    backbone = backbone_of(disturb)
    before = [path.A_log.exp() for path in backbone.layers[0].mixer.paths]
    rescale_steps(backbone, 2)
    for path, old in zip(backbone.layers[0].mixer.paths, before, strict=True):
        assert torch.allclose(path.A_log.exp(), 2 * old)


def test_an_artefact_comes_back(tmp_path, disturb):
    model = disturb(SequenceClassifier(MambaConfig(**SIZES), classes=("a", "b"))).eval()
    model.save_pretrained(tmp_path / "model", signature={})
    loaded = from_pretrained(tmp_path / "model").model
    tokens = draw(2, 20)
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))
    text = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(text.replace('"bidirectional": true', '"bidirectional": false'))
    with pytest.raises(InputError, match=r"tensor backbone\.layers\.0\.mixer\.reverse\.A_log is unknown"):
        from_pretrained(tmp_path / "model")


def test_an_artefact_from_before_is_read(tmp_path, disturb):
    model = disturb(MambaLM(MambaConfig(d_model=16, n_layer=1))).eval()
    model.save_pretrained(tmp_path / "model", signature={})
    text = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(text.replace(',\n    "bidirectional": false', ""))
    assert "bidirectional" not in (tmp_path / "model" / "config.json").read_text()
    assert from_pretrained(tmp_path / "model").model.config == model.config
