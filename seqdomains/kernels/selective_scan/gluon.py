"""The scan on NVIDIA GPUs from Ampere on: the calls of the Gluon kernels, whose launches `gluon_plan` lays out.

What they do not cover (`fast_path.uncovered`) runs on the portable kernels of `triton_forward` and `triton_backward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import contiguous, of_present
from seqdomains.kernels.eager import watched
from seqdomains.kernels.selective_scan.fast_path import attempt
from seqdomains.kernels.selective_scan.gluon_plan import INPUTS, Call, plan_backward, plan_forward
from seqdomains.kernels.selective_scan.plan import Enter
from seqdomains.kernels.triton_launch import aligned, laid_out
from seqdomains.kernels.triton_parts import given, on_device_of

# u, dt, A, B, C, D, z, bias and h0, contiguous
Inputs = Sequence[Tensor | None]


class Scan(torch.autograd.Function):
    """The scan in eager mode, as `eager.differentiable` would make it, but with less for the host to do.

    What decides on the launches is found out in the forward, for both directions.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Return y and h_last."""
        y, h_last, states = _forward(call, inputs)
        ctx.call = call
        ctx.save_for_backward(*inputs, states)
        ctx.set_materialize_grads(False)
        return y, h_last

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_last: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return nothing for the call, and the gradients of the inputs."""
        call: Call = ctx.call
        # Hooks on saved tensors may have brought others of the same values.
        tensors: Any = contiguous((dy, dh_last, *ctx.saved_tensors))
        dy, dh_last, *inputs, states = tensors
        dy = torch.zeros_like(inputs[0]) if dy is None else dy
        found = None
        present = [tensor for tensor in (dy, dh_last, *inputs) if tensor is not None]
        same = call.dtypes == tuple([None if tensor is None else tensor.dtype for tensor in inputs])
        if same and not torch.is_grad_enabled() and not watched(present) and aligned(present):
            found = attempt(_backward, call, dy, dh_last, inputs, states, index=call.device.index)
        if found is None:  # the op also says, where asked, that there is no second derivative
            op = torch.ops.seqdomains.selective_scan_backward.default
            found = of_present(inputs, op(dy, dh_last, *inputs, None, states, call.softplus, call.reverse))
        return None, *found


