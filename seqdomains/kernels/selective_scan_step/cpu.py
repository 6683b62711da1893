"""One step of the selective scan on a CPU: 16 states of a channel per vector.

A task is one batch row and one block of channels.
"""

# numba infers the types of a kernel's arguments; its functions carry no annotations.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.kernels.compilation import flat, kernel, memory, run_tasks
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

_BLOCK: Final = 64
# Scratch: real and imaginary parts of 16 states, then of 16 channels the steps, those times u, and the sums over n.
_AT_D: Final = 2 * WIDTH
_AT_DX: Final = 3 * WIDTH
_AT_SUM: Final = 4 * WIDTH
_SCRATCH: Final = 5 * WIDTH


@kernel
def _advance(first, last, scratch, sizes, flags, state, inputs, y):
    u, dt, A, B, C, D, z, bias = inputs
    channels, N, B_groups, C_groups, A_parts, B_parts, C_parts = sizes
    kind, steps_softplus, has_D, has_z, has_bias = flags
    zero = splat(np.float32(0))
    blocks = (channels + _BLOCK - 1) // _BLOCK
    for task in range(first, last):
        row, start = task // blocks, (task % blocks) * _BLOCK
        for c0 in range(start, min(start + _BLOCK, channels), WIDTH):
            count = channels - c0
            at = row * channels + c0
            d = load_part(dt, at, count)
            if has_bias:
                d = d + load_part(bias, c0, count)
            if steps_softplus:
                d = softplus(d)[0]
            x = load_part(u, at, count)
            store(scratch, _AT_D, d)
            store(scratch, _AT_DX, d * x)
            store(scratch, _AT_SUM, zero)
            for lane in range(min(count, WIDTH)):
                c = c0 + lane
                of_state = (row * channels + c) * N
                # Without groups a projection is a constant: a row per channel.
                of_B, of_C = c * N, c * N
                if B_groups > 0:
                    of_B = (row * B_groups + c // (channels // B_groups)) * N
                if C_groups > 0:
                    of_C = (row * C_groups + c // (channels // C_groups)) * N
                step, entered = spread(scratch, _AT_D + lane), spread(scratch, _AT_DX + lane)
                out = zero
                for n in range(0, N, WIDTH):
                    left = N - n
                    i = of_state + n
                    if kind is None:
                        store(scratch, 0, load_part(state, i, left))
                    else:
                        store(scratch, 0, zero)
                        store(scratch, WIDTH, zero)
                        for j in range(min(left, WIDTH)):
                            scratch[j] = state[2 * (i + j)]
                            scratch[WIDTH + j] = state[2 * (i + j) + 1]
                    rate = number(kind, load_part(A, c * N + n, left), load_part(A, A_parts + c * N + n, left))
                    b = number(kind, load_part(B, of_B + n, left), load_part(B, B_parts + of_B + n, left))
                    w = number(kind, load_part(C, of_C + n, left), load_part(C, C_parts + of_C + n, left))
                    h = number(kind, load(scratch, 0), load(scratch, WIDTH))
                    h = times_add(decay(rate, step), h, scaled(b, entered))
                    out = dot(h, conjugate(w), out)
                    if kind is None:
                        store_part(state, i, real(h), left)
                    else:
                        store(scratch, 0, real(h))
                        store(scratch, WIDTH, imag(h))
                        for j in range(min(left, WIDTH)):
                            state[2 * (i + j)] = scratch[j]
                            state[2 * (i + j) + 1] = scratch[WIDTH + j]
                scratch[_AT_SUM + lane] = total(with_conjugate(kind, out))
            out = load(scratch, _AT_SUM)
            if has_D:
                out = muladd(load_part(D, c0, count), x, out)
            if has_z:
                gate = load_part(z, at, count)
                out = out * (gate * sigmoid(gate))
            store_part(y, at, out, count)


def _parts(values: Tensor, A: Tensor) -> NDArray[np.float32]:
    """Return real parts, then the imaginary parts of all numbers where A is complex."""
    if not A.is_complex():
        return flat(values)
    return flat(torch.stack([values.real, values.imag if values.is_complex() else torch.zeros_like(values)]))


def _rates(A: Tensor) -> Tensor:
    """Return A with its real part times log2(e)."""
    if not A.is_complex():
        return A.float() * math.log2(math.e)
    return torch.complex(A.real * math.log2(math.e), A.imag)


def forward(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """Change the state in place; return y in u's dtype."""
    batch, channels = u.shape
    y = memory(*u.shape)
    groups = tuple(projection.shape[1] if projection.dim() == 3 else 0 for projection in (B, C))
    numbers = [_parts(values, A) for values in (_rates(A), B, C)]
    run_tasks(
        _advance,
        batch * -(-channels // _BLOCK),
        _SCRATCH,
        (channels, A.shape[1], *groups, *(values.size // 2 for values in numbers)),
        (True if A.is_complex() else None, softplus, *(tensor is not None for tensor in (D, z, bias))),
        flat(torch.view_as_real(state) if A.is_complex() else state),
        (flat(u), flat(dt), *numbers, flat(D), flat(z), flat(bias)),
        flat(y),
    )
    return y.to(u.dtype)
