"""A block's step on a CPU: one call of compiled code, a row after the other, dot products of 16 lanes."""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from seqdomains.kernels.block_step import BlockMemory, BlockWeights
from seqdomains.kernels.compilation import Numbers, flat, kernel, memory
from seqdomains.kernels.row_product.cpu import add, normalise, product
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
    total,
)

_LOG2E: Final = math.log2(math.e)


@kernel
def _advance(rows, sizes, flags, weights, conv, states, hidden, residual, stream, out, scratch):
    norm, to_inner, inner_bias, taps, taps_bias, to_scan, to_step, step_bias, A, B, C, skip, to_out, out_bias = weights
    d, D, W, N, R, A_parts, B_parts, state_parts = sizes
    eps, kind, selective, has_residual, has_inner_bias, has_taps_bias, has_out_bias = flags
    zero = splat(np.float32(0))
    numbers = N if kind is None else 2 * N
    # Places in scratch, each of whole vectors.
    wide = (D + WIDTH - 1) // WIDTH * WIDTH
    at_x, at_z, at_u, at_d = 0, wide, 2 * wide, 3 * wide
    at_normed = 4 * wide
    at_found = at_normed + (d + WIDTH - 1) // WIDTH * WIDTH
    for row in range(rows):
        add(hidden, residual, has_residual, row * d, d, stream, row * d)
        normalise(stream, row * d, norm, eps, d, scratch, at_normed)
        for j in range(D):
            scratch[at_x + j] = product(to_inner, j * d, scratch, at_normed, d)
            scratch[at_z + j] = product(to_inner, (D + j) * d, scratch, at_normed, d)
        for c in range(0, D, WIDTH):
            x = load(scratch, at_x + c)
            if has_inner_bias:
                x = x + load_part(inner_bias, c, D - c)
                store(scratch, at_z + c, load(scratch, at_z + c) + load_part(inner_bias, D + c, D - c))
            mixed = load_part(taps, (W - 1) * D + c, D - c) * x
            if has_taps_bias:
                mixed = mixed + load_part(taps_bias, c, D - c)
            for tap in range(W - 1):
                at = (row * (W - 1) + tap) * D + c
                before = load_part(conv, at, D - c)
                mixed = muladd(load_part(taps, tap * D + c, D - c), before, mixed)
                if tap > 0:
                    store_part(conv, at - D, before, D - c)
            store_part(conv, (row * (W - 1) + W - 2) * D + c, x, D - c)
            store(scratch, at_u + c, mixed * sigmoid(mixed))
        if selective:
            for k in range(R + 2 * numbers):
                scratch[at_found + k] = product(to_scan, k * D, scratch, at_u, D)
            for j in range(D):
                scratch[at_d + j] = product(to_step, j * R, scratch, at_found, R)
        for c in range(0, D, WIDTH):
            step = load_part(step_bias, c, D - c)
            if selective:
                step = step + load(scratch, at_d + c)
            step = softplus(step)[0]
            store(scratch, at_d + c, step)
            store(scratch, at_x + c, step * load(scratch, at_u + c))
        at_b, at_c = at_found + R, at_found + R + numbers
        for c in range(D):
            step, entered = spread(scratch, at_d + c), spread(scratch, at_x + c)
            found = zero
            for n in range(0, N, WIDTH):
                left = N - n
                at = (row * D + c) * N + n
                rate = number(kind, load_part(A, c * N + n, left), load_part(A, A_parts + c * N + n, left))
                if selective:
                    b = number(kind, load_part(scratch, at_b + n, left), load_part(scratch, at_b + N + n, left))
                    w = number(kind, load_part(scratch, at_c + n, left), load_part(scratch, at_c + N + n, left))
                else:
                    b = number(kind, load_part(B, c * N + n, left), load_part(B, B_parts + c * N + n, left))
                    w = number(kind, load_part(C, c * N + n, left), load_part(C, B_parts + c * N + n, left))
                h = number(kind, load_part(states, at, left), load_part(states, state_parts + at, left))
                h = times_add(decay(rate, step), h, scaled(b, entered))
                found = dot(h, conjugate(w), found)
                store_part(states, at, real(h), left)
                if kind is not None:
                    store_part(states, state_parts + at, imag(h), left)
            # The input is not asked for again: its place takes the output.
            scratch[at_x + c] = total(with_conjugate(kind, found))
        for c in range(0, D, WIDTH):
            gate = load(scratch, at_z + c)
            y = muladd(load_part(skip, c, D - c), load(scratch, at_u + c), load(scratch, at_x + c))
            store(scratch, at_x + c, y * (gate * sigmoid(gate)))
        for o in range(d):
            value = product(to_out, o * D, scratch, at_x, D)
            if has_out_bias:
                value += out_bias[o]
            out[row * d + o] = value


def bind(weights: BlockWeights, state: BlockMemory) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """Return the step of these weights, which changes this memory."""
    d, D, W, N, R = weights.sizes
    rows, paired = state.conv.shape[0], weights.A.is_complex()

    def parts(values: Tensor | None) -> Tensor | None:
        return values if values is None or not paired else torch.stack([values.real, values.imag])

    A = weights.A.real * _LOG2E
    arrays = tuple(
        flat(one)
        for one in (
            weights.norm, weights.to_inner, weights.inner_bias, weights.taps.t().contiguous(), weights.taps_bias,
            weights.to_scan, weights.to_step, weights.step_bias,
            torch.stack([A, weights.A.imag]) if paired else A, parts(weights.B), parts(weights.C), weights.skip,
            weights.out, weights.out_bias,
        )
    )  # fmt: skip
    sizes = (d, D, W, N, R, D * N, D * N, rows * D * N)
    given = [one is not None for one in (weights.inner_bias, weights.taps_bias, weights.out_bias)]
    flags = {
        has: (np.float64(weights.eps), True if paired else None, weights.to_scan is not None, has, *given)
        for has in (False, True)
    }
    conv, states = flat(state.conv), flat(state.states)
    stream, out = memory(rows, d), memory(rows, d)
    written = flat(stream), flat(out)
    scratch = np.zeros(4 * (D + WIDTH) + d + R + 4 * N + 4 * WIDTH, np.float32)

    of_hidden, of_residual = Numbers(), Numbers()

    def step(hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        given = of_hidden(hidden)
        _advance(
            rows, sizes, flags[residual is not None], arrays, conv, states, given,
            given if residual is None else of_residual(residual), *written, scratch,
        )  # fmt: skip
        return out, stream

    return step
