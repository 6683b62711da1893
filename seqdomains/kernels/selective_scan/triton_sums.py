"""What the scan's sweeps do with four steps' shares of dB or dC: sums over the channels of a tile."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from seqdomains.kernels.triton_parts import columns


@triton.jit
def channel_sums(x):
    """Add a [BD, W] tile over channels, pairs of neighbours first.

    Parts of a sum lie in as many lanes as there are channels. Taken apart by `split` they come to one lane, through
    shared memory and once: the first split moves them, the later ones find them there. A butterfly in which all lanes
    get all sums took 5 shuffles for each, a third of the sweep back.
    """
    W: tl.constexpr = x.shape[1]
    for _ in tl.static_range(6):
        if x.shape[0] > 1:
            even, odd = tl.split(tl.permute(tl.reshape(x, [x.shape[0] // 2, 2, W]), (0, 2, 1)))
            x = even + odd
    return tl.reshape(x, [W])


@triton.jit
def store_sums(pointer, total, x0, x1, x2, x3, weight, n, N: tl.constexpr, FORM: tl.constexpr):
    """Multiply four steps' tiles by a weight per channel, add them over channels and store four rows of dB or dC.

    If B or C is constant, return `total` and their sum instead.
    """
    BD: tl.constexpr = x0.shape[0]
    BN: tl.constexpr = x0.shape[1]
    w0, w1, w2, w3 = columns(weight, BD)
    x0 = x0 * w0[:, None]
    x1 = x1 * w1[:, None]
    x2 = x2 * w2[:, None]
    x3 = x3 * w3[:, None]
    # The buffer holds whole chunks, so rows past the end may be written: nothing reads them.
    if FORM == 2:
        total += (x0 + x1) + (x2 + x3)
    elif BN <= 64:
        i = tl.arange(0, 4 * BN)
        sums = channel_sums(tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), [BD, 4 * BN]))
        tl.store(pointer + (i % 4 * N + i // 4), sums, mask=i // 4 < N)
    else:
        tl.store(pointer + n, channel_sums(x0), mask=n < N)
        tl.store(pointer + N + n, channel_sums(x1), mask=n < N)
        tl.store(pointer + 2 * N + n, channel_sums(x2), mask=n < N)
        tl.store(pointer + 3 * N + n, channel_sums(x3), mask=n < N)
    return total
