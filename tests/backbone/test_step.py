"""Steps in place beside one pass over the whole sequence."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.backbone.step import Stepper


@pytest.mark.parametrize("changes", [{}, {"bias": True, "conv_bias": False, "d_conv": 3, "tie_embeddings": False}])
@pytest.mark.parametrize("read", [1, 2, 17])
def test_steps_say_what_one_pass_says(changes, read):
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=24, n_layer=3, vocab_size=7, d_state=5, **changes)).eval()
    tokens = torch.randint(7, (4, 40))
    with torch.inference_mode():
        whole = model(tokens)
        _, state = model(tokens[:, :read], return_state=True)
        stepper = Stepper(model, state, rows=4)
        for at in range(read, 40):
            torch.testing.assert_close(stepper(tokens[:, at]), whole[:, at], rtol=1e-4, atol=1e-4)
        stepper.load(state)
        torch.testing.assert_close(stepper(tokens[:, read]), whole[:, read], rtol=1e-4, atol=1e-4)


def test_a_state_of_one_sequence_is_that_of_each_row_and_stays_as_it_is():
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=16, n_layer=2)).eval()
    with torch.inference_mode():
        _, state = model(torch.randint(4, (1, 9)), return_state=True)
        before = [layer.ssm.clone() for layer in state.layers]
        stepper = Stepper(model, state, rows=3)
        first = stepper(torch.tensor([1, 1, 2]))
        assert torch.equal(first[0], first[1])
        assert not torch.equal(first[0], first[2])
        stepper.load(state)
        assert torch.equal(stepper(torch.tensor([1, 1, 2])), first)
        assert all(torch.equal(layer.ssm, old) for layer, old in zip(state.layers, before, strict=True))
