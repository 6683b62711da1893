"""Random substitutions in training windows, for individuals that differ from those that are read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqdomains.sampling import counter_words

_SUBSTITUTION_STREAM = 2 << 32


def substitute(
    tokens: NDArray[np.uint8], *, rate: float, transitions: float, seed: int, first: int, span: int | None = None
) -> None:
    """Replace bases in place, 16 random bits per base.

    Parameters
    ----------
    tokens : ndarray of uint8, shape (B, L)
        Codes; only A, C, G and T are replaced.
    rate : float
        Probability per base.
    transitions : float
        Share of the replacements that are transitions (A-G, C-T).
    seed, first : int
        The stream, and the index of the first row in it.
    span : int, optional
        Length whose bits each row takes, L or more: rows then draw alike however far a batch is padded.

    Examples
    --------
    >>> tokens = np.zeros((1, 1000), np.uint8)
    >>> substitute(tokens, rate=0.1, transitions=1.0, seed=0, first=0)
    >>> np.unique(tokens).tolist(), round(float((tokens > 0).mean()), 1)
    ([0, 2], 0.1)
    """
    count, length = tokens.shape
    words = -(-(span or length) // 16) * 4
    bits = counter_words(seed, _SUBSTITUTION_STREAM, first, count, words=words).view(np.uint16)[:, :length]
    changed = round(rate * (1 << 16))
    rows, columns = np.nonzero((bits < changed) & (tokens < 4))
    draw = bits[rows, columns]
    transition = draw < round(changed * transitions)
    # With A C G T = 0 1 2 3, exclusive or with 2 is the transition, with 1 and 3 the two transversions.
    tokens[rows, columns] ^= np.where(transition, 2, 1 + 2 * (draw & 1)).astype(np.uint8)
