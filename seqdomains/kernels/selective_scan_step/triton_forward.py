"""One step of the selective scan in Triton: one launch, which changes the state in place and allocates y alone."""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.triton_launch import launch, launch_key
from seqdomains.kernels.triton_parts import channel_values, exp2_of, given, on_device_of, sigmoid

# States of a program: four per lane of four warps.
_TILE: Final = 512
_WARPS: Final = 4


@triton.jit
def softplus(x):
    """Return log(1 + e^x), accurate relative to its own size: the quotient restores what 1 + e lost of e."""
    e = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    one = 1.0 + e
    rest = one - 1.0
    log1p = tl.where(rest > 0.0, tl.log2(one) * 0.6931471805599453 * e / tl.where(rest > 0.0, rest, 1.0), e)
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + log1p


@triton.jit
def complex_parts(pointer, place, mask, PAIRED: tl.constexpr):
    """Read numbers as real and imaginary parts in float32; the latter are 0 where the numbers are real."""
    if PAIRED:
        pairs = 2 * place[:, :, None] + tl.arange(0, 2)[None, None, :]
        both = tl.load(pointer + pairs, mask=mask[:, :, None] & (pairs >= 0), other=0.0)
        re, im = tl.split(both.to(tl.float32))
    else:
        re = tl.load(pointer + place, mask=mask, other=0.0).to(tl.float32)
        im = tl.zeros_like(re)
    return re, im


@triton.jit
def projection(
    pointer, row, channel, channels, n, exists, groups, N: tl.constexpr, FORM: tl.constexpr, PAIRED: tl.constexpr
):
    """Read B or C of a batch row as a [channels, N] or [1, N] tile of real and of imaginary parts.

    Form 0 is constant in time, of each channel; 1 is one row for all channels, which the lanes share; 2 is a row for
    each group of channels.
    """
    if FORM == 0:
        return complex_parts(pointer, channel[:, None] * N + n, exists[:, None] & (n < N), PAIRED)
    elif FORM == 1:
        return complex_parts(pointer + row * N * (2 if PAIRED else 1), n, n < N, PAIRED)
    else:
        pointer += row * groups * N * (2 if PAIRED else 1)
        group = channel // (channels // groups)
        return complex_parts(pointer, group[:, None] * N + n, exists[:, None] & (n < N), PAIRED)


@triton.jit(do_not_specialize=["channels", "blocks", "B_groups", "C_groups"])
def step(
    state_ptr, u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, y_ptr, channels, blocks, B_groups, C_groups,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, B_FORM: tl.constexpr, C_FORM: tl.constexpr,
    PAIRED: tl.constexpr, B_PAIRED: tl.constexpr, C_PAIRED: tl.constexpr,
):  # fmt: skip
    """Advance BD channels of one batch row."""
    program = tl.program_id(0)
    # Within a row, offsets fit 32 bits: there are never 2^31 states of one.
    row = (program // blocks).to(tl.int64)
    channel = (program % blocks) * BD + tl.arange(0, BD)
    exists = channel < channels
    n = tl.arange(0, BN)[None, :]
    mask = exists[:, None] & (n < N)
    u_ptr += row * channels
    dt_ptr += row * channels
    z_ptr += row * channels
    y_ptr += row * channels
    state_ptr += row * channels * (2 * N if PAIRED else N)
    place = channel[:, None] * N + n
    h_re, h_im = complex_parts(state_ptr, place, mask, PAIRED)
    rate_re, rate_im = complex_parts(A_ptr, place, mask, PAIRED)
    d = tl.load(dt_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    u = tl.load(u_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    b_re, b_im = projection(B_ptr, row, channel, channels, n, exists, B_groups, N, B_FORM, B_PAIRED)
    c_re, c_im = projection(C_ptr, row, channel, channels, n, exists, C_groups, N, C_FORM, C_PAIRED)
    d += channel_values(bias_ptr, channel, exists, HAS_BIAS)
    if SOFTPLUS:
        d = softplus(d)
    dx = (d * u)[:, None]
    a = exp2_of(d[:, None], rate_re * 1.4426950408889634)
    if PAIRED:
        angle = d[:, None] * rate_im
        a_re, a_im = a * tl.cos(angle), a * tl.sin(angle)
        new_re = a_re * h_re - a_im * h_im + dx * b_re
        new_im = a_re * h_im + a_im * h_re + dx * b_im
        pairs = 2 * place[:, :, None] + tl.arange(0, 2)[None, None, :]
        tl.store(state_ptr + pairs, tl.join(new_re, new_im), mask=mask[:, :, None] & (pairs >= 0))
        y = 2.0 * tl.sum(c_re * new_re - c_im * new_im, 1)
    else:
        new_re = a * h_re + dx * b_re
        tl.store(state_ptr + place, new_re, mask=mask)
        y = tl.sum(c_re * new_re, 1)
    y += channel_values(D_ptr, channel, exists, HAS_D) * u
    if HAS_Z:
        z = tl.load(z_ptr + channel, mask=exists, other=0.0).to(tl.float32)
        y = y * z * sigmoid(z)
    tl.store(y_ptr + channel, y, mask=exists)


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
    N = A.shape[1]
    states = triton.next_power_of_2(N)
    width = max(1, _TILE // states)
    blocks = triton.cdiv(channels, width)
    groups = [x.shape[1] if x.dim() == 3 else 0 for x in (B, C)]
    forms = [min(count, 2) for count in groups]
    numbers = (torch.view_as_real(x) if x.is_complex() else x for x in (A, B, C))
    y = torch.empty_like(u)
    with on_device_of(u):
        launch(
            step, batch * blocks,
            (torch.view_as_real(state) if A.is_complex() else state, u, dt, *numbers, given(D, u), given(z, u),
             given(bias, u), y, channels, blocks, *groups),
            {"N": N, "BN": states, "BD": width, "SOFTPLUS": softplus, "HAS_D": D is not None, "HAS_Z": z is not None,
             "HAS_BIAS": bias is not None, "B_FORM": forms[0], "C_FORM": forms[1], "PAIRED": A.is_complex(),
             "B_PAIRED": B.is_complex(), "C_PAIRED": C.is_complex()},
            launch_key((state, u, dt, A, B, C, D, z, bias)), num_warps=_WARPS,
        )  # fmt: skip
    return y
