"""Weights of other Mamba-1 implementations by name, both ways: mamba_ssm, transformers, mambapy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from seqdomains.backbone.artefact import CONFIG, WEIGHTS, open_weights, read_json
from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.heads import MambaLM
from seqdomains.backbone.parameters import adopt, block_shapes, check_finite, check_shapes
from seqdomains.errors import InputError

Layout = Literal["mamba_ssm", "transformers", "mambapy"]

EMBEDDING = "backbone.embedding.weight"
HEAD = "lm_head.weight"
ADVICE = "Expected the weights of a Mamba-1 language model of mamba_ssm, transformers or mambapy."

# Beginnings of names here and there; the rest of each name is the same everywhere.
PREFIXES: dict[Layout, dict[str, str]] = {
    "mamba_ssm": {},
    "transformers": {"backbone.embedding.": "backbone.embeddings."},
    "mambapy": {
        "backbone.embedding.": "embedding.",
        "backbone.layers.": "mamba.layers.",
        "backbone.norm_f.": "norm_f.",
    },
}


def official_state_dict(model: MambaLM, *, layout: Layout = "mamba_ssm") -> dict[str, Tensor]:
    """Return the weights of a language model under the names of another implementation.

    Parameters
    ----------
    model : MambaLM
        Its tensors are shared, not copied.
    layout : "mamba_ssm", "transformers" or "mambapy"
        Whose names: `MambaLMHeadModel`, `MambaForCausalLM`, or `mambapy.lm.LM`. All three list a tied head too.

    Raises
    ------
    InputError
        If the model is not causal, or has stages, complex states or constants: none of them has those.

    Examples
    --------
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    >>> list(official_state_dict(model, layout="mambapy"))[:2]
    ['embedding.weight', 'mamba.layers.0.norm.weight']
    """
    if not model.config.causal:
        raise InputError("the model reads both sides of a position, which no Mamba-1 language model elsewhere does")
    if not model.config.plain:
        raise InputError("the model has stages, complex or time-invariant blocks, which no Mamba-1 elsewhere has")
    return {_rename(name, PREFIXES[layout]): values for name, values in model.state_dict().items()}


def load_official(source: Mapping[str, Tensor] | str | Path, *, norm_eps: float = 1e-5) -> MambaLM:
    """Build a language model from the weights of another implementation; sizes are read off the tensors.

    Parameters
    ----------
    source : mapping of str to Tensor, str or Path
        A state dict, or a folder that transformers' `save_pretrained` wrote (`model.safetensors`, `config.json`).
        Half precision becomes fp32.
    norm_eps : float
        Added to the mean square in the norms: the one size that no tensor shows. A folder's own value goes first.

    Returns
    -------
    MambaLM
        In evaluation mode, with memory of its own.

    Raises
    ------
    InputError
        If the tensors are not those of a Mamba-1 language model, or not finite.

    Examples
    --------
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1)).eval()
    >>> copy = load_official(official_state_dict(model, layout="transformers"))
    >>> copy.config == model.config
    True
    """
    if isinstance(source, Mapping):
        return _build(source, norm_eps, name="state dict")
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with {CONFIG} and {WEIGHTS}")
    if not (folder / WEIGHTS).is_file() and any(folder.glob("*.bin")):
        raise InputError(f"{folder}: holds pickled weights, which are never read; expected {WEIGHTS}. Convert them.")
    content = read_json(folder / CONFIG)
    if content.get("model_type") != "mamba" or content.get("hidden_act", "silu") != "silu":
        raise InputError(
            f"{folder / CONFIG}: model_type {content.get('model_type')!r} with activation "
            f"{content.get('hidden_act')!r}, expected 'mamba' with 'silu'. {ADVICE}"
        )
    with open_weights(folder / WEIGHTS) as handle:
        try:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, RuntimeError) as error:
            raise InputError(f"{folder / WEIGHTS}: a tensor that torch cannot hold ({error}). {ADVICE}") from error
    return _build(tensors, content.get("layer_norm_epsilon", norm_eps), name=str(folder / WEIGHTS))


def _build(source: Mapping[str, Tensor], norm_eps: float, *, name: str) -> MambaLM:
    tensors = _own_names(source)
    # Tied heads are listed or left out; an untied one differs from the embedding.
    tied = HEAD not in tensors or (EMBEDDING in tensors and torch.equal(tensors[HEAD], tensors[EMBEDDING]))
    if tied:
        tensors.pop(HEAD, None)
    config = _infer_config(tensors, norm_eps, tied=tied, name=name)
    expected = block_shapes(MambaLM, config)
    check_shapes(expected, {key: tuple(values.shape) for key, values in tensors.items()}, source=name, advice=ADVICE)
    with torch.device("meta"):
        model = MambaLM(config)
    owned = {}
    for key in expected:
        owned[key] = tensors[key].detach().to("cpu", torch.float32, copy=True)
        check_finite(key, owned[key], source=name, advice=ADVICE)
    adopt(model, owned)
    return model.eval()


def _own_names(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefixes in PREFIXES.values():
        if _rename(EMBEDDING, prefixes) in source:
            back = {there: here for here, there in prefixes.items()}
            return {_rename(name, back): values for name, values in source.items()}
    return dict(source)


def _rename(name: str, prefixes: Mapping[str, str]) -> str:
    for before, after in prefixes.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _infer_config(tensors: Mapping[str, Tensor], norm_eps: float, *, tied: bool, name: str) -> MambaConfig:
    mixer = "backbone.layers.0.mixer."
    keys = {"embedding": EMBEDDING, "A_log": f"{mixer}A_log", "conv": f"{mixer}conv1d.weight"}
    keys["dt"] = f"{mixer}dt_proj.weight"
    dims = {"embedding": 2, "A_log": 2, "conv": 3, "dt": 2}
    for short, key in keys.items():
        if key not in tensors or tensors[key].dim() != dims[short]:
            raise InputError(f"{name}: no tensor {key} with {dims[short]} dimensions among {len(tensors)}. {ADVICE}")
    vocab_size, d_model = tensors[keys["embedding"]].shape
    d_inner, d_state = tensors[keys["A_log"]].shape
    rank = tensors[keys["dt"]].shape[1]
    sizes: dict[str, Any] = {
        "d_model": d_model,
        "n_layer": len({key.split(".")[2] for key in tensors if key.startswith("backbone.layers.")}),
        "vocab_size": vocab_size,
        "d_state": d_state,
        "expand": d_inner // max(d_model, 1),
        "d_conv": tensors[keys["conv"]].shape[2],
        "norm_eps": norm_eps,
        "bias": f"{mixer}in_proj.bias" in tensors,
        "conv_bias": f"{mixer}conv1d.bias" in tensors,
        "tie_embeddings": tied,
    }
    try:
        config = MambaConfig(**sizes)
        return config if config.rank == rank else MambaConfig(**sizes, dt_rank=rank)
    except ValidationError as error:
        problems = "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())
        raise InputError(f"{name}: sizes that no model here has ({problems}). {ADVICE}") from error
