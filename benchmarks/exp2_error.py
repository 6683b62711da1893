"""Print how far a GPU's exp2 is off, as Triton calls it, and with what the scan's kernels add to the exponent.

Run ``python -m benchmarks.exp2_error``. "mean" is the bias that `EXP2_SHORT` of `seqdomains.kernels.triton_parts` takes
off; the last line says whether a step of size zero still leaves a state as it is.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl

from seqdomains.kernels.triton_parts import EXP2_SHORT, exp2_of

RANGES = ((-1e-6, 0.0), (-0.01, 0.0), (-0.3, 0.0), (-1.0, 0.0), (-4.0, -2.0), (-10.0, -1.0))


@triton.jit
def exp2_kernel(x_ptr, y_ptr, UNBIASED: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, exp2_of(x, 1.0) if UNBIASED else tl.exp2(x))


def exp2_on_gpu(x: torch.Tensor, *, unbiased: bool) -> torch.Tensor:
    y = torch.empty_like(x)
    exp2_kernel[(x.numel() // 1024,)](x, y, unbiased, 1024)
    return y


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA device: this benchmark needs one", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, Triton {triton.__version__}; relative error of 2^x: mean, rms, largest")
    for low, high in RANGES:
        x = torch.rand(1 << 20, device="cuda") * (high - low) + low
        exact = torch.exp2(x.double())
        text = f"x in [{low:g}, {high:g}]"
        for name, way in (("plain", False), (f"with {EXP2_SHORT.value:g}", True)):
            error = (exp2_on_gpu(x, unbiased=way).double() - exact) / exact
            mean, rms, most = error.mean().item(), error.square().mean().sqrt().item(), error.abs().max().item()
            text += f"   {name} {mean:.1e} {rms:.1e} {most:.1e}"
        print(text)
    x = torch.zeros(1024, device="cuda")
    plain, unbiased = (exp2_on_gpu(x, unbiased=way)[0].item() for way in (False, True))
    print(f"2^0 - 1: {plain - 1:.1e}, {unbiased - 1:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
