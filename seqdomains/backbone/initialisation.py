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

    A is S4D-real, -(1..N) for each channel, or for complex states -1/2 + (0..N-1) i (arXiv:2312.00752, section 3.6).
    The bias of the step is the inverse softplus of a step drawn log-uniformly. Constants B are one, and C is standard
    normal, a complex one too (S4D, arXiv:2206.11893). The output is divided by the root of the number of
    blocks, one residual per block, so that the stream's variance does not grow with depth (GPT-2; the comment in the
    official code says 2 * n_layer, the code does not). The two directions of a bidirectional mixer are two residuals.
    """
    states = torch.arange(config.d_state, dtype=torch.float32, device=mixer.A_log.device)
    for path in mixer.paths:
        if path.A_imag is None:
            path.A_log.copy_((states + 1).log().expand_as(path.A_log))
        else:
            nn.init.constant_(path.A_log, math.log(0.5))
            path.A_imag.copy_(states.expand_as(path.A_imag))
        if not path.selective:
            path.B.zero_()[:, : config.d_state] = 1
            nn.init.normal_(path.C, std=1.0 if path.A_imag is None else math.sqrt(0.5), generator=generator)
        nn.init.ones_(path.D)
        log_dt = torch.empty_like(path.step_bias)
        log_dt.uniform_(math.log(config.dt_min), math.log(config.dt_max), generator=generator)
        dt = log_dt.exp().clamp(min=config.dt_init_floor)
        path.step_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
    mixer.out_proj.weight.div_(math.sqrt(config.blocks * len(mixer.paths)))


def no_weight_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters that weight decay must leave alone.

    They are A_log and D, as the official code flags them, with A_imag and constant B and C, which a state space has as
    its own, and every vector: biases (dt_proj's holds the step sizes) and norm weights. What remains are the weights of
    matrix products, convolutions and embeddings.

    Examples
    --------
    >>> sorted(no_weight_decay(MambaMixer(MambaConfig(d_model=8, n_layer=1))))
    ['A_log', 'D', 'conv1d.bias', 'dt_proj.bias']
    """
    own = ("A_log", "A_imag", "B", "C")
    return {name for name, p in model.named_parameters() if p.dim() < 2 or name.rpartition(".")[2] in own}
