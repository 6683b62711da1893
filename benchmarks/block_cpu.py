"""Time one Mamba block forward and backward on the CPU against mambapy's parallel scan, in one process.

Run ``python -m benchmarks.block_cpu``. The ops' tests run first: no speed is shown of code whose tests fail. Ours and
the peer's repetitions alternate, so that a busy machine slows both; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from seqdomains.backbone.block import Block
from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.initialisation import initialise
from seqdomains.kernels import causal_conv1d, rms_norm, selective_scan

WIDTH, BATCH, LENGTH = 64, 4, 1024
ROOT = Path(__file__).resolve().parent.parent


def tests_pass() -> bool:
    """Run the kernels' tests in a process of their own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        str(ROOT / "tests" / "kernels"),
        "-k",
        "not triton and not sm90",
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def our_step(hidden: Tensor, gradient: Tensor) -> Callable[[], None]:
    """Return one forward and backward of our block."""
    config = MambaConfig(d_model=WIDTH, n_layer=1)
    block = Block(config)
    initialise(block, config)
    hidden = hidden.clone().requires_grad_()

    def step() -> None:
        out, residual, _ = block(hidden, None)
        (out + residual).backward(gradient)

    return step


def peer_step(hidden: Tensor, gradient: Tensor) -> Callable[[], None] | None:
    """Return one forward and backward of mambapy's block, or None where it is not installed."""
    try:
        from mambapy.mamba import MambaConfig as PeerConfig
        from mambapy.mamba import ResidualBlock
    except ImportError:
        return None
    block = ResidualBlock(PeerConfig(d_model=WIDTH, n_layers=1, pscan=True))
    hidden = hidden.clone().requires_grad_()

    def step() -> None:
        block(hidden).backward(gradient)

    return step


def op_steps() -> dict[str, Callable[[], None]]:
    """Return each op of the block alone, forward and backward."""
    channels, states = 2 * WIDTH, 16

    def fresh(*shape: int) -> Tensor:
        return torch.randn(*shape).requires_grad_()

    u, dt, z = (fresh(BATCH, LENGTH, channels) for _ in range(3))
    A = (-torch.arange(1.0, states + 1).repeat(channels, 1)).requires_grad_()
    B, C = fresh(BATCH, LENGTH, states), fresh(BATCH, LENGTH, states)
    D, bias = fresh(channels), fresh(channels)
    taps, shift = fresh(channels, 4), fresh(channels)
    x, scale = fresh(BATCH, LENGTH, WIDTH), fresh(WIDTH)
    wide, narrow = torch.randn(BATCH, LENGTH, channels), torch.randn(BATCH, LENGTH, WIDTH)

    def differentiate(y: Tensor, gradient: Tensor, inputs: tuple[Tensor, ...]) -> None:
        torch.autograd.grad(y, inputs, gradient)

    scanned = (u, dt, A, B, C, D, z, bias)
    return {
        "selective_scan": lambda: differentiate(selective_scan(*scanned), wide, scanned),
        "causal_conv1d": lambda: differentiate(
            causal_conv1d(u, taps, shift, activation="silu"), wide, (u, taps, shift)
        ),
        "rms_norm": lambda: differentiate(rms_norm(x, scale), narrow, (x, scale)),
    }


def medians(steps: dict[str, Callable[[], None]], repetitions: int) -> dict[str, float]:
    """Return the median seconds of each step, their repetitions interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for repetition in range(repetitions + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repetition >= 2:  # the first two compile and warm up
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> int:
    """Print tokens per second of the block, ours and the peer's, and milliseconds of each op."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if not tests_pass():
        print("The ops' tests fail: no speed is shown.", file=sys.stderr)
        return 1
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    hidden, gradient = torch.randn(BATCH, LENGTH, WIDTH), torch.randn(BATCH, LENGTH, WIDTH)
    steps = {"ours": our_step(hidden, gradient)}
    peer = peer_step(hidden, gradient)
    if peer is not None:
        steps["mambapy pscan"] = peer
    found = medians(steps, arguments.repetitions)
    print(f"one block forward+backward, d_model {WIDTH}, {BATCH} x {LENGTH}, {arguments.threads} threads")
    for name, seconds in found.items():
        print(f"  {name:14} {seconds * 1e3:8.2f} ms  {BATCH * LENGTH / seconds:10,.0f} tokens/s")
    if peer is None:
        print("  mambapy        absent: pip install mambapy to compare")
    else:
        print(f"  ratio          {found['mambapy pscan'] / found['ours']:8.2f}")
    print("ops forward+backward, at the shapes of that block")
    for name, seconds in medians(op_steps(), arguments.repetitions).items():
        print(f"  {name:14} {seconds * 1e3:8.2f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
