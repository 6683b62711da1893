"""The Markov model beside a slow one in plain Python, and on chains whose entropy is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqdomains.genomics.alphabet import N, encode, reverse_complement
from seqdomains.genomics.markov import MarkovModel


def plainly(model, training, codes, order):
    """Bits of a window, from counts of words in strings."""
    texts = ["".join("ACGT"[one] if one < 4 else "N" for one in stretch) for stretch in training]
    window = "".join("ACGT"[one] if one < 4 else "N" for one in codes)
    length = model.most + 1
    words = [text[at : at + length] for text in texts for at in range(len(text) - length + 1)]
    words = [word for word in words if "N" not in word]
    total = 0.0
    for place, base in enumerate(window):
        if base == "N":
            continue
        chance = 0.25
        for level in range(order + 1):
            context = window[place - level : place] if level else ""
            if place < level or "N" in context:
                break
            # Words of a lower order are the ends of those of the highest.
            seen = [word[length - level - 1 :] for word in words if word[length - level - 1 : -1] == context]
            chance = (seen.count(context + base) + model.worths[level] * chance) / (len(seen) + model.worths[level])
        total -= math.log2(chance)
    return total


def chain(random, table, length):
    codes = np.empty(length, np.uint8)
    code = 0
    for at, draw in enumerate(random.random(length)):
        codes[at] = code = int(np.searchsorted(np.cumsum(table[code]), draw))
    return codes


@pytest.mark.parametrize("both", [False, True])
def test_bits_are_those_of_a_plain_count(both):
    random = np.random.default_rng(0)
    training = [random.choice([0, 0, 1, 2, 3, N], 300).astype(np.uint8) for _ in range(2)]
    model = MarkovModel(most=3, both_strands=both)
    for codes in training:
        model.add(codes)
    model.choose([random.choice([0, 0, 1, 2, 3], 200).astype(np.uint8)])
    windows = random.choice([0, 1, 2, 3, N], (3, 50)).astype(np.uint8)
    counted = training + [reverse_complement(codes) for codes in training if both]
    for order in range(4):
        found = model.bits(windows, np.ones_like(windows, bool), order=order)
        assert found == pytest.approx([plainly(model, counted, codes, order) for codes in windows])


def test_an_order_1_chain_costs_its_entropy():
    random = np.random.default_rng(2)
    table = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.25, 0.25, 0.25, 0.25], [0.4, 0.4, 0.1, 0.1]])
    stationary = np.linalg.matrix_power(table, 100)[0]
    entropy = -float((stationary[:, None] * table * np.log2(table)).sum())
    model = MarkovModel(most=6, both_strands=False)
    model.add(chain(random, table, 60_000))
    model.choose([chain(random, table, 20_000)])
    unseen = chain(random, table, 20_000)[None]
    bits = model.bits(unseen, np.ones_like(unseen, bool))[0] / unseen.size
    assert bits == pytest.approx(entropy, abs=0.02)
    assert model.bits(unseen, np.ones_like(unseen, bool), order=0)[0] / unseen.size > entropy + 0.1


def test_chances_add_up_to_one():
    random = np.random.default_rng(3)
    model = MarkovModel(most=4)
    model.add(random.integers(4, size=500).astype(np.uint8))
    model.choose([random.integers(4, size=500).astype(np.uint8)])
    windows = np.repeat(random.integers(4, size=(1, 9)), 4, axis=0).astype(np.uint8)
    windows[:, -1] = range(4)
    asked = np.zeros_like(windows, bool)
    asked[:, -1] = True
    assert np.exp2(-model.bits(windows, asked)).sum() == pytest.approx(1)


def test_a_repeat_that_was_counted_is_worth_a_high_order():
    random = np.random.default_rng(4)
    repeat = random.integers(4, size=300).astype(np.uint8)
    around = [np.concatenate([random.integers(4, size=100).astype(np.uint8), repeat]) for _ in range(8)]
    model = MarkovModel(most=8)
    for codes in around[:6]:
        model.add(codes)
    model.choose(around[6:7])
    assert model.order == 8
    asked = np.zeros((1, 400), bool)
    asked[:, 120:] = True
    assert model.bits(around[7][None], asked)[0] / asked.sum() < 0.6


def test_what_is_not_asked_costs_nothing_and_n_never_does():
    model = MarkovModel(most=2)
    codes = encode("ACGNRACGT")[None]
    model.add(codes[0])
    assert model.bits(codes, np.zeros_like(codes, bool))[0] == 0
    assert model.bits(codes, codes == N)[0] == 0
