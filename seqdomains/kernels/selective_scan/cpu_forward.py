"""The scan's forward on a CPU: 16 channels per vector, one pass over time."""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Final

import numpy as np

from seqdomains.kernels.compilation import kernel
from seqdomains.kernels.selective_scan.cpu_numbers import (
    conjugate,
    decay,
    dot,
    imag,
    number,
    real,
    scaled,
    times_add,
    with_conjugate,
)
from seqdomains.kernels.selective_scan.plan import CPU_CHUNK
from seqdomains.kernels.simd import (
    WIDTH,
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

CHUNK: Final = CPU_CHUNK
# Channels of a task: the sums over channels in dB and dC are gathered over a whole block before lanes are added.
BLOCK: Final = 64
VECTORS: Final = BLOCK // WIDTH


@kernel
def place_of(task, sizes):
    """Return a task's run of sequences, block, group, the block's number in its group, first channel and their end."""
    channels, _, groups, _ = sizes
    width = channels // groups
    per_group = (width + BLOCK - 1) // BLOCK
    run, block = task // (groups * per_group), task % (groups * per_group)
    group, part = block // per_group, block % per_group
    return run, block, group, part, group * width + part * BLOCK, (group + 1) * width


@kernel
def advance(first, last, scratch, sizes, cuts, flags, B_steps, C_steps, inputs, outputs):
    """Run tasks; see cpu.py for the arguments."""
    u, dt, A, B, C, D, z, bias, h0 = inputs
    y, h_last, states = outputs
    bounds, slots, runs = cuts
    channels, rows, _, _ = sizes
    kind, onward, steps_softplus, has_D, has_z, has_bias, has_h0 = flags
    B_constant, B_block, B_group, B_row = B_steps
    C_constant, C_block, C_group, C_row = C_steps
    tile = rows * WIDTH
    parts = 1 if kind is None else 2
    decays = VECTORS * tile
    for task in range(first, last):
        run, block, group, _, c0, stop = place_of(task, sizes)
        vectors = (min(BLOCK, stop - c0) + WIDTH - 1) // WIDTH
        for g in range(vectors):
            c = c0 + g * WIDTH
            for r in range(rows):
                store(scratch, decays + g * tile + r * WIDTH, load_part(A, r * channels + c, stop - c))
        for s in range(runs[run], runs[run + 1]):
            length = bounds[s + 1] - bounds[s]
            origin = bounds[s] if onward > 0 else bounds[s + 1] - 1
            for g in range(vectors):
                c = c0 + g * WIDTH
                for r in range(rows):
                    h = splat(np.float32(0))
                    if has_h0:
                        h = load_part(h0, (s * rows + r) * channels + c, stop - c)
                    store(scratch, g * tile + r * WIDTH, h)
            for k in range((length + CHUNK - 1) // CHUNK):
                for g in range(vectors):
                    c = c0 + g * WIDTH
                    count = stop - c
                    base = g * tile
                    for r in range(rows):
                        at = ((slots[s] + k) * rows + r) * channels + c
                        store_part(states, at, load(scratch, base + r * WIDTH), count)
                    skip = splat(np.float32(0))
                    if has_D:
                        skip = load_part(D, c, count)
                    shift = splat(np.float32(0))
                    if has_bias:
                        shift = load_part(bias, c, count)
                    B_at = (block * VECTORS + g) * B_block + group * B_group
                    C_at = (block * VECTORS + g) * C_block + group * C_group
                    for t in range(k * CHUNK, min(length, (k + 1) * CHUNK)):
                        step = origin + onward * t
                        row = step * channels + c
                        B_now, C_now = B_at + step * B_row, C_at + step * C_row
                        d = load_part(dt, row, count) + shift
                        if steps_softplus:
                            d = softplus(d)[0]
                        x = load_part(u, row, count)
                        dx = d * x
                        out = splat(np.float32(0))
                        for n in range(0, rows, parts):
                            r = n * WIDTH
                            at = base + r
                            if B_constant:
                                b = number(kind, load(B, B_now + r), load(B, B_now + r + WIDTH))
                            else:
                                b = number(kind, spread(B, B_now + n), spread(B, B_now + n + 1))
                            if C_constant:
                                w = number(kind, load(C, C_now + r), load(C, C_now + r + WIDTH))
                            else:
                                w = number(kind, spread(C, C_now + n), spread(C, C_now + n + 1))
                            rate = number(kind, load(scratch, decays + at), load(scratch, decays + at + WIDTH))
                            h = number(kind, load(scratch, at), load(scratch, at + WIDTH))
                            h = times_add(decay(rate, d), h, scaled(b, dx))
                            store(scratch, at, real(h))
                            if kind is not None:
                                store(scratch, at + WIDTH, imag(h))
                            out = dot(h, conjugate(w), out)
                        out = muladd(skip, x, with_conjugate(kind, out))
                        if has_z:
                            gate = load_part(z, row, count)
                            out = out * (gate * sigmoid(gate))
                        store_part(y, row, out, count)
            for g in range(vectors):
                c = c0 + g * WIDTH
                for r in range(rows):
                    store_part(h_last, (s * rows + r) * channels + c, load(scratch, g * tile + r * WIDTH), stop - c)
