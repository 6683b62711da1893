"""Random numbers by counter: the draws of sample i are a function of seed, stream and i alone.

Philox 4x64 (Salmon et al. 2011, doi:10.1145/2063384.2063405) gives four 64-bit words per counter value, so a batch of
consecutive samples is one contiguous run of words, and how a stream is cut into batches cannot change it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORDS_PER_COUNT = 4


def counter_words(seed: int, stream: int, first: int, count: int, *, words: int) -> NDArray[np.uint64]:
    """Return the random words of samples `first` to `first + count`.

    Parameters
    ----------
    seed, stream : int, 0 to 2**64 - 1
        Together the key: different purposes take different streams.
    first, count : int
        Range of samples.
    words : int
        64-bit words per sample, a multiple of 4.

    Returns
    -------
    ndarray of uint64, shape (count, words)

    Raises
    ------
    ValueError
        `words` is no positive multiple of 4, or an argument is negative.

    Examples
    --------
    >>> whole = counter_words(7, 0, 0, 10, words=4)
    >>> bool((whole[6:] == counter_words(7, 0, 6, 4, words=4)).all())
    True
    """
    if words < 1 or words % _WORDS_PER_COUNT:
        raise ValueError(f"words must be a positive multiple of {_WORDS_PER_COUNT}, not {words}")
    if min(seed, stream, first, count) < 0:
        raise ValueError("seed, stream, first and count must not be negative")
    counter = np.zeros(4, dtype=np.uint64)
    counter[0] = first * (words // _WORDS_PER_COUNT)
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=counter)
    return np.asarray(generator.random_raw(count * words), dtype=np.uint64).reshape(count, words)


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Turn words into numbers in [0, 1) of 53 bits.

    Examples
    --------
    >>> uniform(np.array([0, 2**63], dtype=np.uint64)).tolist()
    [0.0, 0.5]
    """
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(fraction: NDArray[np.float64], limit: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Turn numbers in [0, 1) into integers in [0, limit).

    Examples
    --------
    >>> below(np.array([0.0, 0.5, 0.999]), 10).tolist()
    [0, 5, 9]
    """
    # The product of a number just below 1 can round up to the limit itself.
    return np.minimum((fraction * limit).astype(np.int64), np.asarray(limit, dtype=np.int64) - 1)
