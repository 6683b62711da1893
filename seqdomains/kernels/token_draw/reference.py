"""A draw of tokens in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seqdomains.kernels.token_draw import TokenDraw


def bind(draw: TokenDraw) -> Callable[[], None]:
    """Return what draws the next token of each row."""

    def step() -> None:
        here = draw.at[:, None]
        draw.finite.logical_and_(draw.logits.isfinite().all(1))
        tokens, bits = draw.sampling.choose(draw.logits, draw.draws.gather(1, here)[:, 0])
        draw.now.copy_(tokens)
        draw.tokens.scatter_(1, here, tokens[:, None])
        draw.bits.scatter_(1, here, bits.to(torch.float32)[:, None])
        draw.at.add_(1)

    return step
