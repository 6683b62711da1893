from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from seqdomains.backbone import MambaBackbone, MambaConfig, MambaLM, SequenceClassifier, no_weight_decay


def seeded(config, seed=0):
    return MambaLM(config, generator=torch.Generator().manual_seed(seed))


def test_a_seed_decides_every_weight_and_the_global_state_none(config):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = seeded(config)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    second, other = seeded(config), seeded(config, seed=1)
    names = [name for name, _ in first.named_parameters()]
    for name in names:
        assert torch.equal(first.get_parameter(name), second.get_parameter(name)), name
    # A_log, D and the norms are constants; each of the other tensors must depend on the seed.
    same = {name for name in names if torch.equal(first.get_parameter(name), other.get_parameter(name))}
    assert all(name.endswith(("A_log", ".D", "norm.weight", "norm_f.weight")) for name in same)


def test_without_a_generator_the_global_seed_decides(config):
    torch.manual_seed(3)
    first = MambaLM(config)
    torch.manual_seed(3)
    second = MambaLM(config)
    assert torch.equal(first.backbone.embedding.weight, second.backbone.embedding.weight)


def test_constants_and_ranges_are_the_official_ones():
    config = MambaConfig(d_model=64, n_layer=9, bias=True)
    model = seeded(config)
    bound = {"in_proj": 64**-0.5, "conv1d": 0.5, "x_proj": 128**-0.5, "dt_proj": 4**-0.5, "out_proj": 128**-0.5 / 3}
    for block in model.backbone.layers:
        mixer = block.mixer
        assert torch.equal(mixer.A_log, torch.arange(1.0, 17).log().repeat(128, 1))
        assert torch.equal(mixer.D, torch.ones(128))
        assert torch.equal(block.norm.weight, torch.ones(64))
        for name, limit in bound.items():
            weight = getattr(mixer, name).weight
            # Hundreds of uniform draws come within a tenth of their bound and none beyond it.
            assert 0.9 * limit < weight.abs().max() <= limit * (1 + 1e-6), name
            assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1), name
        assert not mixer.in_proj.bias.any()
        assert not mixer.out_proj.bias.any()
        assert 0.4 < mixer.conv1d.bias.abs().max() <= 0.5
    assert model.backbone.embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_steps_are_log_uniform_between_their_limits():
    config = MambaConfig(d_model=512, n_layer=1, dt_min=0.002, dt_max=0.2)
    dt = softplus(seeded(config).backbone.layers[0].mixer.dt_proj.bias)
    assert 0.002 * 0.999 <= dt.min() < 0.0025
    assert 0.16 < dt.max() <= 0.2 * 1.001
    assert dt.log().mean().item() == pytest.approx(math.log(0.02), abs=0.15)


def test_steps_are_raised_to_the_floor():
    config = MambaConfig(d_model=512, n_layer=1, dt_min=1e-6, dt_init_floor=1e-3)
    dt = softplus(seeded(config).backbone.layers[0].mixer.dt_proj.bias)
    assert dt.min().item() == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("build", [MambaBackbone, MambaLM, lambda config: SequenceClassifier(config, classes="ab")])
@pytest.mark.parametrize("options", [{}, {"bias": True, "conv_bias": False, "tie_embeddings": False}])
def test_every_parameter_is_set(build, options, monkeypatch):
    config = MambaConfig(d_model=16, n_layer=1, **options)
    empty, empty_like = torch.empty, torch.empty_like
    # to_empty and new parameters take their memory from these two: poisoned, a forgotten one stays NaN.
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(torch.nan))
    for name, parameter in build(config).named_parameters():
        assert parameter.dtype == torch.float32, name
        assert torch.isfinite(parameter).all(), name


def test_weight_decay_leaves_dynamics_norms_and_biases_alone():
    model = SequenceClassifier(MambaConfig(d_model=16, n_layer=2, bias=True), classes=("a", "b"))
    kept = no_weight_decay(model)
    assert kept < {name for name, _ in model.named_parameters()}
    ends = {name.split("mixer.")[-1] for name in kept}
    assert ends == {
        "A_log",
        "D",
        "in_proj.bias",
        "conv1d.bias",
        "dt_proj.bias",
        "out_proj.bias",
        "backbone.layers.0.norm.weight",
        "backbone.layers.1.norm.weight",
        "backbone.norm_f.weight",
        "head.bias",
    }
    assert sum(name.startswith("backbone.layers.0.") for name in kept) == 7
