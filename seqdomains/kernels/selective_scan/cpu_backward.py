"""The scan's backward on a CPU: chunks from last to first, a chunk's states recomputed into scratch."""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Final

import numpy as np
from numba.extending import register_jitable

from seqdomains.kernels.compilation import kernel
from seqdomains.kernels.selective_scan.cpu_forward import BLOCK, CHUNK, VECTORS, place_of
from seqdomains.kernels.selective_scan.cpu_numbers import (
    conjugate,
    decay,
    dot,
    imag,
    natural,
    number,
    parts_add,
    real,
    scaled,
    scaled_add,
    times_add,
    times_conjugate,
    with_conjugate,
)
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
    totals,
)

# Scratch arrays a multiple of 4 KiB apart share the address bits by which a load is held against the stores before it,
# and wait for nothing; 320 bytes between them made backward 12 % faster.
_SKEW: Final = 80


@register_jitable
def layout(rows: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return where arrays begin in the scratch of backward: those carried over chunks, those of one; and its size."""
    tile = rows * WIDTH
    at_q = 0
    at_A = at_q + VECTORS * tile + _SKEW
    at_dA = at_A + VECTORS * tile + _SKEW
    at_sums = at_dA + VECTORS * tile + _SKEW
    at_part = at_sums + 2 * VECTORS * WIDTH
    at_a = at_part + tile + _SKEW
    at_h = at_a + CHUNK * tile + _SKEW
    at_dB = at_h + (CHUNK + 1) * tile + _SKEW
    at_dC = at_dB + CHUNK * tile + _SKEW
    # totals() reads whole groups of 16 rows: past the end of dC where there is no multiple of 16.
    at_d = at_dC + CHUNK * tile + WIDTH * WIDTH
    at_slope = at_d + CHUNK * WIDTH
    at_gated = at_slope + CHUNK * WIDTH
    at_dB_sum = at_gated + CHUNK * WIDTH + _SKEW
    at_dC_sum = at_dB_sum + VECTORS * tile + _SKEW
    end = at_dC_sum + VECTORS * tile
    carried = (at_q, at_A, at_dA, at_sums, at_dB_sum, at_dC_sum)
    kept = (at_part, at_a, at_h, at_dB, at_dC, at_d, at_slope, at_gated)
    return carried, kept, end


@kernel
def _recompute(scratch, sizes, flags, B_steps, C_steps, place, inputs, outputs):
    """Run one chunk of 16 channels forward from its stored state, keeping states, decays and steps; write dz.

    Returns the chunk's part of the gradient of D.
    """
    dy, _, u, dt, _, B, C, D, z, bias, states = inputs
    dz = outputs[6]
    channels, rows, _, _ = sizes
    kind, onward, steps_softplus, has_D, has_z, has_bias, _ = flags
    B_constant, _, _, B_row = B_steps
    C_constant, _, _, C_row = C_steps
    slot, origin, steps, c, stop, base, B_at, C_at = place
    (_, at_A, _, _, _, _), (_, at_a, at_h, _, _, at_d, at_slope, at_gated), _ = layout(rows)
    count = stop - c
    tile = rows * WIDTH
    parts = 1 if kind is None else 2
    one, sum_D = splat(np.float32(1)), splat(np.float32(0))
    skip, shift = splat(np.float32(0)), splat(np.float32(0))
    if has_D:
        skip = load_part(D, c, count)
    if has_bias:
        shift = load_part(bias, c, count)
    for r in range(rows):
        store(scratch, at_h + r * WIDTH, load_part(states, (slot * rows + r) * channels + c, count))
    for i in range(steps):
        step = origin + onward * i
        row = step * channels + c
        B_now, C_now = B_at + step * B_row, C_at + step * C_row
        d, slope = load_part(dt, row, count) + shift, one
        if steps_softplus:
            d, slope = softplus(d)
        store(scratch, at_d + i * WIDTH, d)
        store(scratch, at_slope + i * WIDTH, slope)
        x = load_part(u, row, count)
        dx = d * x
        out = splat(np.float32(0))
        for n in range(0, rows, parts):
            r = n * WIDTH
            at, own = i * tile + r, at_A + base + r
            if B_constant:
                b = number(kind, load(B, B_now + r), load(B, B_now + r + WIDTH))
            else:
                b = number(kind, spread(B, B_now + n), spread(B, B_now + n + 1))
            if C_constant:
                w = number(kind, load(C, C_now + r), load(C, C_now + r + WIDTH))
            else:
                w = number(kind, spread(C, C_now + n), spread(C, C_now + n + 1))
            a = decay(number(kind, load(scratch, own), load(scratch, own + WIDTH)), d)
            h = number(kind, load(scratch, at_h + at), load(scratch, at_h + at + WIDTH))
            h = times_add(a, h, scaled(b, dx))
            store(scratch, at_a + at, real(a))
            store(scratch, at_h + tile + at, real(h))
            if kind is not None:
                store(scratch, at_a + at + WIDTH, imag(a))
                store(scratch, at_h + tile + at + WIDTH, imag(h))
            out = dot(h, conjugate(w), out)
        out = muladd(skip, x, with_conjugate(kind, out))
        gated = load_part(dy, row, count)
        if has_z:
            gate = load_part(z, row, count)
            s = sigmoid(gate)
            store_part(dz, row, gated * out * s * muladd(gate, one - s, one), count)
            gated = gated * gate * s
        store(scratch, at_gated + i * WIDTH, gated)
        sum_D = muladd(gated, x, sum_D)
    return sum_D


@kernel
def _step_back(scratch, sizes, flags, B_steps, C_steps, place, inputs, outputs):
    """Walk one chunk of 16 channels back through the states of `_recompute`; write du and ddt, add to dA, dB and dC.

    Returns the chunk's part of the gradient of the bias.
    """
    _, _, u, _, _, B, C, D, _, _, _ = inputs
    du, ddt = outputs[0], outputs[1]
    channels, rows, _, _ = sizes
    kind, onward, _, has_D, _, _, _ = flags
    B_constant, _, _, B_row = B_steps
    C_constant, _, _, C_row = C_steps
    _, origin, steps, c, stop, base, B_at, C_at = place
    (at_q, at_A, at_dA, _, _, _), (at_part, at_a, at_h, at_dB, at_dC, at_d, at_slope, at_gated), _ = layout(rows)
    count = stop - c
    tile = rows * WIDTH
    parts = 1 if kind is None else 2
    # Of a constant projection, the sums over time share one tile.
    dB_step, dC_step = 0 if B_constant else tile, 0 if C_constant else tile
    zero, skip, sum_bias = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
    if has_D:
        skip = load_part(D, c, count)
    # Sums over time are taken per chunk first: one sum over 2**20 steps would lose three digits.
    for r in range(0, tile, WIDTH):
        store(scratch, at_part + r, zero)
    for i in range(steps - 1, -1, -1):
        step = origin + onward * i
        row = step * channels + c
        B_now, C_now = B_at + step * B_row, C_at + step * C_row
        d = load(scratch, at_d + i * WIDTH)
        gated = load(scratch, at_gated + i * WIDTH)
        weight = with_conjugate(kind, gated)
        x = load_part(u, row, count)
        dx = d * x
        rate, through = zero, number(kind, zero, zero)
        for n in range(0, rows, parts):
            r = n * WIDTH
            at, own, part = i * tile + r, base + r, at_part + r
            to_B, to_C = at_dB + i * dB_step + r, at_dC + i * dC_step + r
            if B_constant:
                b = number(kind, load(B, B_now + r), load(B, B_now + r + WIDTH))
            else:
                b = number(kind, spread(B, B_now + n), spread(B, B_now + n + 1))
            if C_constant:
                w = number(kind, load(C, C_now + r), load(C, C_now + r + WIDTH))
            else:
                w = number(kind, spread(C, C_now + n), spread(C, C_now + n + 1))
            gh = number(kind, load(scratch, at_q + own), load(scratch, at_q + own + WIDTH))
            gh = scaled_add(conjugate(w), weight, gh)
            q = times_conjugate(gh, number(kind, load(scratch, at_a + at), load(scratch, at_a + at + WIDTH)))
            s = times_conjugate(q, number(kind, load(scratch, at_h + at), load(scratch, at_h + at + WIDTH)))
            dA = scaled_add(s, d, number(kind, load(scratch, part), load(scratch, part + WIDTH)))
            A = number(kind, load(scratch, at_A + own), load(scratch, at_A + own + WIDTH))
            through = parts_add(s, A, through)
            rate = dot(gh, b, rate)
            dB = scaled_add(gh, dx, number(kind, load(scratch, to_B), load(scratch, to_B + WIDTH)))
            h = number(kind, load(scratch, at_h + tile + at), load(scratch, at_h + tile + at + WIDTH))
            dC = number(kind, load(scratch, to_C), load(scratch, to_C + WIDTH))
            dC = scaled_add(conjugate(h), weight, dC)
            store(scratch, at_q + own, real(q))
            store(scratch, part, real(dA))
            store(scratch, to_B, real(dB))
            store(scratch, to_C, real(dC))
            if kind is not None:
                store(scratch, at_q + own + WIDTH, imag(q))
                store(scratch, part + WIDTH, imag(dA))
                store(scratch, to_B + WIDTH, imag(dB))
                store(scratch, to_C + WIDTH, imag(dC))
        store_part(du, row, muladd(rate, d, gated * skip), count)
        change = muladd(rate, x, natural(through)) * load(scratch, at_slope + i * WIDTH)
        store_part(ddt, row, change, count)
        sum_bias = sum_bias + change
    for r in range(0, tile, WIDTH):
        at = at_dA + base + r
        store(scratch, at, load(scratch, at) + load(scratch, at_part + r))
    return sum_bias


@kernel
def _clear(scratch, start, size):
    for at in range(start, start + size, WIDTH):
        store(scratch, at, splat(np.float32(0)))


@kernel
def _add(scratch, total, part, size):
    for at in range(0, size, WIDTH):
        store(scratch, total + at, load(scratch, total + at) + load(scratch, part + at))


@kernel
def _write_steps(scratch, start, rows, out, origin, onward, steps, to, stride):
    """Add the lanes of each step's tile from `start` on, and write the sums to its place."""
    for i in range(steps):
        column = to + (origin + onward * i) * stride
        for r in range(0, rows, WIDTH):
            store_part(out, column + r, totals(scratch, start + (i * rows + r) * WIDTH), rows - r)


@kernel
def _write_tile(scratch, start, rows, out, to, channels, count):
    for r in range(rows):
        store_part(out, to + r * channels, load(scratch, start + r * WIDTH), count)


@kernel
def retreat(first, last, scratch, sizes, cuts, flags, B_steps, C_steps, inputs, outputs):
    """Run tasks; see cpu.py for the arguments."""
    _, dh, _, _, A, _, _, _, _, _, _ = inputs
    _, _, dA, dB, dC, dD, _, dbias, dh0 = outputs
    bounds, slots, runs = cuts
    channels, rows, _, total = sizes
    onward, has_dh = flags[1], flags[6]
    B_constant, B_block, B_group, B_row = B_steps
    C_constant, C_block, C_group, C_row = C_steps
    tile = rows * WIDTH
    (at_q, at_A, at_dA, at_sums, at_dB_sum, at_dC_sum), (_, _, _, at_dB, at_dC, _, _, _), _ = layout(rows)
    zero = splat(np.float32(0))
    for task in range(first, last):
        run, block, group, part, c0, stop = place_of(task, sizes)
        # Parts of sums over channels: of all blocks, or of those of a group.
        to_B = (part if B_group else block) * total * B_row + group * B_group
        to_C = (part if C_group else block) * total * C_row + group * C_group
        vectors = (min(BLOCK, stop - c0) + WIDTH - 1) // WIDTH
        for g in range(vectors):
            c = c0 + g * WIDTH
            for r in range(rows):
                store(scratch, at_A + g * tile + r * WIDTH, load_part(A, r * channels + c, stop - c))
        for at in (at_dA, at_dB_sum, at_dC_sum):
            _clear(scratch, at, VECTORS * tile)
        _clear(scratch, at_sums, 2 * BLOCK)
        for s in range(runs[run], runs[run + 1]):
            length = bounds[s + 1] - bounds[s]
            origin = bounds[s] if onward > 0 else bounds[s + 1] - 1
            for g in range(vectors):
                c = c0 + g * WIDTH
                for r in range(rows):
                    q = zero
                    if has_dh:
                        q = load_part(dh, (s * rows + r) * channels + c, stop - c)
                    store(scratch, at_q + g * tile + r * WIDTH, q)
            for k in range((length - 1) // CHUNK, -1, -1):
                steps = min(CHUNK, length - k * CHUNK)
                start = origin + onward * k * CHUNK
                _clear(scratch, at_dB, steps * tile)
                _clear(scratch, at_dC, steps * tile)
                for g in range(vectors):
                    B_at = (block * VECTORS + g) * B_block + group * B_group
                    C_at = (block * VECTORS + g) * C_block + group * C_group
                    place = (slots[s] + k, start, steps, c0 + g * WIDTH, stop, g * tile, B_at, C_at)
                    at = at_sums + 2 * g * WIDTH
                    part_D = _recompute(scratch, sizes, flags, B_steps, C_steps, place, inputs, outputs)
                    store(scratch, at, load(scratch, at) + part_D)
                    part_bias = _step_back(scratch, sizes, flags, B_steps, C_steps, place, inputs, outputs)
                    store(scratch, at + WIDTH, load(scratch, at + WIDTH) + part_bias)
                    if B_constant:
                        _add(scratch, at_dB_sum + g * tile, at_dB, tile)
                        _clear(scratch, at_dB, tile)
                    if C_constant:
                        _add(scratch, at_dC_sum + g * tile, at_dC, tile)
                        _clear(scratch, at_dC, tile)
                if not B_constant:
                    _write_steps(scratch, at_dB, rows, dB, start, onward, steps, to_B, B_row)
                if not C_constant:
                    _write_steps(scratch, at_dC, rows, dC, start, onward, steps, to_C, C_row)
            for g in range(vectors):
                c = c0 + g * WIDTH
                _write_tile(scratch, at_q + g * tile, rows, dh0, s * rows * channels + c, channels, stop - c)
        for g in range(vectors):
            c = c0 + g * WIDTH
            to = run * rows * channels + c
            _write_tile(scratch, at_dA + g * tile, rows, dA, to, channels, stop - c)
            if B_constant:
                _write_tile(scratch, at_dB_sum + g * tile, rows, dB, to, channels, stop - c)
            if C_constant:
                _write_tile(scratch, at_dC_sum + g * tile, rows, dC, to, channels, stop - c)
            store_part(dD, run * channels + c, load(scratch, at_sums + 2 * g * WIDTH), stop - c)
            store_part(dbias, run * channels + c, load(scratch, at_sums + (2 * g + 1) * WIDTH), stop - c)
