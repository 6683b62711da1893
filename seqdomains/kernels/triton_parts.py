"""What the Triton kernels of all ops share.

Kernels that walk along time read four steps at once as a [channels, 4] tile: a store may alias the next load, so all
loads of four steps come first and all stores last (one load and one store per step ran 2 to 4 times slower on an
H100). The columns are taken apart by split, since Triton 3.2 has no tuples that grow in a loop.
"""

# Kernel arguments are pointers, tiles and integers of Triton's own typing.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqdomains.kernels.triton_launch import launch


def given(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """Return a pointer to pass for an absent tensor; the kernel's flag keeps it from being read."""
    return stand_in if tensor is None else tensor


# A GPU's exp2 comes out too small: by 2.2e-8 to 5e-8 on the average, least near zero (`benchmarks.exp2_error`). With
# all decays wrong in one direction, gradients of a state that turns ten times before it fades were wrong by 3e-6. This
# is added to the exponent; it costs nothing, since the product before it becomes a fused one.
EXP2_SHORT = tl.constexpr(3.6e-8)

_HERE = nullcontext()


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the tensor's GPU the current one for a launch; nothing happens for other devices."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device_of(tensor)


@cache
def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has; those of an H100 for what is no CUDA device."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 132


@cache
def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that a program may have on a GPU; an H100's for what is no CUDA device."""
    if device.type != "cuda":
        return 227 << 10
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x) without overflow on either side."""
    e = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def exp2_of(x, y):
    """Return 2^(x y) without the bias of a GPU's exp2, see `EXP2_SHORT`; exactly 1 where x y is 0."""
    return tl.exp2(x * y + EXP2_SHORT)


@triton.jit
def columns(tile, BD: tl.constexpr):
    """Take a [BD, 4] tile apart into its four columns."""
    even, odd = tl.split(tl.reshape(tile, [BD, 2, 2]))
    c0, c2 = tl.split(even)
    c1, c3 = tl.split(odd)
    return c0, c1, c2, c3


@triton.jit
def from_columns(c0, c1, c2, c3, BD: tl.constexpr):
    """Put four columns together to a [BD, 4] tile."""
    return tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), [BD, 4])


@triton.jit
def four_rows(pointer, offsets, mask):
    """Read a [BD, 4] tile of steps in float32, zero where masked."""
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def channel_values(pointer, channel, exists, GIVEN: tl.constexpr):
    """Read D or bias in float32; zero if it is absent."""
    if GIVEN:
        return tl.load(pointer + channel, mask=exists, other=0.0).to(tl.float32)
    else:
        return tl.zeros(channel.shape, tl.float32)


# Rows of parts that a program adds at once, and neighbouring numbers of a row.
PARTS = 256
COLUMNS = 8


@triton.jit(do_not_specialize=["count", "channels"])
def add_parts(
    parts_ptr, weight_ptr, bias_ptr, count, channels,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, R: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Add `count` parts of (WIDTH + HAS_BIAS) x channels numbers; write the first WIDTH as [channels, WIDTH]."""
    row = tl.arange(0, R)
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    size = (WIDTH + HAS_BIAS) * channels
    total = tl.zeros([R, BC], tl.float32)
    for part in range(0, count, R):
        mask = (part + row < count)[:, None] & (column < size)[None, :]
        offsets = (part + row).to(tl.int64)[:, None] * size + column[None, :]
        total += tl.load(parts_ptr + offsets, mask=mask, other=0.0)
    sums = tl.sum(total, 0)
    tap = column // channels
    channel = column % channels
    tl.store(weight_ptr + channel * WIDTH + tap, sums, mask=tap < WIDTH)
    if HAS_BIAS:
        tl.store(bias_ptr + channel, sums, mask=tap == WIDTH)


def launch_add_parts(
    parts: Tensor, dweight: Tensor, dbias: Tensor | None = None, *, key: Hashable | None = None
) -> None:
    """Add the parts of gradients in a fixed order, whatever wrote them.

    Parameters
    ----------
    parts : Tensor, shape (P, W, D) or (P, W + 1, D), float32
        One row per program that wrote it; the last of W + 1 is the share of `dbias`.
    dweight : Tensor, shape (D, W) or (D,) for W = 1
        Where the sums go, in its dtype.
    dbias : Tensor, shape (D,), optional
    key : hashable, optional
        Of the caller's other launches, whose tensors decide the dtypes of these.
    """
    count, rows, channels = parts.shape
    given_bias = dbias is not None
    launch(
        add_parts, -(-rows * channels // COLUMNS), (parts, dweight, given(dbias, dweight), count, channels),
        {"WIDTH": rows - given_bias, "HAS_BIAS": given_bias, "R": PARTS, "BC": COLUMNS}, key, num_warps=4,
    )  # fmt: skip
