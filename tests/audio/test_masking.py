"""What is hidden: exactly its share, in spans of one length, all places alike, and a function of the key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seqdomains.audio.masking import MaskConfig, hidden_positions


@given(
    st.integers(1, 300), st.floats(0.01, 0.99), st.integers(1, 50), st.tuples(st.integers(0, 2**60), st.integers(0, 99))
)
def test_a_share_is_hidden_in_spans(length, share, span, key):
    hidden = hidden_positions(length, share=share, span=span, key=key)
    count = min(max(1, round(share * length)), length - 1)
    assert hidden.sum() == count
    # Turned so that it begins with a visible position; spans may touch, and one is what is left over.
    turned = np.roll(hidden, -int(np.argmin(hidden)))
    edges = np.flatnonzero(np.diff(np.append(turned, False).astype(int)))
    runs = edges[1::2] - edges[::2]
    assert sum(run % span != 0 for run in runs) <= 1
    assert len(runs) <= -(-count // span)
    assert np.array_equal(hidden, hidden_positions(length, share=share, span=span, key=key))


def test_all_places_are_hidden_alike():
    drawn = np.stack([hidden_positions(100, share=0.5, span=10, key=(3, number)) for number in range(4000)])
    assert drawn.mean(0) == pytest.approx(np.full(100, 0.5), abs=0.04)
    assert len({row.tobytes() for row in drawn}) > 3900


@pytest.mark.parametrize(
    ("values", "word"), [({"share": 1.0}, "share"), ({"share": 0}, "share"), ({"span": 0}, "span")]
)
def test_masks_that_cannot_be(values, word):
    with pytest.raises(ValidationError, match=word):
        MaskConfig(**values)
