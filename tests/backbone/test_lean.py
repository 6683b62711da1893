"""A block that computes again what it did not keep has the result and the gradients of one built of ops."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.backbone.block import Block
from seqdomains.backbone.initialisation import initialise
from seqdomains.backbone.state import LayerState


def block_of(dtype=torch.float32, **sizes):
    config = MambaConfig(**({"d_model": 24, "n_layer": 1} | sizes))
    block = Block(config)
    initialise(block, config, generator=torch.Generator().manual_seed(0))
    return block.to(dtype)


def both_ways(block, *, first=False, state=True, use=(0, 1, 2), dtype=torch.float32, autocast=False):
    """Return results and gradients with and without recomputation; `use` says which outputs have a gradient."""
    found = []
    config_inner, states = block.mixer.A_log.shape
    for recompute in (True, False):
        generator = torch.Generator().manual_seed(1)

        def draw(*shape, generator=generator):
            return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

        hidden, residual = draw(2, 37, 24), None if first else draw(2, 37, 24)
        before = None
        if state:
            before = LayerState(draw(2, 3, config_inner), draw(2, config_inner, states))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out, total, after = block(hidden, residual, before, return_state=True, recompute=recompute)
        outputs = [out, total, after.conv, after.ssm]
        loss = sum((outputs[place].to(dtype) * draw(*outputs[place].shape).detach()).sum() for place in use)
        inputs = [hidden, *([] if first else [residual]), *(before or ()), *block.parameters()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        found.append([*outputs, *(torch.zeros(()) if one is None else one for one in gradients)])
    return found


def assert_close(found, expected, tolerance):
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape or not b.any(), place
        assert a.dtype == b.dtype or not b.any(), place
        a, b = a.detach().double(), b.detach().double()
        error = float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
        assert error <= tolerance, (place, error)


@pytest.mark.parametrize("use", [(0,), (0, 1), (0, 1, 2, 3), (1,), (2, 3), (3,)])
@pytest.mark.parametrize("first", [True, False], ids=["first block", "later block"])
@pytest.mark.parametrize("state", [True, False], ids=["state", "no state"])
def test_results_and_gradients(use, first, state):
    assert_close(*both_ways(block_of(), use=use, first=first, state=state), 1e-5)


def test_float64():
    assert_close(*both_ways(block_of(torch.float64), use=(0, 1, 2, 3), dtype=torch.float64), 1e-12)


def test_biases_and_other_sizes():
    assert_close(*both_ways(block_of(bias=True, d_state=5, d_conv=4, dt_rank=3, conv_bias=False)), 1e-5)


def test_bfloat16_autocast():
    found, expected = both_ways(block_of(), autocast=True)
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], expected[0])
    assert_close(found, expected, 3e-2)


def test_frozen_weights_have_no_gradient():
    block = block_of()
    block.mixer.requires_grad_(False)
    hidden = torch.randn(1, 20, 24)
    out, _, _ = block(hidden, None, recompute=True)
    out.sum().backward()
    assert block.mixer.A_log.grad is None
    assert block.norm.weight.grad.abs().max() > 0


@pytest.mark.parametrize("chunk", [None, 30])
def test_whole_models(chunk):
    tokens = torch.randint(4, (2, 100), generator=torch.Generator().manual_seed(0))
    for model, loss in (
        (MambaLM(MambaConfig(d_model=16, n_layer=3)), lambda m, **o: m.loss(tokens, **o)),
        (
            SequenceClassifier(MambaConfig(d_model=16, n_layer=3), classes=("a", "b")),
            lambda m, **o: m(tokens, **o).logsumexp(1).sum(),
        ),
    ):
        found = torch.autograd.grad(loss(model, time_chunk=chunk, recompute=True), list(model.parameters()))
        expected = torch.autograd.grad(loss(model), list(model.parameters()))
        assert_close(found, expected, 1e-5)


def test_without_gradients_nothing_is_kept_and_nothing_differs():
    model = SequenceClassifier(MambaConfig(d_model=16, n_layer=2), classes=("a", "b"))
    tokens = torch.randint(4, (2, 50))
    with torch.no_grad():
        assert torch.equal(model(tokens, recompute=True), model(tokens))


def test_there_is_no_second_derivative():
    hidden = torch.randn(1, 20, 24, requires_grad=True)
    out, _, _ = block_of()(hidden, None, recompute=True)
    (slope,) = torch.autograd.grad(out.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError):
        slope.sum().backward()
