"""Draws of tokens: of the CPU's kernel, or run by test_triton_interpreter.py, of Triton's in its interpreter."""

import os

import pytest
import torch

from seqdomains.kernels.token_draw import Sampling, TokenDraw

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
RULES = {
    "plain": Sampling(),
    "cold": Sampling(temperature=0.3),
    "likeliest": Sampling(temperature=0),
    "top-k": Sampling(top_k=3),
    "top-p": Sampling(top_p=0.7),
    "all": Sampling(temperature=1.5, top_k=9, top_p=0.9, codes=(0, 2, 3, 5, 7, 8, 9)),
    "codes": Sampling(codes=(4, 1)),
    "more than there are": Sampling(top_k=1000),
}
ROWS, BLOCK = 3, 7


def drawn(rule, logits, draws, device="cpu"):
    """Draw a token of each row from each of several logits; return tokens, bits and where it stands afterwards."""
    draw = TokenDraw(rule, rows=ROWS, vocabulary=logits.shape[2], block=BLOCK, device=torch.device(device))
    draw.begin(draws)
    for one in logits:
        draw.logits.copy_(one)
        draw()
    assert torch.equal(draw.now.cpu(), draw.tokens[:, len(logits) - 1].cpu())
    assert draw.at.tolist() == [len(logits)] * ROWS
    return draw.drawn()


def inputs(vocabulary, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(BLOCK, ROWS, vocabulary, generator=g)
    # Ties, signed zeros among them, and tokens that are next to impossible.
    logits[0] = logits[0].round()
    logits[1, 0] = torch.where(logits[1, 0] > 0, 0.0, -0.0)
    logits[2, 1] = 40 * logits[2, 1]
    draws = torch.rand(ROWS, BLOCK, generator=g, dtype=torch.float64)
    draws[:, 0] = torch.tensor([0.0, 1 - 2**-53, 0.5])
    return logits, draws


def assert_as_chosen(rule, vocabulary, device="cpu"):
    logits, draws = inputs(vocabulary)
    tokens, bits = drawn(rule, logits, draws, device)
    for t in range(BLOCK):
        expected, entropy = rule.choose(logits[t], draws[:, t])
        assert torch.equal(tokens[:, t], expected), t
        torch.testing.assert_close(bits[:, t], entropy.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("vocabulary", [10, 16, 21])
def test_draws_are_those_of_the_rule(name, vocabulary, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton" if INTERPRETING else "cpu")
    assert_as_chosen(RULES[name], vocabulary)


@pytest.mark.parametrize("name", RULES)
def test_draws_of_plain_torch_are_those_of_the_rule(name, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    assert_as_chosen(RULES[name], 12)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("vocabulary", [10, 16, 256])
def test_draws_on_a_gpu_are_those_of_the_rule(name, vocabulary):
    assert_as_chosen(RULES[name], vocabulary, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", RULES)
def test_the_rule_itself_is_deterministic_on_a_gpu(name):
    logits, draws = (one.cuda() for one in inputs(16))
    torch.use_deterministic_algorithms(True)
    try:
        tokens, bits = RULES[name].choose(logits[0], draws[:, 0])
    finally:
        torch.use_deterministic_algorithms(False)
    expected, entropy = RULES[name].choose(logits[0].cpu(), draws[:, 0].cpu())
    assert torch.equal(tokens.cpu(), expected)
    torch.testing.assert_close(bits.cpu(), entropy)


@pytest.mark.parametrize("name", ["plain", "all"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_noticed(name, wrong, monkeypatch):
    logits, draws = inputs(10)
    logits[3, 1, 4] = wrong
    for kind in ("reference", "triton" if INTERPRETING else "cpu"):
        monkeypatch.setenv("SEQDOMAINS_KERNELS", kind)
        with pytest.raises(FloatingPointError):
            drawn(RULES[name], logits, draws)


def test_how_often_a_token_is_drawn_is_its_probability():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    draw = TokenDraw(Sampling(top_p=0.9), rows=50, vocabulary=4, block=100, device=torch.device("cpu"))
    draw.begin(torch.rand(50, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    draw.logits.copy_(logits.expand(50, 4))
    for _ in range(100):
        draw()
    found = torch.bincount(draw.drawn()[0].flatten(), minlength=4) / 5000
    # Three standard errors of 5,000 draws.
    torch.testing.assert_close(found, torch.tensor([0.5, 0.3, 0.15, 0]) / 0.95, rtol=0, atol=0.021)


def test_codes_that_the_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match="expected some below 4"):
        TokenDraw(Sampling(codes=(4,)), rows=1, vocabulary=4, block=1, device=torch.device("cpu"))
