"""Read a sequence at another sampling rate than the one that a model was trained at, by its continuous time."""

from __future__ import annotations

import math

import torch
from torch import nn

from seqdomains.backbone.mixer import ScanPath


@torch.no_grad()
def rescale_steps(model: nn.Module, factor: float) -> None:
    """Make every step of a model's scans `factor` times as long, in place.

    A state space model is a system in continuous time, h' = A h + B u, read at steps d. Samples that lie twice as far
    apart are read with steps twice as long: exp(2 d A) and 2 d B u, which is the model with 2 A and 2 B. The
    convolution in front of the scan, four samples wide, has no such form and stays as it is, and so do the projections
    between the stages of a model that has some.

    Parameters
    ----------
    model : Module
        Holds mixers.
    factor : float
        Above 0: the rate that it was trained at divided by the one that it is to read.

    Raises
    ------
    ValueError
        The factor is not positive.

    References
    ----------
    Gu et al., arXiv:2111.00396, section 4.3: a model of speech at 16 kHz read at 8 kHz.

    Examples
    --------
    >>> from seqdomains.backbone import MambaBackbone, MambaConfig
    >>> backbone = MambaBackbone(MambaConfig(d_model=8, n_layer=1))
    >>> before = backbone.layers[0].mixer.A_log.exp()
    >>> rescale_steps(backbone, 2)
    >>> torch.allclose(backbone.layers[0].mixer.A_log.exp(), 2 * before)
    True
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor {factor}: expected a number above 0")
    for path in model.modules():
        if isinstance(path, ScanPath):
            path.A_log.add_(math.log(factor))
            if path.A_imag is not None:
                path.A_imag.mul_(factor)
            if path.selective:
                rank, numbers, _ = path.split
                path.x_proj.weight[rank : rank + numbers] *= factor
            else:
                path.B.mul_(factor)
