"""The selective scan on a CPU: 16 channels per vector, one pass over time, states recomputed per chunk in backward.

A task is one run of sequences (a batch row, or a few packed sequences) and one block of channels that share a group of
B and C. Its state tile is [rows, 16] per vector of 16 channels and stays in the first-level cache: a row per state,
two where states are complex. Forward stores the state that enters each chunk of CPU_CHUNK steps; backward walks the
chunks from last to first, recomputes a chunk's states into scratch, and steps back through them (README.md, "The
adjoint"). To run backwards in time is to count rows down.

The kernels take `sizes` (channels, rows of states, groups, rows of steps); `cuts`, arrays of where sequences begin,
where their stored states do, and where runs of sequences do; `flags`; and how to step through B and C (`Projection`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.kernels.compilation import flat, memory, run_tasks, sum_rows
from seqdomains.kernels.selective_scan.cpu_backward import layout, retreat
from seqdomains.kernels.selective_scan.cpu_ends import lead
from seqdomains.kernels.selective_scan.cpu_forward import BLOCK, VECTORS, advance
from seqdomains.kernels.selective_scan.plan import CPU_CHUNK, Enter, states_shape
from seqdomains.kernels.simd import WIDTH

# Packed sequences are dealt to no more tasks per block than this: each has sums of its own for dA, dD and dbias.
_RUNS: Final = 64


class Projection(NamedTuple):
    """Numbers of B or C in the order of a kernel, and its steps through them.

    Of a projection that varies in time there is one number for all lanes; of a constant one there are 16.
    """

    values: NDArray[np.float32]
    constant: bool
    by_vector: int
    by_group: int
    by_row: int

    @property
    def steps(self) -> tuple[bool, int, int, int]:
        """What kernels take."""
        return self[1:]


Cuts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


class Plan(NamedTuple):
    """How a scan is cut into tasks."""

    sizes: tuple[int, int, int, int]
    cuts: Cuts
    blocks: int

    @property
    def sequences(self) -> int:
        """Batch rows, or packed sequences."""
        return len(self.cuts[1])

    @property
    def runs(self) -> int:
        """Tasks per block."""
        return len(self.cuts[2]) - 1


@lru_cache(16)
def _even_cuts(batch: int, length: int) -> Cuts:
    rows = np.arange(batch + 1, dtype=np.int64)
    return rows * length, rows[:-1] * -(-length // CPU_CHUNK), rows


def _packed_cuts(borders: NDArray[Any], length: int) -> Cuts:
    bounds = borders.astype(np.int64)
    slots = bounds[:-1] // CPU_CHUNK + np.arange(len(bounds) - 1)
    firsts = np.searchsorted(bounds[:-1], np.arange(_RUNS) * length // _RUNS)
    return bounds, slots, np.unique(np.append(firsts, len(slots)))


def plan_of(u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> Plan:
    """Cut a scan into tasks."""
    batch, length, channels = u.shape
    groups = max(tensor.shape[2] if tensor.dim() == 4 else 1 for tensor in (B, C))
    blocks = groups * -(-(channels // groups) // BLOCK)
    cuts = _even_cuts(batch, length) if cu_seqlens is None else _packed_cuts(cu_seqlens.numpy(), length)
    rows = 2 * A.shape[1] if A.is_complex() else A.shape[1]
    return Plan((channels, rows, groups, batch * length), cuts, blocks)


def _rates(A: Tensor) -> Tensor:
    """Return A as kernels take it, states first, and its real part times log2(e): a decay is one exp2."""
    if not A.is_complex():
        return (A.detach().float() * math.log2(math.e)).t()
    return (
        (torch.view_as_real(A.detach()) * torch.tensor([math.log2(math.e), 1.0], dtype=torch.float32, device="cpu"))
        .flatten(1)
        .t()
    )


def _state_rows(h: Tensor | None) -> Tensor | None:
    """Return states of shape (..., D, N) as rows of channels, (..., N, D) or (..., 2 N, D)."""
    if h is None:
        return None
    h = h.detach()
    return (torch.view_as_real(h).flatten(-2) if h.is_complex() else h).transpose(-1, -2)


def _from_state_rows(rows: Tensor, A: Tensor) -> Tensor:
    return _numbers(rows.transpose(-1, -2).contiguous(), A)


def _numbers(values: Tensor, A: Tensor) -> Tensor:
    """Return the last axis as complex numbers where A is complex."""
    return torch.view_as_complex(values.reshape(*values.shape[:-1], -1, 2)) if A.is_complex() else values


def _projection(projection: Tensor, A: Tensor, plan: Plan) -> Projection:
    channels, rows, groups, _ = plan.sizes
    values = projection.detach()
    if A.is_complex():
        values = torch.view_as_real(values.to(torch.complex64)).flatten(-2)
    if values.dim() > 2:
        grouped = values.dim() == 4
        return Projection(flat(values), False, 0, rows if grouped else 0, values.shape[2:].numel())
    width = plan.blocks // groups * BLOCK
    lanes = F.pad(values.float().reshape(groups, -1, rows), (0, 0, 0, width - channels // groups))
    lanes = lanes.reshape(-1, WIDTH, rows).transpose(1, 2)
    return Projection(flat(lanes), True, rows * WIDTH, 0, 0)


def _kind(A: Tensor) -> bool | None:
    return True if A.is_complex() else None


def _lead(
    x: Tensor, dt: Tensor, A: Tensor, weights: Tensor, z: Tensor | None, bias: Tensor | None, softplus: bool, back: bool
) -> tuple[Tensor, Tensor]:
    """Return where the scan of batch rows leads from zero and its sum of d, or `back` the gradient that it leads to."""
    plan = plan_of(x, A, weights, weights, None)
    (batch, _, channels), rows = x.shape, plan.sizes[1]
    given = _projection(weights, A, plan)
    end, total = memory(batch, rows, channels), memory(batch, channels)
    run_tasks(
        lead,
        plan.runs * plan.blocks,
        2 * VECTORS * rows * WIDTH + BLOCK,
        plan.sizes,
        plan.cuts,
        (back, softplus, z is not None, bias is not None),
        given.steps,
        (flat(x), flat(dt), flat(_rates(A)), given.values, flat(z), flat(bias)),
        (flat(end), flat(total)),
    )
    return _from_state_rows(end, A), total


def forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    softplus: bool,
    reverse: bool,
    *,
    enter: Enter = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in u's dtype, h_last, and the state entering each chunk, channels last.

    `enter` takes where the scan leads from zero and its sum of d, found in a pass of their own, and returns h0.
    """
    if enter is not None:
        h0 = enter(*_lead(u, dt, A, B, None, bias, softplus, False))
    plan = plan_of(u, A, B, C, cu_seqlens)
    (batch, length, channels), rows = u.shape, plan.sizes[1]
    Bs, Cs = _projection(B, A, plan), _projection(C, A, plan)
    y = memory(*u.shape)
    h_last = memory(plan.sequences, rows, channels)
    states = memory(*states_shape(batch, length, channels, rows, "cpu", sequences=plan.sequences))
    flags = (_kind(A), -1 if reverse else 1, softplus, *(tensor is not None for tensor in (D, z, bias, h0)))
    run_tasks(
        advance,
        plan.runs * plan.blocks,
        2 * VECTORS * rows * WIDTH,
        plan.sizes,
        plan.cuts,
        flags,
        Bs.steps,
        Cs.steps,
        (flat(u), flat(dt), flat(_rates(A)), Bs.values, Cs.values, *map(flat, (D, z, bias, _state_rows(h0)))),
        (flat(y), flat(h_last), flat(states)),
    )
    return y.to(u.dtype), _from_state_rows(h_last, A), states


