"""Time training steps on long sequences on a GPU: tokens a second and peak memory, whole and in time chunks.

Run ``python -m benchmarks.long``. The tests of time chunks run first, and gradients in bfloat16, whole and in chunks,
are held against float32 on the device: no speed is shown of what fails. A step is forward, backward and AdamW of a
language model on random tokens, in bfloat16 autocast; times are medians after two steps that are not counted.
``--profile`` prints where the time of a case goes instead, kernel by kernel. The peer, mamba-ssm, is not timed here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from seqdomains.backbone import MambaConfig, MambaLM

ROOT = Path(__file__).resolve().parent.parent


class Case(NamedTuple):
    """A model, its batch, tokens of a sequence in memory at once (None is all), and whether blocks recompute."""

    width: int
    blocks: int
    batch: int
    length: int
    chunk: int | None = None
    recompute: bool = False

    def __str__(self) -> str:
        chunk = "whole" if self.chunk is None else f"chunks of {self.chunk:,}"
        again = ", recomputed" if self.recompute else ""
        return f"{self.blocks} x {self.width}, {self.batch} x {self.length:,}, {chunk}{again}"


CASES = (
    Case(128, 12, 1, 1 << 20),
    Case(128, 12, 1, 1 << 20, 1 << 18),
    Case(128, 12, 1, 1 << 20, 1 << 17),
    Case(128, 12, 1, 1 << 20, 1 << 16),
    Case(128, 12, 1, 1 << 20, None, recompute=True),
    Case(128, 12, 1, 1 << 20, 1 << 19, recompute=True),
    Case(128, 12, 1, 1 << 20, 1 << 18, recompute=True),
    Case(128, 12, 8, 1 << 17),
    Case(128, 12, 8, 1 << 17, 1 << 14),
    Case(128, 12, 1, 1 << 23, 1 << 17),
    Case(768, 24, 1, 1 << 17),
    Case(768, 24, 1, 1 << 17, 1 << 15),
    Case(768, 24, 1, 1 << 17, 1 << 14),
    Case(768, 24, 1, 1 << 17, None, recompute=True),
    Case(768, 24, 1, 1 << 17, 1 << 16, recompute=True),
    Case(128, 12, 1024, 1 << 10),
)


def step_of(case: Case) -> Callable[[], None]:
    """Return what does a step of training."""
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=case.width, n_layer=case.blocks)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(4, (case.batch, case.length), device="cuda", dtype=torch.uint8)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.loss(tokens, time_chunk=case.chunk, recompute=case.recompute)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(case: Case, steps: int) -> str:
    """Return tokens a second and the peak of memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step, times = step_of(case), []
        for _ in range(steps + 2):
            torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        return f"{case} | out of memory"
    taken = sorted(times[2:])[steps // 2]
    peak = torch.cuda.max_memory_allocated() / 2**30
    rate = case.batch * case.length / taken / 1e6
    return f"{case} | {taken * 1e3:.0f} ms | {rate:.2f} M tokens/s | {peak:.2f} GiB"


def profile(case: Case, rows: int) -> None:
    """Print where the time of a step goes."""
    step = step_of(case)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    whole = sum(event.self_device_time_total for event in events)
    print(f"{case}: {whole / 1e3:.1f} ms of kernels")
    for event in events[:rows]:
        print(f"{event.self_device_time_total / 1e3:8.2f} ms {event.count:6d} {event.key[:110]}")


def worst_gradients(length: int = 30_000, chunk: int = 7_001) -> dict[str, float]:
    """Return how far gradients in bfloat16 are from those in float32, relative to each one's largest."""
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=128, n_layer=4)).cuda()
    tokens = torch.randint(4, (2, length), device="cuda", dtype=torch.uint8)

    def gradients(time_chunk: int | None, *, bfloat16: bool, recompute: bool = False) -> list[torch.Tensor]:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
            loss = model.loss(tokens, time_chunk=time_chunk, recompute=recompute)
        loss.backward()
        return [one.grad.clone() for one in model.parameters() if one.grad is not None]

    exact = gradients(None, bfloat16=False)

    def worst(found: list[torch.Tensor]) -> float:
        return max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))

    return {
        "float32 in chunks": worst(gradients(chunk, bfloat16=False)),
        "bfloat16 whole": worst(gradients(None, bfloat16=True)),
        "bfloat16 in chunks": worst(gradients(chunk, bfloat16=True)),
        "float32 recomputed": worst(gradients(None, bfloat16=False, recompute=True)),
        "bfloat16 in chunks recomputed": worst(gradients(chunk, bfloat16=True, recompute=True)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of cases, from 0; all if not given")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rows", type=int, default=30, help="of a profile")
    arguments = parser.parse_args()
    cases = [CASES[number] for number in arguments.cases] if arguments.cases else CASES
    if arguments.profile:
        for case in cases:
            profile(case, arguments.rows)
        return 0
    tests = [str(ROOT / "tests" / "backbone" / f"test_{name}.py") for name in ("time_chunks", "lean")]
    if subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *tests], cwd=ROOT).returncode:
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    worst = worst_gradients()
    print("gradients against float32, whole: " + ", ".join(f"{name} {error:.1e}" for name, error in worst.items()))
    if max(error for name, error in worst.items() if "float32" in name) > 1e-4 or max(worst.values()) > 2e-2:
        return 1
    for case in cases:
        print(measure(case, arguments.steps), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
