"""How much memory a step of a run takes, and what to lower where that is more than there is."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.backbone.footprint import Footprint, footprint
from seqdomains.errors import ConfigError
from seqdomains.pipelines.recipe import TrainConfig

# Of a position: fp32 logits, their log-softmax and the gradient.
_LOGITS = 3


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Tell whether a run computes in bf16 on a device.

    Raises
    ------
    ConfigError
        It is asked for, and the device has none.

    Examples
    --------
    >>> uses_bf16(TrainConfig(), torch.device("cpu"))
    False
    """
    able = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    if config.precision == "bf16" and not able:
        raise ConfigError("train.precision: this device has no bf16; choose fp32 or auto")
    return config.precision == "bf16" or (config.precision == "auto" and able and device.type == "cuda")


def step_memory(
    model: nn.Module, sizes: MambaConfig, config: TrainConfig, *, tokens: int, device: torch.device
) -> Footprint:
    """Estimate the peak memory of a training step.

    Parameters
    ----------
    model : Module
        On a backbone of `sizes`.
    sizes : MambaConfig
    config : TrainConfig
        Reads precision, recompute and sequence_ranks.
    tokens : int
        On the device at once.
    device : torch.device

    Examples
    --------
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1, vocab_size=256))
    >>> found = step_memory(model, model.config, TrainConfig(), tokens=1000, device=torch.device("cpu"))
    >>> found.working // 1000 == 3 * 4 * 256
    True
    """
    found = footprint(
        sizes,
        parameters=sum(one.numel() for one in model.parameters()),
        tokens=tokens,
        precision="bf16" if uses_bf16(config, device) else "fp32",
        device=device.type,
        recompute=config.recompute,
        shared=config.sequence_ranks > 1,
    )
    if isinstance(model, MambaLM):
        # They are gone when the backward pass reaches the blocks.
        return dataclasses.replace(found, working=max(found.working, _LOGITS * 4 * sizes.vocab_size * tokens))
    return found


def what_helps(config: TrainConfig, *, windows: int, causal: bool) -> str:
    """Say which settings save memory and change no result, of those that are left, or what else does.

    Parameters
    ----------
    config : TrainConfig
    windows : int
        On a device at once.
    causal : bool
        Whether the model is: other ones read windows as a whole.

    Examples
    --------
    >>> what_helps(TrainConfig(recompute=True), windows=8, causal=True)
    'set train.time_chunk, or lower train.micro_batch, which change no result'
    >>> what_helps(TrainConfig(recompute=True, time_chunk=64), windows=1, causal=True)
    'lower train.time_chunk, which changes no result'
    >>> what_helps(TrainConfig(recompute=True), windows=1, causal=False)
    'take shorter windows or a narrower model'
    """
    sets = [] if config.recompute else ["train.recompute=true"]
    lowers = ["train.micro_batch"] if windows > 1 else []
    if causal and config.time_chunk is None:
        sets.append("train.time_chunk")
    elif causal:
        lowers.insert(0, "train.time_chunk")
    if not sets + lowers:
        return "take shorter windows or a narrower model"
    parts = [f"{verb} {' or '.join(names)}" for verb, names in (("set", sets), ("lower", lowers)) if names]
    return f"{', or '.join(parts)}, which {'change' if len(sets + lowers) > 1 else 'changes'} no result"


def out_of_memory(model: nn.Module, config: TrainConfig, *, window: int, device: torch.device) -> list[str]:
    """Return what to say where a step of a task with windows of `window` tokens did not fit.

    Examples
    --------
    >>> out_of_memory(nn.Linear(1, 1), TrainConfig(batch=4), window=8, device=torch.device("cpu"))[0][:39]
    'train.micro_batch: 4 windows of 8 token'
    """
    room = f" of {torch.cuda.mem_get_info(device)[1] / 2**30:.0f} GiB" if device.type == "cuda" else ""
    length, at_once = min(window, config.time_chunk or window), config.windows_at_once(window)
    sizes = getattr(model, "config", None)
    causal = not isinstance(sizes, MambaConfig) or sizes.causal
    problems = [
        f"train.micro_batch: {at_once} windows of {window} tokens at once do not fit into the memory{room}; "
        f"{what_helps(config, windows=at_once, causal=causal)}"
    ]
    if isinstance(sizes, MambaConfig):
        if not config.recompute:
            problems.append("train.recompute=true takes about a third of what follows")
        chunks = {length, *(length >> shift for shift in range(1, 8))} - {0} if causal else set()
        for chunk in sorted(chunks, reverse=True):
            tokens = at_once * chunk // config.sequence_ranks
            need = step_memory(model, sizes, config, tokens=tokens, device=device)
            problems.append(f"train.time_chunk={chunk}: about {need.total / 2**30:.3g} GiB")
    return problems
