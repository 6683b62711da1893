"""Which positions of a window are hidden: spans drawn by counter."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class MaskConfig(BaseModel):
    """How much of a window is hidden, and in what pieces.

    Half of it in spans of 0.2 s lies where the published recipes are: wav2vec 2.0 (arXiv:2006.11477) hides 49 % in
    spans of 0.2 s that may overlap, Audio Mamba (arXiv:2406.02178) half of its patches. SSAST (arXiv:2110.09784) and
    SSAMBA (arXiv:2405.11831) hide 400 of 512. A span must be longer than what the patches on either side of it tell: at
    10 ms a patch, a single hidden one is next to its neighbours' mean.

    Parameters
    ----------
    share : float
        Of a window's positions.
    span : float
        Length of a hidden piece, s.

    Examples
    --------
    >>> MaskConfig(share=0.5, span=0.1).positions(per_second=100)
    10
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    span: Annotated[float, Field(gt=0, le=60)] = 0.2

    def positions(self, per_second: float) -> int:
        """Return the length of a span in positions, at least one."""
        return max(1, round(self.span * per_second))


def hidden_positions(length: int, *, share: float, span: int, key: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw what is hidden of a window: a share of it to the position, in spans that do not overlap, all places alike.

    Parameters
    ----------
    length : int
        Positions of the window.
    share : float
        Of them; at least one is hidden and at least one is not, where there are two or more.
    span : int
        Positions of a span; one of them is what is left, and one may go on at the other end of the window.
    key : pair of int
        Names the draw.

    Returns
    -------
    ndarray of bool, shape (length,)

    Examples
    --------
    >>> hidden = hidden_positions(100, share=0.5, span=20, key=(0, 1))
    >>> int(hidden.sum()), int((np.diff(hidden.astype(int)) == 1).sum()) <= 4
    (50, True)
    """
    hidden = np.zeros(length, bool)
    count = min(max(1, round(share * length)), length - 1)
    spans = -(-count // span)
    generator = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))
    # How many visible positions stand before each span.
    before = np.sort(generator.integers(0, length - count + 1, spans))
    for number, visible in enumerate(before.tolist()):
        start = visible + number * span
        hidden[start : min(start + span, visible + count)] = True
    # Turned round, since otherwise the ends were hidden a fifth as often as the middle.
    return np.roll(hidden, int(generator.integers(length)))
