"""A small random model whose every parameter differs from its initial value."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM


@pytest.fixture
def config():
    return MambaConfig(d_model=24, n_layer=3, vocab_size=11, d_state=5)


@pytest.fixture
def disturb():
    """Move all parameters away from zeros and ones, so that a forgotten one shows."""

    def apply(model, seed=1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        return model

    return apply


@pytest.fixture
def model(config, disturb):
    return disturb(MambaLM(config, generator=torch.Generator().manual_seed(0))).eval()


@pytest.fixture
def tokens(config):
    return torch.randint(config.vocab_size, (2, 37), generator=torch.Generator().manual_seed(2))