def _parts(projection: Tensor, given: Projection, plan: Plan) -> Tensor:
    """Return memory for the gradient of B or C, with one part for each task that adds to the same number."""
    channels, rows, groups, steps = plan.sizes
    if given.constant:
        return memory(plan.runs, rows, channels)
    parts = plan.blocks // groups if projection.dim() == 4 else plan.blocks
    return memory(parts, steps, given.by_row)


def _gradient(parts: Tensor, projection: Tensor, A: Tensor) -> Tensor:
    """Add the parts of the gradient of B or C."""
    total = sum_rows(parts)
    total = _from_state_rows(total, A) if projection.dim() == 2 else _numbers(total, A)
    return (total if projection.is_complex() else total.real).reshape(projection.shape).to(projection.dtype)


def backward(
    dy: Tensor,
    dh_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk_states: Tensor,
    softplus: bool,
    reverse: bool,
    *,
    enter: Enter = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients (du, ddt, dA, dB, dC, dD, dz, dbias, dh0), each in its input's dtype.

    `enter` takes the gradient of the first state if that of the last were zero, found in a pass of its own, and returns
    the latter.
    """
    if enter is not None:
        dh_last = enter(_lead(dy, dt, A, C, z, bias, softplus, True)[0])
    plan = plan_of(u, A, B, C, cu_seqlens)
    channels, rows, _, _ = plan.sizes
    Bs, Cs = _projection(B, A, plan), _projection(C, A, plan)
    du, ddt = memory(*u.shape), memory(*u.shape)
    dz = None if z is None else memory(*u.shape)
    dA, dh0 = memory(plan.runs, rows, channels), memory(plan.sequences, rows, channels)
    dB, dC = _parts(B, Bs, plan), _parts(C, Cs, plan)
    dD, dbias = memory(plan.runs, channels), memory(plan.runs, channels)
    flags = (_kind(A), -1 if reverse else 1, softplus, *(tensor is not None for tensor in (D, z, bias, dh_last)))
    steps, skips = tuple(map(flat, (u, dt, _rates(A)))), tuple(map(flat, (D, z, bias, chunk_states)))
    run_tasks(
        retreat,
        plan.runs * plan.blocks,
        layout(rows)[-1],
        plan.sizes,
        plan.cuts,
        flags,
        Bs.steps,
        Cs.steps,
        (flat(dy), flat(_state_rows(dh_last)), *steps, Bs.values, Cs.values, *skips),
        tuple(map(flat, (du, ddt, dA, dB, dC, dD, dz, dbias, dh0))),
    )
    return (
        du.to(u.dtype),
        ddt.to(dt.dtype),
        _from_state_rows(sum_rows(dA), A).to(A.dtype),
        _gradient(dB, B, A),
        _gradient(dC, C, A),
        None if D is None else sum_rows(dD).to(D.dtype),
        None if dz is None or z is None else dz.to(z.dtype),
        None if bias is None else sum_rows(dbias).to(bias.dtype),
        None if h0 is None else _from_state_rows(dh0, A).to(h0.dtype),
    )
