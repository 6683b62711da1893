"""The scan on NVIDIA GPUs from Ampere on: the calls of the Gluon kernels, whose launches `gluon_plan` lays out.

What they do not cover (`fast_path.uncovered`) runs on the portable kernels of `triton_forward` and `triton_backward`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqdomains.kernels.selective_scan.gluon_plan import INPUTS, Call, plan_backward, plan_forward
from seqdomains.kernels.triton_launch import aligned
from seqdomains.kernels.triton_parts import given, on_device_of


def _call(tensors: tuple[Tensor | None, ...], u: Tensor, N: int, softplus: bool, reverse: bool) -> Call:
    batch, length, channels = u.shape
    dtypes = tuple([None if tensor is None else tensor.dtype for tensor in tensors])
    return Call(u.device, batch, length, channels, N, dtypes, softplus, reverse)


def _aligned(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Copy tensors that do not begin on a 16-byte boundary, as copies into shared memory and vector loads need."""
    if aligned(tensors):
        return tensors
    return tuple(tensor if tensor is None or tensor.data_ptr() % 16 == 0 else tensor.clone() for tensor in tensors)


def _addresses(tensors: tuple[Tensor | None, ...], A: Tensor) -> dict[str, int]:
    return {name: (A if tensor is None else tensor).data_ptr() for name, tensor in zip(INPUTS, tensors, strict=True)}


def forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None,
    h0: Tensor | None, softplus: bool, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run the scan; see `triton_forward.forward`."""
    tensors = _aligned((u, dt, A, B, C, D, z, bias, h0))
    with on_device_of(u):
        plan = plan_forward(_call(tensors, u, A.shape[1], softplus, reverse))
        y = torch.empty_like(u)
        states = torch.empty(plan.states, device=u.device, dtype=torch.float32)
        h_last = torch.empty((u.shape[0], *A.shape), device=u.device, dtype=torch.float32)
        sums = torch.empty(plan.sums, device=u.device, dtype=torch.float32) if plan.sums else h_last
        plan.launches.run({
            **_addresses(tensors, A), "y": y.data_ptr(), "states": states.data_ptr(), "h_last": h_last.data_ptr(),
            "sums": sums.data_ptr(),
        })  # fmt: skip
    return y, h_last, states


def backward(
    dy: Tensor, dh_last: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, bias: Tensor | None, h0: Tensor | None, states: Tensor, softplus: bool, reverse: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Return the gradients; see `triton_backward.backward`."""
    tensors = _aligned((u, dt, A, B, C, D, z, bias, h0))
    (dy_aligned, dh_last) = _aligned((dy, None if dh_last is None else dh_last.float()))
    with on_device_of(u):
        plan = plan_backward(_call(tensors, u, A.shape[1], softplus, reverse), dy.dtype, dh_last is not None)
        du, ddt, dA, dB, dC = (torch.empty_like(tensor) for tensor in (u, dt, A, B, C))
        dD, dz, dbias = (None if tensor is None else torch.empty_like(tensor) for tensor in (D, z, bias))
        scratch = torch.empty(plan.scratch, device=u.device, dtype=torch.float32)
        # What leaves the first chunk is dh0; without h0 it is scratch that only slabs hand on.
        carry = scratch if h0 is None else torch.empty(h0.shape, device=u.device, dtype=torch.float32)
        low = ddt if plan.split or ddt.element_size() == 4 else du
        plan.launches.run({
            **_addresses(tensors, A), "dy": given(dy_aligned, dy).data_ptr(), "states": states.data_ptr(),
            "dh_last": given(dh_last, A).data_ptr(), "scratch": scratch.data_ptr(), "carry": carry.data_ptr(),
            "high": (du if plan.split else low).data_ptr(), "low": low.data_ptr(), "du": du.data_ptr(),
            "ddt": ddt.data_ptr(), "dA": dA.data_ptr(), "dB": dB.data_ptr(), "dC": dC.data_ptr(),
            "dD": given(dD, A).data_ptr(), "dz": given(dz, u).data_ptr(), "dbias": given(dbias, A).data_ptr(),
        })  # fmt: skip
    return du, ddt, dA, dB, dC, dD, dz, dbias, None if h0 is None else carry.to(h0.dtype)
