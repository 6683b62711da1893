from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import InferenceState, LayerState

SPLITS = [(37,), (1,) * 37, (20, 17), (3, 1, 33), (1, 2, 3, 5, 7, 11, 8), (0, 36, 0, 1)]


def chunked(model, tokens, sizes):
    state, logits = None, []
    for chunk in tokens.split(sizes, dim=1):
        part, state = model(chunk, state=state, return_state=True)
        logits.append(part)
    return torch.cat(logits, dim=1), state


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_prefill_chunks_and_single_steps_agree(model, tokens, sizes):
    with torch.no_grad():
        whole, last = model(tokens, return_state=True)
        parts, state = chunked(model, tokens, sizes)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    for one, other in zip(state.layers, last.layers, strict=True):
        torch.testing.assert_close(one.conv, other.conv, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.ssm, other.ssm, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(20, 17), (1, 2, 3, 5, 7, 11, 8)], ids=str)
def test_gradients_flow_through_the_state(model, tokens, sizes):
    weights = torch.linspace(-1, 1, 37)[None, :, None]
    gradients = []
    for logits in (model(tokens), chunked(model, tokens, sizes)[0]):
        model.zero_grad()
        (logits.square() * weights).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for (name, _), whole, parts in zip(model.named_parameters(), *gradients, strict=True):
        assert (whole - parts).norm() / whole.norm() < 1e-5, name


def test_a_loss_on_the_last_chunk_reaches_the_first(model, tokens):
    seen = []
    model.backbone.embedding.register_forward_hook(lambda *call: seen.append(call[2].retain_grad() or call[2]))
    _, state = model(tokens[:, :10], return_state=True)
    model(tokens[:, 10:], state=state)[:, -1].square().sum().backward()
    assert seen[0].grad.abs().amax(dim=(0, 2)).min() > 0


def test_detach_cuts_the_graph_and_keeps_the_values(model, tokens):
    _, state = model(tokens, return_state=True)
    cut = state.detach()
    for before, after in zip(state.layers, cut.layers, strict=True):
        assert before.ssm.requires_grad
        assert before.conv.requires_grad
        assert not after.ssm.requires_grad
        assert not after.conv.requires_grad
        assert torch.equal(before.ssm, after.ssm)
        assert torch.equal(before.conv, after.conv)


def test_a_call_leaves_the_given_state_as_it_was(model, tokens):
    with torch.no_grad():
        _, state = model(tokens, return_state=True)
        copies = [(layer.conv.clone(), layer.ssm.clone()) for layer in state.layers]
        first = model(tokens, state=state)
        assert torch.equal(model(tokens, state=state), first)
    for layer, (conv, ssm) in zip(state.layers, copies, strict=True):
        assert torch.equal(layer.conv, conv)
        assert torch.equal(layer.ssm, ssm)


def test_the_state_has_the_same_size_after_any_length(model, tokens):
    with torch.no_grad():
        _, state = model(tokens[:, :1], return_state=True)
    assert [(tuple(layer.conv.shape), tuple(layer.ssm.shape)) for layer in state.layers] == [
        ((2, 3, 48), (2, 48, 5))
    ] * 3


def test_a_state_of_another_model_or_batch_is_refused(model, tokens):
    with torch.no_grad():
        _, state = model(tokens, return_state=True)
        with pytest.raises(ValueError, match="2 blocks and this model has 3"):
            model(tokens, state=InferenceState(state.layers[:2]))
        with pytest.raises(ValueError, match="2 sequences and tokens of 1"):
            model(tokens[:1], state=state)
        wrong = LayerState(state.layers[0].conv, state.layers[0].ssm[:, :, :-1])
        with pytest.raises(ValueError, match="h0 has shape"):
            model(tokens, state=InferenceState((wrong, *state.layers[1:])))