def apply(inputs: Inputs, softplus: bool, reverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the scan of aligned tensors in eager mode; the states are None where autograd has them."""
    call = _call(inputs, softplus, reverse)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs):
        y, h_last = Scan.apply(call, *inputs)
        return y, h_last, None
    return _forward(call, inputs)


def forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None,
    h0: Tensor | None, softplus: bool, reverse: bool, *, enter: Enter = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run the scan; see `triton_forward.forward`."""
    inputs = _aligned((u, dt, A, B, C, D, z, bias, h0))
    return _forward(_call(inputs, softplus, reverse), inputs, enter)


def backward(
    dy: Tensor, dh_last: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, bias: Tensor | None, h0: Tensor | None, states: Tensor, softplus: bool, reverse: bool, *,
    y: Tensor | None = None, enter: Enter = None,
) -> list[Tensor | None]:  # fmt: skip
    """Return the gradients; see `triton_backward.backward`. Where `y` is given, y is written into it again."""
    dy_, dh_last, *inputs = _aligned((dy, dh_last, u, dt, A, B, C, D, z, bias, h0))
    return _backward(_call(inputs, softplus, reverse), given(dy_, dy), dh_last, inputs, states, y, enter)


def _aligned(tensors: Inputs) -> Inputs:
    """Copy tensors that do not begin on a 16-byte boundary, as copies into shared memory and vector loads need."""
    if aligned(tensors):
        return tensors
    return [tensor if tensor is None else laid_out(tensor) for tensor in tensors]


def _call(inputs: Inputs, softplus: bool, reverse: bool) -> Call:
    u, A = inputs[0], inputs[2]
    assert u is not None  # noqa: S101 - always there
    assert A is not None  # noqa: S101
    batch, length, channels = u.shape
    dtypes = tuple([None if tensor is None else tensor.dtype for tensor in inputs])
    return Call(u.device, batch, length, channels, A.shape[1], dtypes, softplus, reverse)


def _addresses(inputs: Inputs, stand_in: Tensor) -> dict[str, int]:
    return {name: given(tensor, stand_in).data_ptr() for name, tensor in zip(INPUTS, inputs, strict=True)}


def _forward(call: Call, inputs: Sequence[Any], enter: Enter = None) -> tuple[Tensor, Tensor, Tensor]:
    u, A = inputs[0], inputs[2]

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, device=call.device, dtype=torch.float32)

    with on_device_of(u):
        if enter is not None:
            call = call._replace(dtypes=(*call.dtypes[:-1], torch.float32))
        # Laid out in whole before anything runs: what does not compile is found while no other rank waits.
        plan = plan_forward(call, enter is not None)
        batch, between, channels, N = plan.states
        y, h_last = torch.empty_like(u), scratch(*plan.h_last)
        if enter is None or plan.ends is None:
            states, sums = scratch(*plan.states), scratch(plan.sums) if plan.sums else h_last
        else:
            ends, parts = scratch(batch, between + 1, channels, N), scratch(batch, between + 1, channels)
            end = scratch(*plan.h_last)
            plan.ends.run({
                **_addresses(inputs, A), "ends": ends.data_ptr(), "sums": parts.data_ptr(), "end": end.data_ptr(),
            })  # fmt: skip
            # Those of a single batch row are not copied.
            states, sums = ends[:, :between].contiguous(), parts[:, :between].contiguous()
            inputs = [*inputs[:-1], enter(end, parts.sum(1))]
        plan.launches.run({
            **_addresses(inputs, A), "y": y.data_ptr(), "states": states.data_ptr(), "h_last": h_last.data_ptr(),
            "sums": sums.data_ptr(),
        })  # fmt: skip
    return y, h_last, states


def _backward(
    call: Call,
    dy: Tensor,
    dh_last: Tensor | None,
    inputs: Sequence[Any],
    states: Tensor,
    y: Tensor | None = None,
    enter: Enter = None,
) -> list[Tensor | None]:
    u, dt, A, _, _, _, _, _, h0 = inputs
    with on_device_of(u):
        part = enter is not None
        plan = plan_backward(call, dy.dtype, dh_last is not None or part, y is not None, part)
        gradients = [None if tensor is None else torch.empty_like(tensor) for tensor in inputs[:-1]]
        scratch = torch.empty(plan.scratch, device=call.device, dtype=torch.float32)
        # What leaves the first chunk is dh0; without h0 it is scratch that only slabs hand on.
        carry = scratch if h0 is None else torch.empty(h0.shape, device=call.device, dtype=torch.float32)
        addresses = _addresses(inputs, A)
        for name, gradient in zip(INPUTS, gradients, strict=False):
            addresses[f"d{name}"] = given(gradient, A).data_ptr()
        low = "ddt" if plan.split or dt.element_size() == 4 else "du"
        addresses |= {
            "dy": dy.data_ptr(), "y": given(y, dy).data_ptr(), "states": states.data_ptr(),
            "scratch": scratch.data_ptr(), "carry": carry.data_ptr(),
            "high": addresses["du" if plan.split else low], "low": addresses[low],
        }  # fmt: skip
        if enter is not None and plan.starts is not None:
            start = torch.empty(call.batch, call.channels, call.N, device=call.device, dtype=torch.float32)
            plan.starts.run(addresses | {"start": start.data_ptr()})
            dh_last = enter(start)
        plan.launches.run(addresses | {"dh_last": given(dh_last, A).data_ptr()})
    return [*gradients, None if h0 is None else carry.to(h0.dtype)]
