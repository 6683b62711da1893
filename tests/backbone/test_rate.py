"""Longer steps: the scan of every second sample, where the signal is constant between them."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaConfig
from seqdomains.backbone.initialisation import initialise
from seqdomains.backbone.mixer import MambaMixer
from seqdomains.backbone.rate import rescale_steps
from seqdomains.kernels import selective_scan


def mixer():
    config = MambaConfig(d_model=8, n_layer=1)
    found = MambaMixer(config)
    initialise(found, config, generator=torch.Generator().manual_seed(0))
    return found


def decayed(found, u):
    """The state behind a signal, from the parameters of the scan alone."""
    dt, B, C = found.x_proj(u).split(found.split, dim=-1)
    A = -torch.exp(found.A_log)
    _, h = selective_scan(
        u, dt @ found.dt_proj.weight.t(), A, B, C, None, None, found.dt_proj.bias, softplus=True, return_state=True
    )
    return h


def test_every_second_sample_of_a_slow_signal_leads_to_the_same_state():
    given = mixer()
    time = torch.linspace(0, 3, 2000)
    u = torch.sin(time)[None, :, None] * torch.linspace(0.5, 1, 16)
    with torch.no_grad():
        fine = decayed(given, u)
        coarse = decayed(given, u[:, 1::2])
        rescale_steps(given, 2)
        rescaled = decayed(given, u[:, 1::2])
    error = (rescaled - fine).norm() / fine.norm()
    assert error < 0.1
    assert error < 0.25 * (coarse - fine).norm() / fine.norm()


def test_there_and_back():
    given = mixer()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    rescale_steps(given, 4)
    rescale_steps(given, 0.25)
    for name, tensor in given.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


@pytest.mark.parametrize("factor", [0, -1, float("inf"), float("nan")])
def test_what_cannot_be_is_refused(factor):
    with pytest.raises(ValueError, match="above 0"):
        rescale_steps(mixer(), factor)
