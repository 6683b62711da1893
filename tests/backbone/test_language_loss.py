"""The loss of a language model over windows of which some are shorter, and of which some codes do not count."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone.token_cost import token_cost

LENGTHS = torch.tensor([37, 20])
IGNORED = 4


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def alone(model, tokens):
    """The sum over both windows, each by itself and cut to its length, and the number of positions."""
    rows = [tokens[:1], tokens[1:, :20]]
    counts = [(row[:, 1:] != IGNORED).sum() for row in rows]
    return sum(model.loss(row, ignored=IGNORED) * count for row, count in zip(rows, counts, strict=True)), sum(counts)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk", [None, 7, 19, 20, 36])
def test_padded_windows_have_loss_and_gradients_of_the_windows_alone(model, tokens, chunk, recompute):
    total, count = alone(model, tokens)
    options = {"lengths": LENGTHS, "ignored": IGNORED, "time_chunk": chunk, "recompute": recompute}
    mean, whole = model.loss(tokens, **options), model.loss(tokens, reduction="sum", **options)
    torch.testing.assert_close(whole, total, rtol=1e-5, atol=0)
    torch.testing.assert_close(mean, total / count, rtol=1e-5, atol=0)
    close(gradients(model, mean), gradients(model, total / count))


def test_what_the_padding_holds_is_never_read(model, tokens):
    results = []
    for filler in (7, 3):
        padded = tokens.clone()
        padded[1, 20:] = filler
        loss = model.loss(padded, lengths=LENGTHS)
        results.append([loss.detach(), *gradients(model, loss)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_full_lengths_change_no_bit(model, tokens):
    full = torch.tensor([37, 37], dtype=torch.int32)
    assert torch.equal(model.loss(tokens, lengths=full), model.loss(tokens))


def test_a_window_of_the_given_token_alone_counts_nothing(model, tokens):
    shorter = torch.tensor([37, 1])
    torch.testing.assert_close(model.loss(tokens, lengths=shorter), model.loss(tokens[:1]), rtol=1e-5, atol=0)
    none = model.loss(tokens, lengths=torch.tensor([1, 1]), reduction="sum")
    assert none == 0
    assert model.loss(tokens, lengths=torch.tensor([1, 1])).isnan()


@pytest.mark.parametrize("lengths", [[0, 3], [3, 38], [3]])
def test_lengths_must_fit(model, tokens, lengths):
    with pytest.raises(ValueError, match="lengths"):
        model.loss(tokens, lengths=torch.tensor(lengths))


@pytest.mark.parametrize("chunk", [None, 7])
def test_weights_are_factors_of_the_positions_and_of_their_mean(model, tokens, chunk):
    weights = torch.rand(2, 37, generator=torch.Generator().manual_seed(0)).masked_fill(tokens == 3, 0)
    with torch.no_grad():
        nats = -model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None].long())[..., 0]
    expected = (nats * weights[:, 1:]).sum()
    found = model.loss(tokens, weights=weights, reduction="sum", time_chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    mean = model.loss(tokens, weights=weights, time_chunk=chunk)
    torch.testing.assert_close(mean, expected / weights[:, 1:].sum(), rtol=1e-5, atol=0)


def test_equal_weights_change_nothing(model, tokens):
    options = {"lengths": LENGTHS, "ignored": IGNORED}
    weighted = model.loss(tokens, weights=torch.full((2, 37), 0.5), **options)
    torch.testing.assert_close(weighted, model.loss(tokens, **options), rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", [{}, {"time_chunk": 7}, {"recompute": True}])
def test_a_hidden_token_is_asked_of_its_own_row(model, tokens, options):
    hidden = torch.rand(2, 37, generator=torch.Generator().manual_seed(1)) < 0.3
    read, targets = tokens.masked_fill(hidden, 0), tokens.long().masked_fill(~hidden, -1)
    with torch.no_grad():
        nats = -model(read).log_softmax(-1).gather(2, tokens[..., None].long())[..., 0]
    found = token_cost(model, read, targets, **options)
    torch.testing.assert_close(found, nats[hidden].sum(), rtol=1e-5, atol=0)
    weights = torch.rand(2, 37)
    found = token_cost(model, read, targets, weights=weights, **options)
    torch.testing.assert_close(found, (nats * weights)[hidden].sum(), rtol=1e-5, atol=0)
