"""Run a representative set of the GPU kernels once each, small, for NVIDIA's compute-sanitizer.

Run ``PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m benchmarks.sanitize`` (every tensor
has memory of its own then, so that reading past one shows), and with ``--tool racecheck`` for hazards in shared memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.scan import kernels
from seqdomains.kernels import causal_conv1d, raw, rms_norm, selective_scan, selective_scan_step

# B, L, D, N: odd lengths, in chunks; the last has so many channels that one pass over time is taken.
SHAPES = ((2, 333, 48, 16), (1, 1500, 96, 64), (130, 70, 64, 16))
PARTS = ("gluon", "triton", "others")


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype).requires_grad_()


def backward(outputs: Iterable[Tensor], inputs: Iterable[Tensor | None]) -> None:
    outputs = list(outputs)
    torch.autograd.grad(outputs, [x for x in inputs if x is not None], [torch.ones_like(y) for y in outputs])


def scans(dtype: torch.dtype, shapes: Iterable[tuple[int, int, int, int]], *, reverse: bool) -> None:
    for B, L, D, N in shapes:
        u, dt, z = (draw(B, L, D, dtype=dtype) for _ in range(3))
        b, c, A = (
            draw(B, L, N, dtype=dtype),
            draw(B, L, N, dtype=dtype),
            (-torch.rand(D, N, device="cuda")).requires_grad_(),
        )
        inputs = [u, dt, A, b, c, draw(D), z, draw(D)]
        h0 = draw(B, D, N)
        backward(selective_scan(*inputs, h0=h0, return_state=True, reverse=reverse), [*inputs, h0])


def parts_of_scans(dtype: torch.dtype, shapes: Iterable[tuple[int, int, int, int]]) -> None:
    """Both directions of a part of a scan, which is told on the way what enters it."""
    for B, L, D, N in shapes:
        u, dt, z, dy = (draw(B, L, D, dtype=dtype).detach() for _ in range(4))
        b, c, h = draw(B, L, N, dtype=dtype).detach(), draw(B, L, N, dtype=dtype).detach(), draw(B, D, N).detach()
        skip, bias = draw(D).detach(), draw(D).detach()
        inputs = u, dt, -torch.rand(D, N, device="cuda"), b, c, skip, z, bias
        _, _, states = raw.scan(*inputs, None, None, True, False, enter=lambda *_, h=h: h)
        raw.scan_backward(dy, None, *inputs, h, None, states, True, False, enter=lambda _, h=h: h)


def others() -> None:
    """Forms of the scan that the portable kernels alone have, and the other ops."""
    u, dt = draw(1, 200, 48), draw(1, 200, 48)
    A, b, c = draw(48, 5), draw(1, 200, 3, 5), draw(48, 5)
    borders = torch.tensor([0, 0, 70, 71, 200], device="cuda", dtype=torch.int32)
    backward([selective_scan(u, dt, -A.exp(), b, c, cu_seqlens=borders)], [u, dt, A, b, c])
    paired = torch.complex(-A.detach().exp(), draw(48, 5).detach()).requires_grad_()
    backward([selective_scan(u, dt, paired, b, c, reverse=True)], [u, dt, paired, b, c])
    with torch.no_grad():
        selective_scan_step(draw(3, 48, 16), draw(3, 48), draw(3, 48), -A.new_ones(48, 16), draw(3, 16), draw(3, 16))
    for dtype in (torch.float32, torch.bfloat16):
        x, weight, bias = draw(2, 333, 136, dtype=dtype), draw(136, 4), draw(136)
        backward([causal_conv1d(x, weight, bias, activation="silu")], [x, weight, bias])
        scale, residual = draw(136), draw(2, 333, 136)
        backward(rms_norm(x, scale, residual=residual, return_residual=True), [x, scale, residual])
    x, weight = draw(1, 200, 48), draw(48, 3)
    backward([causal_conv1d(x, weight, cu_seqlens=borders, reverse=True)], [x, weight])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="the scan's two levels, and all else")
    parts = parser.parse_args().only
    if not torch.cuda.is_available():
        print("no CUDA device: this needs one", file=sys.stderr)
        return 1
    for name, shapes in (("gluon", SHAPES), ("triton", SHAPES[:1])):
        if name in parts:
            with kernels(name):
                scans(torch.bfloat16, shapes, reverse=False)
                scans(torch.float32, shapes[:2], reverse=True)
                parts_of_scans(torch.bfloat16, shapes)
    if "others" in parts:
        others()
    torch.cuda.synchronize()
    print("ran: " + ", ".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
