"""A draw of tokens in Triton: one launch, a program of which has a row."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from seqdomains.kernels.token_draw import TokenDraw
from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import on_device_of


@triton.jit(do_not_specialize=["block"])
def draw(
    logits_ptr, draws_ptr, allowed_ptr, now_ptr, tokens_ptr, bits_ptr, at_ptr, finite_ptr, rule_ptr, block,
    COUNT: tl.constexpr, BC: tl.constexpr, MOST: tl.constexpr, HAS_TOP_P: tl.constexpr, RANKED: tl.constexpr,
):  # fmt: skip
    """Draw a row's next token."""
    row = tl.program_id(0).to(tl.int64)
    code = tl.arange(0, BC)
    exists = code < COUNT
    logits = tl.load(logits_ptr + row * COUNT + code, mask=exists, other=0.0)
    well = tl.abs(logits) < float("inf")
    tl.store(finite_ptr + row, tl.load(finite_ptr + row) & tl.min(well.to(tl.int32), 0))
    # Nothing that is not a number may be ranked. What is added turns -0 into 0, which it is as likely as.
    logits = tl.where(well, logits, 0.0) + 0.0
    allowed = tl.load(allowed_ptr + code, mask=exists, other=0) != 0
    logits = tl.where(allowed, logits, float("-inf"))
    place = code
    if RANKED:
        # Floating numbers as integers of the same order, then in falling order with the lower code first.
        rising = logits.to(tl.int32, bitcast=True)
        rising = rising ^ ((rising >> 31) & 0x7FFFFFFF)
        keys = tl.sort(-(rising.to(tl.int64)) * 4294967296 + code.to(tl.int64))
        code = (keys & 0xFFFFFFFF).to(tl.int32)
        rising = (-(keys >> 32)).to(tl.int32)
        logits = (rising ^ ((rising >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    wide = logits.to(tl.float64)
    stays = (place < MOST) & (wide > float("-inf"))
    highest = tl.max(wide, 0)
    chances = tl.where(stays, tl.exp((wide - highest) / tl.load(rule_ptr)), 0.0)
    chances /= tl.sum(chances, 0)
    if HAS_TOP_P:
        before = tl.cumsum(chances, 0) - chances
        chances = tl.where(before >= tl.load(rule_ptr + 1), 0.0, chances)
        chances /= tl.sum(chances, 0)
    up_to = tl.cumsum(chances, 0)
    at = tl.load(at_ptr + row)
    wanted = tl.load(draws_ptr + row * block + at) * tl.max(up_to, 0)
    # Not above the last one that can be: rounding may leave the sum below 1.
    last = tl.max(tl.where(chances > 0.0, place, 0), 0)
    chosen = tl.minimum(tl.sum((up_to <= wanted).to(tl.int32), 0), last)
    token = tl.sum(tl.where(place == chosen, code, 0), 0).to(tl.int64)
    entropy = -tl.sum(tl.where(chances > 0.0, chances * tl.log2(tl.where(chances > 0.0, chances, 1.0)), 0.0), 0)
    tl.store(now_ptr + row, token)
    tl.store(tokens_ptr + row * block + at, token)
    tl.store(bits_ptr + row * block + at, entropy.to(tl.float32))
    tl.store(at_ptr + row, at + 1)


def bind(drawing: TokenDraw) -> Callable[[], None]:
    """Return what draws the next token of each row."""
    names = ("logits", "draws", "allowed", "now", "tokens", "bits", "at", "finite")
    how = drawing.sampling
    # Numbers among the arguments would be in single precision.
    rule = torch.tensor([how.temperature or 1.0, how.top_p or 1.0], dtype=torch.float64, device=drawing.logits.device)
    tensors = [*(getattr(drawing, name) for name in names), rule]
    rows, count = drawing.logits.shape
    constants = {
        "COUNT": count, "BC": triton.next_power_of_2(count), "MOST": how.most(count),
        "HAS_TOP_P": how.top_p is not None, "RANKED": not how.all_stay,
    }  # fmt: skip
    block = drawing.draws.shape[1]
    key = launch_key(tensors)

    def step() -> None:
        with on_device_of(drawing.logits):
            launch(draw, rows, (*tensors, block), constants, key, num_warps=4)

    return step
