"""K-mer counts against plain strings, the regression, and the published vote on mitochondrial genomes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.kmers import (
    KmerBaseline,
    KmerVote,
    kmer_frequencies,
    kmer_indices,
    reverse_complement_index,
)

COMPLEMENT = str.maketrans("ACGT", "TGCA")
CODES = {base: index for index, base in enumerate("ACGTRYSWKMBDHVN")}


def encode(text):
    return np.array([CODES[base] for base in text], np.uint8)


def decode(index, k):
    return "".join("ACGT"[(index >> (2 * place)) & 3] for place in reversed(range(k)))


@pytest.mark.parametrize("k", [1, 3, 15, 31])
def test_indices_spell_the_words(k):
    rng = np.random.default_rng(k)
    text = "".join(rng.choice(list("ACGTN"), 200, p=[0.24, 0.24, 0.24, 0.24, 0.04]))
    for position, index in enumerate(kmer_indices(encode(text), k).tolist()):
        word = text[position : position + k]
        assert index == -1 if "N" in word else decode(index, k) == word


def test_short_windows_have_no_words():
    assert kmer_indices(np.zeros((3, 4), np.uint8), 5).shape == (3, 0)
    assert kmer_frequencies(np.zeros((3, 4), np.uint8), 5).sum() == 0


@pytest.mark.parametrize("k", [1, 2, 6, 15])
def test_reverse_complement_of_words(k):
    rng = np.random.default_rng(k)
    index = rng.integers(0, 4**k, 100)
    turned = reverse_complement_index(index, k)
    for one, other in zip(index.tolist(), turned.tolist(), strict=True):
        assert decode(one, k).translate(COMPLEMENT)[::-1] == decode(other, k)
    assert (reverse_complement_index(turned, k) == index).all()
    assert reverse_complement_index(np.array([-1]), k).tolist() == [-1]


def test_frequencies_against_counting():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(3)] + ["ACGT" * 5 + "N" * 40]
    frequencies = kmer_frequencies(np.stack([encode(text) for text in texts]), 3, canonical=False)
    for text, row in zip(texts, frequencies, strict=True):
        words = [text[i : i + 3] for i in range(58) if "N" not in text[i : i + 3]]
        for word, count in Counter(words).items():
            assert row[int(kmer_indices(encode(word), 3)[0])] == pytest.approx(count / len(words))
        assert row.sum() == pytest.approx(1)


def test_canonical_frequencies_are_the_same_on_both_strands():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (300, 50)).astype(np.uint8)
    here, there = kmer_frequencies(codes, 4), kmer_frequencies(3 - codes[:, ::-1], 4)
    assert here.shape == (300, (4**4 + 4**2) // 2)
    np.testing.assert_array_equal(here, there)


@pytest.fixture(scope="module")
def two_kinds():
    """Half the windows carry a motif of 12 bases, on either strand, 8 times."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 4, (240, 1_000)).astype(np.uint8)
    labels = np.arange(240) % 2
    motif = rng.integers(0, 4, 12).astype(np.uint8)
    for row in np.flatnonzero(labels):
        for at in range(0, 960, 120):
            codes[row, at : at + 12] = motif if rng.random() < 0.5 else 3 - motif[::-1]
    return codes, labels


def test_regression_learns_a_motif_and_not_noise(two_kinds):
    codes, labels = two_kinds
    baseline = KmerBaseline(k=6).fit(codes[:160], labels[:160])
    assert baseline.score(codes[160:], labels[160:]) > 0.9
    shuffled = np.random.default_rng(3).permutation(labels[:160])
    assert 0.25 < KmerBaseline(k=6).fit(codes[:160], shuffled).score(codes[160:], labels[160:]) < 0.75


def test_regression_is_deterministic_and_gives_probabilities(two_kinds):
    codes, labels = two_kinds
    names = np.array(["gorilla", "bonobo"])[labels]
    first, second = (KmerBaseline(k=4).fit(codes[:100], names[:100]) for _ in range(2))
    probabilities = first.predict_proba(codes[100:])
    np.testing.assert_array_equal(probabilities, second.predict_proba(codes[100:]))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    # Columns are in the order of the sorted labels.
    predicted = np.array(["bonobo", "gorilla"])[probabilities.argmax(axis=1)]
    assert (predicted == first.predict(codes[100:])).all()


def test_padding_does_not_count(two_kinds):
    codes, labels = two_kinds
    baseline = KmerBaseline(k=4).fit(codes, labels)
    padded = np.concatenate([codes, np.full((len(codes), 37), 15, np.uint8)], axis=1)
    np.testing.assert_allclose(baseline.predict_proba(padded), baseline.predict_proba(codes), rtol=1e-6)


def test_refusals():
    with pytest.raises(InputError, match="two classes"):
        KmerBaseline(k=2).fit(np.zeros((4, 10), np.uint8), np.zeros(4))
    with pytest.raises(RuntimeError, match="fit the baseline"):
        KmerBaseline(k=2).predict_proba(np.zeros((4, 10), np.uint8))
    with pytest.raises(InputError, match="at least one class"):
        KmerVote({})
    with pytest.raises(InputError, match="'bonobo' hold no word of 15"):
        KmerVote({"human": [np.zeros(20, np.uint8)], "bonobo": [np.zeros(14, np.uint8)]})


def test_vote_knows_both_strands_and_ties():
    rng = np.random.default_rng(4)
    one, other = rng.integers(0, 4, (2, 500)).astype(np.uint8)
    shared = rng.integers(0, 4, 100).astype(np.uint8)
    vote = KmerVote({"one": [one, shared], "other": [np.concatenate([shared, other])]})
    windows = [one[20:60], 3 - other[20:60][::-1], shared, rng.integers(0, 4, 40)]
    assert list(vote.predict(windows)) == ["one", "other", None, None]
    assert vote.votes(shared[:40]).tolist() == [26, 26]


def read_fasta(path):
    records = []
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            records.append([line.split("species=")[1].split()[0], []])
        else:
            records[-1][1].append(line.upper())
    return [(species, encode("".join(parts))) for species, parts in records]


@pytest.mark.skipif("SEQDOMAINS_DATA" not in os.environ, reason="SEQDOMAINS_DATA names no folder of real sequences")
@pytest.mark.parametrize(("size", "published"), [(64, 0.878), (128, 0.956), (256, 0.995)])
def test_vote_on_mitochondrial_genomes(size, published):
    """The published yardstick: macro accuracy over three species, individuals other than the references."""
    folder = Path(os.environ["SEQDOMAINS_DATA"]) / "apes-mtdna"
    vote = KmerVote({species: [codes] for species, codes in read_fasta(folder / "refs.fasta")})
    hits = {}
    for species, codes in read_fasta(folder / "other_individuals.fasta"):
        windows = [codes[start : start + size] for start in range(0, len(codes) - size + 1, size)]
        truth = vote.classes.index(species)
        for window in windows:
            votes = vote.votes(window)
            best = votes == votes.max()
            hits.setdefault(species, []).append(best[truth] / best.sum())
    assert set(hits) == {"human", "chimpanzee", "orangutan"}
    assert np.mean([np.mean(share) for share in hits.values()]) == pytest.approx(published, abs=0.02)
