"""The official initialisation of a Mamba model, drawn from an explicit generator."""

from __future__ import annotations

import math

import torch
from torch import nn

from seqdomains.backbone.block import RMSNorm
from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.mixer import MambaMixer

# GPT-2's standard deviation, which the official code keeps for embeddings.
EMBEDDING_STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module, config: MambaConfig, *, generator: torch.Generator | None = None) -> None:
    """Fill every parameter of `model` in place, as the official code does.

    Embeddings N(0, 0.02); linear and convolution weights uniform within 1 / sqrt(fan in), which for `dt_proj` is the
    official 1 / sqrt(rank); biases of linear layers zero and of convolutions uniform; norms one; and for each mixer
    what `initialise_mixer` sets.

    Parameters
    ----------
    model : Module
        A mixer, a block, a backbone, or a model with a head.
    config : MambaConfig
        The sizes that it was built with.
    generator : torch.Generator, optional
        Source of randomness, on the device of the parameters; none means torch's global one.

    Examples
    --------
    >>> config = MambaConfig(d_model=8, n_layer=2)
    >>> mixer = MambaMixer(config)
    >>> initialise(mixer, config, generator=torch.Generator().manual_seed(0))
    >>> mixer.A_log[0].exp()[:4].round().tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD, generator=generator)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(module.kernel_size[0])
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    for module in model.modules():
        if isinstance(module, MambaMixer):
            initialise_mixer(module, config, generator=generator)


@torch.no_grad()
def initialise_mixer(mixer: MambaMixer, config: MambaConfig, *, generator: torch.Generator | None = None) -> None:
    """Set what makes a mixer more than its linear layers: decays, step sizes and the scale of its output.

    A is S4D-real, -(1..N) for each channel. The bias of the step is the inverse softplus of a step drawn log-uniformly.
    The output is divided by sqrt(n_layer), one residual per block, so that the stream's variance does not grow with
    depth (GPT-2; the comment in the official code says 2 * n_layer, the code does not). The two directions of a
    bidirectional mixer are two residuals.
    """
    states = torch.arange(1, config.d_state + 1, dtype=torch.float32, device=mixer.A_log.device)
    for path in mixer.paths:
        path.A_log.copy_(states.log().expand_as(path.A_log))
        nn.init.ones_(path.D)
        log_dt = torch.empty_like(path.dt_proj.bias)
        log_dt.uniform_(math.log(config.dt_min), math.log(config.dt_max), generator=generator)
        dt = log_dt.exp().clamp(min=config.dt_init_floor)
        path.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
    mixer.out_proj.weight.div_(math.sqrt(config.n_layer * len(mixer.paths)))


def no_weight_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters that weight decay must leave alone.

    They are A_log and D, as the official code flags them, and every vector: biases (dt_proj's holds the step sizes)
    and norm weights. What remains are the weights of matrix products, convolutions and embeddings.

    Examples
    --------
    >>> sorted(no_weight_decay(MambaMixer(MambaConfig(d_model=8, n_layer=1))))
    ['A_log', 'D', 'conv1d.bias', 'dt_proj.bias']
    """
    return {name for name, p in model.named_parameters() if p.dim() < 2 or name.rpartition(".")[2] == "A_log"}
