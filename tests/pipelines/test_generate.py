"""Sampling beside probabilities worked out by hand, and sequences beside the parallel forward pass."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.backbone.step import Stepper, rows_apart
from seqdomains.errors import InputError
from seqdomains.kernels.token_draw import Sampling
from seqdomains.pipelines import generate as generation
from seqdomains.pipelines.borrowed import thread_count
from seqdomains.pipelines.generate import generate, generate_blocks, groups
from seqdomains.pipelines.interrupts import StoppedError

CHANCES = (0.05, 0.4, 0.15, 0.3, 0.1)
PROMPT = np.array([3, 1, 0, 2, 2, 1], np.uint8)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(3)
    # With a head of its own: a tied one finds the token that was just read the likeliest, again and again.
    model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=8, tie_embeddings=False), generator=generator).eval()
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(8)
        model.lm_head.weight.mul_(4)
    return model


def logits(rows=1, chances=CHANCES):
    return torch.log(torch.tensor(chances, dtype=torch.float64)).expand(rows, -1).float() + 3


def sequences(model, count=1, length=50, **options):
    return [one.tolist() for one in generate(model, PROMPT, length=length, count=count, progress=False, **options)]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), CHANCES),
        (Sampling(temperature=0.5), [chance**2 / sum(one**2 for one in CHANCES) for chance in CHANCES]),
        (Sampling(temperature=0), [0, 1, 0, 0, 0]),
        (Sampling(top_k=1), [0, 1, 0, 0, 0]),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(top_k=99), CHANCES),
        (Sampling(top_p=0.65), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(top_p=0.75), [0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0]),
        (Sampling(top_p=1e-9), [0, 1, 0, 0, 0]),
        (Sampling(top_p=1), CHANCES),
        # The share of what top_k has left.
        (Sampling(top_k=3, top_p=0.45), [0, 1, 0, 0, 0]),
        (Sampling(codes=(0, 2, 4)), [0.05 / 0.3, 0, 0.15 / 0.3, 0, 0.1 / 0.3]),
        (Sampling(codes=(0, 2, 4), top_k=2), [0, 0, 0.6, 0, 0.4]),
    ],
)
def test_probabilities_are_those_of_the_settings(sampling, expected):
    found = sampling.probabilities(logits())[0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.7), Sampling(top_p=0.9), Sampling(codes=(1, 4))]
)
def test_draws_have_the_probabilities(sampling):
    draws = torch.from_numpy((np.arange(20_000) + np.random.default_rng(0).random(20_000)) / 20_000)
    counts = torch.bincount(sampling.choose(logits(20_000), draws)[0], minlength=5).numpy()
    expected = sampling.probabilities(logits())[0].numpy() * 20_000
    assert not counts[expected == 0].any()
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 0.01


def test_independent_draws_of_a_model_have_its_probabilities(model):
    found = [one[0] for one in sequences(model, count=2000, length=1)]
    with torch.no_grad():
        expected = model(torch.from_numpy(PROMPT)[None])[0, -1].softmax(0).numpy().astype(np.float64)
    counts = np.bincount(found, minlength=8)
    assert chisquare(counts, expected / expected.sum() * 2000).pvalue > 0.001


@pytest.mark.parametrize(
    ("sampling", "first", "last"),
    [(Sampling(top_k=2), 1, 3), (Sampling(codes=(1, 3)), 1, 3), (Sampling(codes=(2, 1)), 1, 2), (Sampling(), 0, 4)],
)
def test_the_extreme_draws_take_tokens_that_can_be(sampling, first, last):
    assert sampling.choose(logits(), torch.tensor([0.0]))[0].item() == first
    assert sampling.choose(logits(), torch.tensor([1 - 2.0**-53], dtype=torch.float64))[0].item() == last


def test_equal_tokens_are_told_apart_by_their_code():
    assert Sampling(temperature=0).choose(torch.zeros(1, 4), torch.tensor([0.9]))[0].item() == 0


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_temperature_0_is_the_argmax_of_the_parallel_forward(model, chunk):
    (found,) = sequences(model, sampling=Sampling(temperature=0), chunk=chunk)
    whole = torch.tensor([[*PROMPT.tolist(), *found]])
    with torch.no_grad():
        expected = model(whole).argmax(-1)[0, len(PROMPT) - 1 : -1]
    assert found == expected.tolist()
    assert len(set(found)) > 2


@pytest.mark.parametrize(
    ("sampling", "bits"),
    [
        (Sampling(), -sum(chance * math.log2(chance) for chance in CHANCES)),
        (Sampling(temperature=0), 0),
        (Sampling(codes=(1, 3)), -(4 / 7 * math.log2(4 / 7) + 3 / 7 * math.log2(3 / 7))),
        (Sampling(top_p=0.65), -(4 / 7 * math.log2(4 / 7) + 3 / 7 * math.log2(3 / 7))),
    ],
)
def test_entropy_is_that_of_what_is_drawn_by(sampling, bits):
    assert sampling.choose(logits(2), torch.tensor([0.1, 0.7]))[1].tolist() == pytest.approx([bits, bits])
    assert sampling.entropy(logits()).item() == pytest.approx(bits)


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 5), (0, 200), (3, 80), (17, 2), (64, 64), (100, 1)])
@pytest.mark.parametrize("apart", [False, True])
def test_all_that_is_asked_for_is_in_a_group_that_is_its_own_where_rows_matter(first, count, apart):
    of = {number: rows for rows, _ in groups(0, 320, apart=False) for number in rows}
    found = groups(first, count, apart=apart)
    assert [number for _, wanted in found for number in wanted] == list(range(first, first + count))
    for rows, wanted in found:
        assert len(rows) <= 64
        assert rows == wanted if apart else all(rows == of[number] for number in wanted)


@pytest.mark.parametrize("kind", ["reference", "cpu"])
@pytest.mark.parametrize("pool", [(), (3, 2)])
def test_a_sequence_is_the_same_whatever_others_are_written(kind, pool, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", kind)
    config = MambaConfig(d_model=48, n_layer=1, vocab_size=37, pool=pool, tie_embeddings=False)
    model = MambaLM(config, generator=torch.Generator().manual_seed(3)).eval()
    assert rows_apart(model, "cpu") == (kind == "cpu")
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(8)
    alone, some, many = (sequences(model, count=count) for count in (1, 5, 20))
    assert many[:5] == some
    assert some[0] == alone[0]
    assert len({tuple(one) for one in many}) == 20
    assert sequences(model, count=3, first=16) == many[16:19]
    assert [one[:20] for one in many] == sequences(model, count=20, length=20)
    assert sequences(model, seed=1) != alone
    monkeypatch.setattr(generation, "_BLOCK", 8)
    assert sequences(model, count=5) == some


def hold_rows_apart(device):
    """What is said of a sequence is the same to the bit with any number of others."""
    config = MambaConfig(d_model=40, n_layer=1, vocab_size=37, pool=(3, 2), states="complex", tie_embeddings=False)
    model = MambaLM(config, generator=torch.Generator().manual_seed(3)).eval().to(device)
    assert rows_apart(model, device)
    tokens = torch.randint(37, (17, 30), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        _, state = model(tokens[:1, :7], return_state=True)
        many, alone = Stepper(model, state, rows=17), Stepper(model, state, rows=1)
        for t in range(7, 30):
            assert torch.equal(many(tokens[:, t])[11:12], alone(tokens[11:12, t])), t


def test_rows_are_the_same_to_the_bit_however_many(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "auto")
    hold_rows_apart("cpu")


@pytest.mark.gpu
def test_rows_are_the_same_to_the_bit_however_many_on_a_gpu(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "auto")
    hold_rows_apart("cuda")


@pytest.mark.parametrize("prompt", [1, 7, 12, 13])
def test_a_model_with_stages_has_a_recorded_step_for_each(monkeypatch, prompt):
    """Steps that know nothing but what they were recorded with say what one pass says."""
    model = MambaLM(
        MambaConfig(d_model=16, n_layer=1, vocab_size=8, pool=(3, 2), tie_embeddings=False, states="complex"),
        generator=torch.Generator().manual_seed(1),
    ).eval()
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(8)
        model.lm_head.weight.mul_(4)
    recorded = []
    monkeypatch.setattr(generation, "_recorded", lambda step, device: recorded.append(step) or step)
    tokens = np.random.default_rng(0).integers(0, 8, prompt)
    blocks = generate_blocks(
        model, tokens, length=60, count=2, graph=True, sampling=Sampling(temperature=0), progress=False
    )
    (block,) = blocks
    found = block.tokens
    assert len(recorded) == 3
    whole = torch.from_numpy(np.concatenate([tokens, found[0]]))[None]
    with torch.no_grad():
        assert found[0].tolist() == model(whole).argmax(-1)[0, prompt - 1 : -1].tolist()
    assert found[1].tolist() == found[0].tolist()
    assert len(set(found[0].tolist())) > 2


def test_blocks_are_given_as_they_are_written(model, monkeypatch):
    monkeypatch.setattr(generation, "_BLOCK", 16)
    steps = 0
    tick = generation.Stepper.tick

    def counting(self):
        nonlocal steps
        steps += 1
        tick(self)

    monkeypatch.setattr(generation.Stepper, "tick", counting)
    blocks = generate_blocks(model, PROMPT, length=1 << 40, progress=False)
    parts = [next(blocks) for _ in range(3)]
    blocks.close()
    assert steps == 48
    assert [part.start for part in parts] == [0, 16, 32]
    assert np.concatenate([part.tokens[0] for part in parts]).tolist() == sequences(model, length=48)[0]


def test_bits_are_those_of_the_parallel_forward(model):
    sampling = Sampling(temperature=0.7, top_k=5)
    heard = []
    (block,) = generate_blocks(model, PROMPT, length=40, sampling=sampling, progress=False, heard=heard.append, chunk=4)
    whole = torch.tensor([[*PROMPT.tolist(), *block.tokens[0].tolist()]])
    with torch.no_grad():
        expected = sampling.entropy(model(whole)[0]).float()
    torch.testing.assert_close(torch.from_numpy(heard[0]), expected[: len(PROMPT)], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.from_numpy(block.bits[0]), expected[len(PROMPT) - 1 : -1], rtol=1e-3, atol=1e-3)
    assert block.bits.std() > 0.01


def test_torch_has_its_threads_again_between_blocks(model):
    with thread_count(2):
        blocks = generate_blocks(model, PROMPT, length=5, progress=False)
        next(blocks)
        assert torch.get_num_threads() == 2
        blocks.close()


def test_a_signal_ends_the_work_behind_a_block(model, monkeypatch):
    monkeypatch.setattr(generation, "_BLOCK", 16)
    blocks = generate_blocks(model, PROMPT, length=100, progress=False)
    assert next(blocks).start == 0
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(StoppedError) as stopped:
        next(blocks)
    assert stopped.value.exit_code == 143


def test_codes_that_are_not_allowed_are_never_written(model):
    found = sequences(model, count=16, length=100, sampling=Sampling(codes=(0, 3), temperature=5))
    assert {code for one in found for code in one} == {0, 3}


def test_the_model_is_given_back_as_it_was(model):
    model.train()
    sequences(model, length=2)
    assert model.training
    model.eval()


def test_damaged_weights_are_an_error_and_no_sequence(model):
    damaged = MambaLM(model.config)
    with torch.no_grad():
        damaged.backbone.embedding.weight[3] = math.nan
    with pytest.raises(InputError, match="not finite"):
        sequences(damaged)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": -1}, "temperature -1: expected a number from 0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_k": 0}, "top_k 0: expected 1 or more"),
        ({"top_p": 0}, "top_p 0: expected a number above 0 and up to 1"),
        ({"codes": ()}, "codes: expected one or more"),
    ],
)
def test_settings_out_of_range_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampling(**changes)


def test_a_model_that_reads_both_sides_is_refused():
    both = MambaLM(MambaConfig(d_model=8, n_layer=1, bidirectional=True))
    with pytest.raises(InputError, match="the model reads both sides of a position, and generation takes one that"):
        list(generate(both, PROMPT, length=3))


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="an empty prompt"):
        list(generate(model, PROMPT[:0], length=3))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 16, "n_layer": 3},
        {"d_model": 128, "n_layer": 3},
        {"d_model": 32, "n_layer": 1, "pool": (4, 4), "states": "complex", "time_invariant": "outer"},
    ],
)
def test_a_cuda_graph_says_the_same(monkeypatch, sizes):
    monkeypatch.delenv("SEQDOMAINS_KERNELS")
    model = MambaLM(MambaConfig(**sizes), generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(8)
    one, other = (
        sequences(model, count=70, length=2000, device="cuda", graph=graph, sampling=Sampling(top_p=0.9))
        for graph in (False, True)
    )
    assert one == other
    assert rows_apart(model, "cuda")
    for first, count in ((0, 1), (65, 3)):
        part = sequences(model, count=count, first=first, length=2000, device="cuda", sampling=Sampling(top_p=0.9))
        assert part == one[first : first + count]
    (greedy,) = sequences(model, length=300, device="cuda", sampling=Sampling(temperature=0))
    assert greedy[:50] == sequences(model, length=50, sampling=Sampling(temperature=0))[0]
