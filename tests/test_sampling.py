import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdomains.sampling import below, counter_words, uniform


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**12), st.lists(st.integers(0, 20), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_how_a_stream_is_cut_does_not_matter(seed, first, cuts):
    whole = counter_words(seed, 3, first, sum(cuts), words=8)
    parts, at = [], first
    for count in cuts:
        parts.append(counter_words(seed, 3, at, count, words=8))
        at += count
    assert np.array_equal(whole, np.concatenate(parts))


def test_streams_and_seeds_differ():
    draws = [counter_words(seed, stream, 0, 50, words=4) for seed, stream in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len(np.unique(np.concatenate(draws))) == 4 * 50 * 4


def philox(counter, key):
    """Philox4x64-10, written down from Salmon et al. 2011, figure 4."""
    mask = 2**64 - 1
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & mask,
            (first >> 64) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


def test_words_are_the_published_generator_because_resume_relies_on_them():
    # numpy steps the counter before it draws: sample i of 4 words is counter i + 1, of 8 words 2 i + 1 and 2 i + 2.
    assert counter_words(7, 9, 5, 1, words=4)[0].tolist() == philox([6, 0, 0, 0], [7, 9])
    assert counter_words(7, 9, 5, 1, words=8)[0].tolist() == philox([11, 0, 0, 0], [7, 9]) + philox(
        [12, 0, 0, 0], [7, 9]
    )


def test_uniform_is_uniform():
    draws = uniform(counter_words(1, 0, 0, 20_000, words=4)).ravel()
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.bincount(below(draws, 10), minlength=10)
    assert ((counts - 8_000) ** 2 / 8_000).sum() < 27.9  # chi square, 9 degrees of freedom, p = 0.001


def test_below_never_reaches_its_limit():
    limit = 3 * 10**15 + 1
    assert below(np.array([1 - 2.0**-53]), limit)[0] == limit - 1
    assert below(np.array([1 - 2.0**-53]), np.array([1]))[0] == 0


@pytest.mark.parametrize("arguments", [(0, 0, 0, 1, 3), (0, 0, 0, 1, 0), (-1, 0, 0, 1, 4), (0, 0, -1, 1, 4)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="must"):
        counter_words(*arguments[:4], words=arguments[4])
