from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM, load_official, official_state_dict
from seqdomains.errors import InputError

SIZES = {"d_model": 24, "n_layer": 2, "vocab_size": 13, "d_state": 5, "expand": 3, "d_conv": 3, "dt_rank": 4}
OPTIONS = [{}, {"bias": True}, {"conv_bias": False}]


def close(first, second):
    """Relative to the largest logit, as fp32 rounding is."""
    assert (first - second).abs().max() <= 1e-5 * second.abs().max()


@pytest.fixture
def tokens():
    return torch.randint(13, (2, 29), generator=torch.Generator().manual_seed(2))


def transformers_model(**options):
    transformers = pytest.importorskip("transformers", reason="the dev dependency transformers is not installed")
    c = MambaConfig(**SIZES, **options)
    theirs = transformers.MambaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        state_size=c.d_state,
        num_hidden_layers=c.n_layer,
        layer_norm_epsilon=c.norm_eps,
        expand=c.expand,
        conv_kernel=c.d_conv,
        use_bias=c.bias,
        use_conv_bias=c.conv_bias,
        time_step_rank=c.rank,
        tie_word_embeddings=c.tie_embeddings,
    )
    return c, transformers.MambaForCausalLM(theirs).eval()


@pytest.fixture
def mambapy_model(monkeypatch):
    pytest.importorskip("mambapy.mamba", reason="the dev dependency mambapy is not installed")
    # Its language model also imports its Mamba-2, which needs a GPU package; nothing of that is used here.
    absent = SimpleNamespace(Mamba2=type("Mamba2", (), {}), Mamba2Config=type("Mamba2Config", (), {}))
    monkeypatch.setitem(sys.modules, "mambapy.mamba2", absent)
    monkeypatch.delitem(sys.modules, "mambapy.lm", raising=False)
    lm = importlib.import_module("mambapy.lm")
    yield partial(build_mambapy, lm)
    sys.modules.pop("mambapy.lm", None)


def build_mambapy(lm, **options):
    c = MambaConfig(**SIZES, **options)
    theirs = lm.MambaConfig(
        d_model=c.d_model,
        n_layers=c.n_layer,
        dt_rank=c.rank,
        d_state=c.d_state,
        expand_factor=c.expand,
        d_conv=c.d_conv,
        rms_norm_eps=c.norm_eps,
        bias=c.bias,
        conv_bias=c.conv_bias,
    )
    model = lm.LM(theirs, c.vocab_size).eval()
    if c.tie_embeddings:
        model.lm_head.weight = model.embedding.weight
    return c, model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_transformers_weights_load_and_give_the_same_logits(options, tokens, disturb):
    torch.manual_seed(0)
    config, theirs = transformers_model(**options)
    ours = load_official(disturb(theirs).state_dict())
    assert ours.config == config
    with torch.no_grad():
        close(ours(tokens), theirs(tokens).logits)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_our_weights_load_in_transformers_and_give_the_same_logits(options, tokens, disturb):
    config, theirs = transformers_model(**options)
    ours = disturb(MambaLM(config, generator=torch.Generator().manual_seed(0)))
    theirs.load_state_dict(official_state_dict(ours, layout="transformers"), strict=True)
    with torch.no_grad():
        close(theirs(tokens).logits, ours(tokens))


def test_a_transformers_folder_loads_with_its_norm_eps(tmp_path, tokens, disturb):
    config, theirs = transformers_model(norm_eps=0.01)
    disturb(theirs).save_pretrained(tmp_path)
    ours = load_official(tmp_path)
    assert ours.config == config
    with torch.no_grad():
        close(ours(tokens), theirs(tokens).logits)


@pytest.mark.parametrize("options", [*OPTIONS, {"tie_embeddings": False}], ids=str)
def test_mambapy_weights_load_and_give_the_same_logits(options, tokens, disturb, mambapy_model):
    torch.manual_seed(0)
    config, theirs = mambapy_model(**options)
    ours = load_official(disturb(theirs).state_dict())
    assert ours.config == config
    with torch.no_grad():
        close(ours(tokens), theirs(tokens))


@pytest.mark.parametrize("options", [*OPTIONS, {"tie_embeddings": False}], ids=str)
def test_our_weights_load_in_mambapy_and_give_the_same_logits(options, tokens, disturb, mambapy_model):
    config, theirs = mambapy_model(**options)
    ours = disturb(MambaLM(config, generator=torch.Generator().manual_seed(0)))
    theirs.load_state_dict(official_state_dict(ours, layout="mambapy"), strict=True)
    with torch.no_grad():
        close(theirs(tokens), ours(tokens))


@pytest.mark.parametrize("layout", ["mamba_ssm", "transformers", "mambapy"])
def test_every_layout_returns_as_the_same_model(model, layout, tokens):
    state = official_state_dict(model, layout=layout)
    back = load_official(state)
    assert back.config == model.config
    assert not back.training
    with torch.no_grad():
        assert torch.equal(back(tokens % 11), model(tokens % 11))
        # The copy has memory of its own.
        back.backbone.embedding.weight.zero_()
    assert model.backbone.embedding.weight.abs().min() > 0
    del state[next(name for name in state if name.startswith("lm_head"))]
    assert load_official(state).config.tie_embeddings


def test_half_precision_weights_are_widened(model):
    half = {name: values.bfloat16() for name, values in official_state_dict(model).items()}
    wide = load_official(half).state_dict()
    assert all(torch.equal(wide[name], half[name].float()) for name in half)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s.clear(), "no tensor backbone.embedding.weight"),
        (lambda s: s.pop("backbone.layers.0.mixer.A_log"), "no tensor backbone.layers.0.mixer.A_log"),
        (lambda s: s.pop("backbone.layers.1.mixer.D"), r"backbone.layers.1.mixer.D is missing, expected shape \[48\]"),
        (lambda s: s.update({"backbone.layers.1.mixer.dt_layernorm.weight": torch.ones(2)}), "dt_layernorm.* unknown"),
        (lambda s: s.update({"backbone.norm_f.weight": torch.ones(5)}), r"shape \[5\], expected \[24\]"),
        (lambda s: s.update({"backbone.norm_f.weight": torch.full((24,), torch.nan)}), "24 non-finite of 24"),
        (lambda s: s.update({"backbone.layers.0.mixer.conv1d.weight": torch.ones(48, 1, 7)}), "d_conv"),
        (lambda s: s.update({"backbone.layers.0.mixer.A_log": torch.ones(48)}), "2 dimensions"),
    ],
)
def test_other_tensors_are_refused_by_name(model, change, found):
    state = official_state_dict(model)
    change(state)
    with pytest.raises(InputError, match=found):
        load_official(state)


def test_folders_that_are_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_official(tmp_path / "absent")
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_official(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon_mamba"}))
    with pytest.raises(InputError, match=r"'falcon_mamba'.*expected 'mamba'"):
        load_official(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_official(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(InputError, match="pickled weights, which are never read"):
        load_official(tmp_path)
