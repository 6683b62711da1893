"""The shipped models of sample codes hold the laws of the backbone in their own sizes."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaLM
from seqdomains.backbone.step import Stepper
from seqdomains.cli.config import preset_names, resolve
from seqdomains.cli.sound_config import SoundPretrainConfig, schema_of

PRESETS = [
    name
    for name in preset_names()
    if schema_of(name) is SoundPretrainConfig
    and resolve(SoundPretrainConfig, preset=name).config.objective == "next-token"
]
# A group of the innermost stage of the largest factors, 256, is whole, and another one is begun.
LENGTH = 270


def assert_laws(name, device):
    config = resolve(SoundPretrainConfig, preset=name).config.backbone()
    model = MambaLM(config, generator=torch.Generator().manual_seed(0)).eval().to(device)
    tokens = torch.randint(256, (1, LENGTH), generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        whole = model(tokens)
        first, state = model(tokens[:, :250], return_state=True)
        second, _ = model(tokens[:, 250:], state=state, return_state=True)
        torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-4, atol=1e-5)
        stepper = Stepper(model, state, rows=1)
        for at in range(250, LENGTH):
            torch.testing.assert_close(stepper(tokens[:, at]), whole[:, at], rtol=1e-4, atol=1e-5)
    slopes = []
    for chunk in (None, 100):
        slopes.append(torch.autograd.grad(model.loss(tokens, time_chunk=chunk), list(model.parameters())))
    for name, found, expected in zip(dict(model.named_parameters()), *reversed(slopes), strict=True):
        assert (found - expected).norm() <= 3e-5 * expected.norm(), name


@pytest.mark.parametrize("name", PRESETS)
def test_whole_streamed_stepped_and_chunked_agree(name):
    assert_laws(name, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", PRESETS)
def test_whole_streamed_stepped_and_chunked_agree_on_a_gpu(name):
    assert_laws(name, "cuda")
