"""A draw of tokens on a CPU, row after row."""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from seqdomains.kernels.compilation import kernel
from seqdomains.kernels.token_draw import TokenDraw


@kernel
def _draw(logits, draws, allowed, now, tokens, bits, at, finite, temperature, most, top_p, ranked):
    rows, count = logits.shape
    chances = np.empty(count)
    for row in range(rows):
        # A token that is left out has a probability of 0 and comes last.
        order = np.arange(count)
        highest = -np.inf
        for code in range(count):
            value = float(logits[row, code])
            if not math.isfinite(value):
                finite[row] = 0
                value = 0.0
            if not allowed[code]:
                value = -np.inf
            chances[code] = value
            highest = max(highest, value)
        if ranked:
            order = np.argsort(-chances, kind="mergesort")
        total = 0.0
        found = np.zeros(count)
        for place in range(min(most, count)):
            found[place] = math.exp((chances[order[place]] - highest) / temperature)
            total += found[place]
        found /= total
        if top_p < 1.0:
            before, kept = 0.0, 0.0
            for place in range(count):
                chance = found[place]
                if before >= top_p:
                    found[place] = 0.0
                before += chance
                kept += found[place]
            found /= kept
        last, total, entropy = 0, 0.0, 0.0
        for place in range(count):
            if found[place] > 0.0:
                last = place
                entropy -= found[place] * math.log2(found[place])
            total += found[place]
        wanted, up_to, chosen = draws[row, at[row]] * total, 0.0, 0
        for place in range(count):
            up_to += found[place]
            if up_to <= wanted:
                chosen = place + 1
        code = order[min(chosen, last)]
        now[row] = code
        tokens[row, at[row]] = code
        bits[row, at[row]] = entropy
        at[row] += 1


def bind(draw: TokenDraw) -> Callable[[], None]:
    """Return what draws the next token of each row."""
    names = ("logits", "draws", "allowed", "now", "tokens", "bits", "at", "finite")
    arrays = [getattr(draw, name).numpy() for name in names]
    how = draw.sampling
    rule = (
        float(how.temperature or 1.0), how.most(draw.logits.shape[1]), 2.0 if how.top_p is None else how.top_p,
        not how.all_stay,
    )  # fmt: skip

    def step() -> None:
        _draw(*arrays, *rule)

    return step
