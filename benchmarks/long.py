"""Time training steps on long sequences on a GPU: tokens a second and peak memory, whole and in time chunks.

Run ``python -m benchmarks.long``. The tests of time chunks run first, and gradients in bfloat16, whole and in chunks,
are held against float32 on the device: no speed is shown of what fails. A step is forward, backward and AdamW of a
language model on random tokens, in bfloat16 autocast; times are medians after two steps that are not counted.
``--profile`` prints where the time of a case goes instead, kernel by kernel. ``--curve`` goes through lengths from 2^10
to 2^23 instead, as many tokens a step up to 2^20, beside causal attention through torch's SDPA with as many parameters,
up to where a step takes over four seconds or does not fit; ``--figure FILE`` draws that. The peer, mamba-ssm, is not
timed here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.backbone.footprint import footprint

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
    Case(128, 12, 1, 1 << 20, 174_848),
    Case(128, 12, 1, 1 << 20, None, recompute=True),
    Case(128, 12, 1, 1 << 20, 1 << 19, recompute=True),
    Case(128, 12, 1, 1 << 20, 1 << 18, recompute=True),
    Case(128, 12, 8, 1 << 17),
    Case(128, 12, 8, 1 << 17, None, recompute=True),
    Case(128, 12, 1, 1 << 23, 1 << 17),
    Case(128, 12, 1, 1 << 23, 1 << 19, recompute=True),
    Case(768, 24, 1, 1 << 17),
    Case(768, 24, 1, 1 << 17, 1 << 15),
    Case(768, 24, 1, 1 << 17, None, recompute=True),
    Case(768, 24, 1, 1 << 17, 1 << 16, recompute=True),
    Case(128, 12, 1024, 1 << 10),
    Case(128, 12, 1024, 1 << 10, None, recompute=True),
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
    config = MambaConfig(d_model=case.width, n_layer=case.blocks)
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
    with torch.device("meta"):
        parameters = sum(one.numel() for one in MambaLM(config).parameters())
    estimate = footprint(
        config, parameters=parameters, tokens=case.batch * (case.chunk or case.length), precision="bf16",
        recompute=case.recompute,
    )  # fmt: skip
    share = estimate.total / 2**30 / peak
    return f"{case} | {taken * 1e3:.0f} ms | {rate:.2f} M tokens/s | {peak:.2f} GiB, estimated {share:.2f} of it"


class Attention(nn.Module):
    """A causal Transformer of pre-normed blocks with rotary positions, as plain as torch's SDPA makes it."""

    def __init__(self, width: int, blocks: int, vocabulary: int = 16, head: int = 64) -> None:
        super().__init__()
        self.head = head
        self.embedding = nn.Embedding(vocabulary, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2 * blocks + 1))
        self.to_qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(blocks))
        self.out = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width, bias=False) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(4 * width, width, bias=False) for _ in range(blocks))

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean loss of the next token."""
        x = self.embedding(tokens[:, :-1].long())
        batch, length, width = x.shape
        rates = 10_000 ** -(torch.arange(0, self.head, 2, device=x.device) / self.head)
        angles = torch.arange(length, device=x.device)[:, None] * rates
        turn = torch.polar(torch.ones_like(angles), angles)
        for number, (qkv, out, up, down) in enumerate(zip(self.to_qkv, self.out, self.up, self.down, strict=True)):
            heads = qkv(self.norms[2 * number](x)).view(batch, length, 3, -1, self.head).permute(2, 0, 3, 1, 4)
            q, k = (torch.view_as_real(torch.view_as_complex(one.float().unflatten(-1, (-1, 2))) * turn).flatten(-2)
                    for one in heads[:2])  # fmt: skip
            v = heads[2]
            mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
            x = x + out(mixed.transpose(1, 2).reshape(batch, length, width))
            x = x + down(F.gelu(up(self.norms[2 * number + 1](x))))
        logits = F.linear(self.norms[-1](x), self.embedding.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].long().flatten())


# Layers of a Transformer of width 128 with as many parameters, 1.38 M, as 12 blocks of Mamba.
ATTENTION_LAYERS = 7
# Seconds of a step beyond which a curve ends.
TOO_LONG = 4.0


class Point(NamedTuple):
    """A length, M tokens/s, and GiB."""

    length: int
    rate: float
    memory: float


def curve(loss: Callable[[Tensor], Tensor], model: nn.Module, tokens: int, longest: int, device: str) -> list[Point]:
    """Time steps at lengths from 2^10 on, `tokens` or one sequence of them at once."""
    optimizer, found = torch.optim.AdamW(model.parameters(), lr=1e-4), []
    length = 1 << 10
    while length <= longest:
        batch = torch.randint(4, (max(1, tokens // length), length), device=device, dtype=torch.uint8)
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            times = []
            for _ in range(3):
                began = time.perf_counter()
                with torch.autocast(device, torch.bfloat16):
                    value = loss(batch)
                value.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                value.item()
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
        except torch.OutOfMemoryError:
            print(f"  {length:>9,}: out of memory", flush=True)
            break
        taken = min(times[1:])
        memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
        found.append(Point(length, batch.numel() / taken / 1e6, memory))
        room = f", {memory:.2f} GiB" if device == "cuda" else ""
        print(f"  {length:>9,}: {found[-1].rate:.3g} M tokens/s{room}", flush=True)
        if taken > TOO_LONG:
            break
        length *= 2
    return found


def curves(tokens: int, longest: int, chunk: int, device: str) -> dict[str, list[Point]]:
    """Return the curves of Mamba in chunks, recomputed and as it is, and of attention."""
    torch.manual_seed(0)
    found = {}
    ways = {
        f"Mamba, recomputed, chunks of {chunk:,}": {"time_chunk": chunk, "recompute": True},
        "Mamba, recomputed": {"recompute": True},
        "Mamba": {},
    }
    for name, options in ways.items():
        print(name, flush=True)
        mamba = MambaLM(MambaConfig(d_model=128, n_layer=12)).to(device)
        found[name] = curve(partial(mamba.loss, **options), mamba, tokens, longest, device)
    attention = Attention(128, ATTENTION_LAYERS).to(device)
    parameters = sum(one.numel() for one in attention.parameters())
    name = f"attention, {parameters / 1e6:.2f} M parameters"
    print(name, flush=True)
    found[name] = curve(attention.loss, attention, tokens, longest, device)
    return found


def draw(found: dict[str, list[Point]], path: Path, device: str) -> None:
    """Draw tokens a second and memory over length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    lines = []
    for axes, values, label in zip(figure.subplots(1, 2), ("rate", "memory"), ("M tokens/s", "GiB"), strict=True):
        lines = [axes.plot([one.length for one in points], [getattr(one, values) for one in points], "o-")[0]
                 for points in found.values()]  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="tokens of a sequence", ylabel=label)
        axes.grid(visible=True, alpha=0.3)
    figure.legend(lines, list(found), loc="outside lower center", ncols=2)
    figure.suptitle(f"Training, 12 x 128, bfloat16, {device}")
    figure.savefig(path)


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
    parser.add_argument("--curve", action="store_true", help="over lengths, beside attention; on a CPU too, short")
    parser.add_argument("--longest", type=int, default=1 << 23, help="of a curve")
    parser.add_argument("--tokens", type=int, default=1 << 20, help="of a step of a curve")
    parser.add_argument("--chunk", type=int, default=1 << 19, help="of a curve")
    parser.add_argument("--figure", type=Path, help="SVG or PNG of a curve")
    arguments = parser.parse_args()
    if arguments.curve:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        print(f"{name}, torch {torch.__version__}")
        found = curves(arguments.tokens, arguments.longest, arguments.chunk, device)
        if arguments.figure is not None:
            draw(found, arguments.figure, name)
        return 0
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
