"""Where a scan leads from zero, and what of its output's gradient reaches its start, on a CPU: no output is written."""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import numpy as np

from seqdomains.kernels.compilation import kernel
from seqdomains.kernels.selective_scan.cpu_forward import BLOCK, CHUNK, VECTORS, place_of
from seqdomains.kernels.simd import (
    WIDTH,
    exp2,
    load,
    load_part,
    muladd,
    sigmoid,
    softplus,
    splat,
    spread,
    store,
    store_part,
)


@kernel
def lead(first, last, scratch, sizes, cuts, flags, steps, inputs, outputs):
    """Run tasks; see cpu.py for the arguments, of which `x` and `weights` are u and B, or `back` dy and C.

    In time order h becomes a h + d u B; `back`, from the last step to the first, q becomes a (q + gated C). The sum of
    d is the same both ways.
    """
    x, dt, A, weights, z, bias = inputs
    end, total = outputs
    bounds, _, runs = cuts
    channels, rows, _, _ = sizes
    back, steps_softplus, has_z, has_bias = flags
    _, by_block, by_group, by_row = steps
    zero = splat(np.float32(0))
    tile = rows * WIDTH
    decays = VECTORS * tile
    sums = 2 * decays
    for task in range(first, last):
        run, block, group, _, c0, stop = place_of(task, sizes)
        vectors = (min(BLOCK, stop - c0) + WIDTH - 1) // WIDTH
        for g in range(vectors):
            c = c0 + g * WIDTH
            for r in range(rows):
                store(scratch, decays + g * tile + r * WIDTH, load_part(A, r * channels + c, stop - c))
        for s in range(runs[run], runs[run + 1]):
            length = bounds[s + 1] - bounds[s]
            for at in range(0, decays, WIDTH):
                store(scratch, at, zero)
            for g in range(vectors):
                store(scratch, sums + g * WIDTH, zero)
            for start in range(0, length, CHUNK):
                for g in range(vectors):
                    c = c0 + g * WIDTH
                    count = stop - c
                    base = g * tile
                    shift = zero
                    if has_bias:
                        shift = load_part(bias, c, count)
                    origin = (block * VECTORS + g) * by_block + group * by_group
                    sum_d = load(scratch, sums + g * WIDTH)
                    for t in range(start, min(length, start + CHUNK)):
                        step = bounds[s + 1] - 1 - t if back else bounds[s] + t
                        row = step * channels + c
                        now = origin + step * by_row
                        d = load_part(dt, row, count) + shift
                        if steps_softplus:
                            d = softplus(d)[0]
                        sum_d = sum_d + d
                        value = load_part(x, row, count)
                        if has_z:
                            gate = load_part(z, row, count)
                            value = value * gate * sigmoid(gate)
                        if not back:
                            value = d * value
                        for n in range(rows):
                            at = base + n * WIDTH
                            a = exp2(load(scratch, decays + at) * d)
                            added = spread(weights, now + n) * value
                            h = load(scratch, at)
                            store(scratch, at, a * (h + added) if back else muladd(a, h, added))
                    store(scratch, sums + g * WIDTH, sum_d)
            for g in range(vectors):
                c = c0 + g * WIDTH
                for r in range(rows):
                    store_part(end, (s * rows + r) * channels + c, load(scratch, g * tile + r * WIDTH), stop - c)
                store_part(total, s * channels + c, load(scratch, sums + g * WIDTH), stop - c)
