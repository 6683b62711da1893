"""A sequence trained in time chunks has the loss and the gradients of the whole one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.backbone.time_chunks import sum_over_chunks

CONFIG = MambaConfig(d_model=16, n_layer=3)


def classifier(pooling="both", config=CONFIG):
    generator = torch.Generator().manual_seed(0)
    return SequenceClassifier(config, classes=("a", "b", "c"), pooling=pooling, generator=generator)


def tokens_of(batch, length, seed=0):
    return torch.randint(5, (batch, length), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def gradients(model, loss):
    """Return the loss's value and the gradient of every parameter."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach().double(), {name: one.grad.double() for name, one in model.named_parameters()}


def assert_same(found, expected, tolerance):
    assert abs(found[0] - expected[0]) <= tolerance * abs(expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert gradient.abs().max() > 0, name
        error = (found[1][name] - gradient).abs().max() / gradient.abs().max()
        assert error <= tolerance, (name, float(error))


def classified(model, tokens, lengths, **options):
    logits = model(tokens, lengths, **options)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(tokens)) % 3)


@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
@given(
    length=st.integers(2, 150),
    chunk=st.integers(1, 160),
    lengths=st.none() | st.lists(st.integers(1, 150), min_size=3, max_size=3),
)
@settings(max_examples=8, deadline=None)
def test_chunks_of_any_size_give_the_gradients_of_the_whole_window(pooling, length, chunk, lengths):
    model, tokens = classifier(pooling), tokens_of(3, length)
    real = None if lengths is None else torch.tensor(lengths).clamp(max=length)
    chunk = max(chunk, length // 6)  # a hundred chunks of one token would take seconds
    found = gradients(model, classified(model, tokens, real, time_chunk=chunk))
    assert_same(found, gradients(model, classified(model, tokens, real)), 1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 8, 14, 15, 29, 30])
@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_in_chunks(chunk, tied):
    config = MambaConfig(d_model=16, n_layer=3, tie_embeddings=tied)
    model = MambaLM(config, generator=torch.Generator().manual_seed(0))
    tokens = tokens_of(2, 30)
    found = gradients(model, model.loss(tokens, ignored=4, time_chunk=chunk))
    assert_same(found, gradients(model, model.loss(tokens, ignored=4)), 1e-5)


def test_the_loss_of_a_language_model_is_that_of_its_logits():
    model, tokens = MambaLM(CONFIG), tokens_of(2, 40)
    scores = model(tokens).log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None].long())[..., 0]
    torch.testing.assert_close(model.loss(tokens), -scores.mean())
    known = tokens[:, 1:] != 4
    torch.testing.assert_close(model.loss(tokens, ignored=4), -scores[known].mean())
    with pytest.raises(ValueError, match="sequences of 1 tokens"):
        model.loss(tokens[:, :1])


def test_in_float64_nothing_but_rounding_differs():
    model, tokens = classifier().double(), tokens_of(2, 60)
    found = gradients(model, classified(model, tokens, None, time_chunk=13))
    assert_same(found, gradients(model, classified(model, tokens, None)), 1e-12)


def test_no_more_than_a_chunk_is_in_memory_at_once():
    model, seen = classifier(), []
    model.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    classified(model, tokens_of(2, 100), None, time_chunk=30).backward()
    assert seen == [30, 30, 30, 10, 30, 30, 30]


def test_backward_may_be_repeated_where_the_graph_is_retained():
    model, tokens = classifier(), tokens_of(2, 50)
    loss = classified(model, tokens, None, time_chunk=20)
    loss.backward(retain_graph=True)
    once = {name: one.grad.clone() for name, one in model.named_parameters()}
    loss.backward()
    for name, gradient in once.items():
        torch.testing.assert_close(model.get_parameter(name).grad, 2 * gradient)


def test_two_runs_are_bit_equal():
    model, tokens = classifier(), tokens_of(2, 100)
    runs = [gradients(model, classified(model, tokens, None, time_chunk=30)) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_frozen_parameters_get_no_gradient_and_those_before_them_do():
    model, tokens = classifier(), tokens_of(2, 50)
    frozen = [one for block in model.backbone.layers[1:] for one in block.parameters()]
    for one in frozen:
        one.requires_grad_(False)
    classified(model, tokens, None, time_chunk=20).backward()
    assert all(one.grad is None for one in frozen)
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}
    model.zero_grad()
    classified(model, tokens, None).backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_blocks_may_be_frozen_from_below(frozen):
    model, tokens = classifier(), tokens_of(2, 50)
    model.backbone.embedding.requires_grad_(False)
    for block in model.backbone.layers[:frozen]:
        block.requires_grad_(False)
    trained = [one for one in model.parameters() if one.requires_grad]
    found = torch.autograd.grad(classified(model, tokens, None, time_chunk=20), trained)
    for one, other in zip(found, torch.autograd.grad(classified(model, tokens, None), trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_head_of_its_own_on_a_frozen_backbone():
    model = MambaLM(MambaConfig(d_model=16, n_layer=2, tie_embeddings=False))
    model.backbone.requires_grad_(False)
    tokens = tokens_of(1, 50)
    (found,) = torch.autograd.grad(model.loss(tokens, time_chunk=20), model.lm_head.weight)
    (expected,) = torch.autograd.grad(model.loss(tokens), model.lm_head.weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_tensor_that_is_named_twice_counts_once():
    model, tokens = MambaLM(CONFIG), tokens_of(1, 50)
    weight = model.backbone.embedding.weight

    def part(hidden, first):
        return (hidden @ weight.t()).square().sum()

    (found,) = torch.autograd.grad(
        sum_over_chunks(model.backbone, tokens, part, chunk=20, parameters=[weight, weight]), weight
    )
    (expected,) = torch.autograd.grad(part(model.backbone(tokens), 0), weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_head_alone_may_be_trained():
    model, tokens = classifier(), tokens_of(2, 50)
    model.backbone.requires_grad_(False)
    classified(model, tokens, None, time_chunk=20).backward()
    assert model.head.weight.grad.abs().max() > 0


def test_gradients_add_up_over_calls():
    model, tokens = classifier(), tokens_of(3, 50)
    _, whole = gradients(model, sum(classified(model, tokens[[row]], None, time_chunk=20) for row in range(3)))
    model.zero_grad()
    for row in range(3):
        classified(model, tokens[[row]], None, time_chunk=20).backward()
    for name, gradient in whole.items():
        torch.testing.assert_close(model.get_parameter(name).grad.double(), gradient, rtol=1e-5, atol=1e-7)


def test_autocast_holds_in_both_directions_and_leaves_no_weight_without_gradient_behind():
    model, tokens = classifier(), tokens_of(2, 64)
    exact = gradients(model, classified(model, tokens, None))
    with torch.autocast("cpu", torch.bfloat16):
        in_chunks = classified(model, tokens, None, time_chunk=20)
        # In the same autocast: a cast of a weight that was cached without a graph would have no gradient here.
        whole = classified(model, tokens, None)
    found, expected = gradients(model, in_chunks), gradients(model, whole)
    assert_same(found, exact, 5e-2)
    assert_same(expected, exact, 5e-2)
    assert any(not torch.equal(found[1][name], exact[1][name]) for name in exact[1])


def test_evaluation_needs_no_gradient():
    model, tokens = classifier(), tokens_of(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, time_chunk=20), model(tokens), rtol=1e-5, atol=1e-6)


def test_chunks_of_nothing_are_refused():
    for chunk, length in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="expected at least 1 of each"):
            sum_over_chunks(classifier().backbone, tokens_of(2, length), lambda hidden, first: hidden, chunk=chunk)
