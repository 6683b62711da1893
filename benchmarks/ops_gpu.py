"""Time the ops on a GPU, and the CUDA scan of mamba_ssm beside ours where it is installed.

Run ``python -m benchmarks.ops_gpu``. The ops' GPU tests run first: no speed is shown of code whose tests fail. Times
are medians between CUDA events around one call from Python. "of copy" is the bandwidth that the op's own inputs and
outputs would need, each moved once, over the bandwidth of a copy on the same card; backward adds what it reads and
writes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from seqdomains.kernels import causal_conv1d, rms_norm, selective_scan

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((8, 2048, 1536), (64, 1024, 256), (64, 16384, 256), (1, 1 << 20, 256))
STATES, WIDTH = 16, 4

# A call that returns outputs, the tensors whose gradients are taken, and the cotangents of the outputs.
Case = tuple[Callable[[], Sequence[Tensor]], list[Tensor], list[Tensor]]


def tests_pass() -> bool:
    """Run the GPU tests of the kernels in a process of their own."""
    tests = str(ROOT / "tests" / "kernels" / "test_triton_gpu.py")
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu", tests], cwd=ROOT).returncode == 0


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call after three that are not counted."""
    times = []
    for repeat in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Return the bytes per second that a copy of 1 GiB reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds(lambda: target.copy_(source), 20) * 1e-3)


def size(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype).requires_grad_()


def scan_case(B: int, L: int, D: int, dtype: torch.dtype) -> Case:
    u, dt, z = (leaf(B, L, D, dtype=dtype) for _ in range(3))
    b, c = (leaf(B, L, STATES, dtype=dtype) for _ in range(2))
    A = (-torch.arange(1.0, STATES + 1, device="cuda").repeat(D, 1)).requires_grad_()
    skip, bias = leaf(D), (torch.randn(D, device="cuda") - 3).requires_grad_()
    return lambda: (selective_scan(u, dt, A, b, c, skip, z, bias),), [u, dt, z, b, c, A, skip, bias], [u.detach()]


def conv_case(B: int, L: int, D: int, dtype: torch.dtype) -> Case:
    x, weight, bias = leaf(B, L, D, dtype=dtype), leaf(D, WIDTH), leaf(D)
    return lambda: (causal_conv1d(x, weight, bias, activation="silu"),), [x, weight, bias], [x.detach()]


def norm_case(B: int, L: int, D: int, dtype: torch.dtype) -> Case:
    x, weight, residual = leaf(B, L, D, dtype=dtype), leaf(D), leaf(B, L, D)
    cotangents = [x.detach(), residual.detach()]
    return lambda: rms_norm(x, weight, residual=residual, return_residual=True), [x, weight, residual], cotangents


def peer_case(B: int, L: int, D: int, dtype: torch.dtype) -> Case | None:
    """Return the CUDA scan of mamba_ssm in its own layout, or None where it is not installed or built without it."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        u, dt, z = (leaf(B, D, L, dtype=dtype) for _ in range(3))
        b, c = (leaf(B, STATES, L, dtype=dtype) for _ in range(2))
        A = (-torch.arange(1.0, STATES + 1, device="cuda").repeat(D, 1)).requires_grad_()
        skip, bias = leaf(D), (torch.randn(D, device="cuda") - 3).requires_grad_()

        def call() -> tuple[Tensor]:
            return (selective_scan_fn(u, dt, A, b, c, skip, z, bias, delta_softplus=True),)

        call()
    except (ImportError, RuntimeError, NameError, AttributeError, TypeError):
        return None
    return call, [u, dt, z, b, c, A, skip, bias], [u.detach()]


def both_times(case: Case, repeats: int) -> tuple[float, float]:
    """Return the time of the forward without gradients, and of forward and backward."""
    call, leaves, cotangents = case

    def forward() -> None:
        with torch.no_grad():
            call()

    def both() -> None:
        torch.autograd.grad(call(), leaves, cotangents)

    return milliseconds(forward, repeats), milliseconds(both, repeats)


def necessary_bytes(case: Case) -> tuple[int, int]:
    """Return the bytes of inputs and outputs, and those with cotangents, inputs again and gradients added."""
    call, leaves, cotangents = case
    with torch.no_grad():
        forward = size(*leaves) + size(*call())
    return forward, forward + size(*cotangents) + 2 * size(*leaves)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=20, help="calls per median")
    repeats = parser.parse_args().repeats
    if not torch.cuda.is_available():
        print("no CUDA device: this benchmark needs one", file=sys.stderr)
        return 1
    if not tests_pass():
        print("the kernels' GPU tests fail: no speed is shown", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, a copy moves {bandwidth / 1e12:.2f} TB/s")
    print("op                 B       L     D  dtype     fwd ms  of copy  fwd+bwd ms  of copy  peer fwd  peer fwd+bwd")
    for name, build in (("selective_scan", scan_case), ("causal_conv1d", conv_case), ("rms_norm", norm_case)):
        for B, L, D in SHAPES:
            for dtype in (torch.bfloat16, torch.float32):
                case = build(B, L, D, dtype)
                times = both_times(case, repeats)
                shares = [n / (t * 1e-3) / bandwidth for n, t in zip(necessary_bytes(case), times, strict=True)]
                row = f"{name:<15}{B:5}{L:8}{D:6}  {str(dtype)[6:]:<9}"
                row += f"{times[0]:7.3f}{shares[0]:9.1%}{times[1]:12.3f}{shares[1]:9.1%}"
                del case
                torch.cuda.empty_cache()
                if name == "selective_scan":
                    peer = peer_case(B, L, D, dtype)
                    row += "    absent" if peer is None else "".join(f"{t:10.3f}" for t in both_times(peer, repeats))
                    del peer
                    torch.cuda.empty_cache()
                print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
