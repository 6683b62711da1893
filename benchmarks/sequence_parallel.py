"""Time a training step of one long sequence on one device and shared by all of a torchrun job.

Run ``torchrun --nproc-per-node 2 -m benchmarks.sequence_parallel``. Loss and gradients of all ranks together are held
against those of one first, in float32 on a shorter sequence, as blocks are and recomputed: no speed is shown of what
differs. The steps are of a language model of 12 x 256 on 2^22 random tokens in time chunks, bfloat16 autocast, with the
sum of the gradients over ranks; alone, one runs on rank 0 while the others wait. Chunks are as long for each rank as
for one. A step on a shorter sequence comes first, which compiles and is not counted. Every line is printed as soon as
it is known, with the seconds since the start: what is cut off has still said where it was. At last one step of each is
looked into: how long the scan's kernels took, the exchanges with the waiting in them, all other kernels, and how long
there were none. On a CPU only the exchanges are told apart.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.pipelines.ranks import Ranks, joined, own_device

BEGAN = time.perf_counter()
# Kernels of the scan by the beginning of their names.
SCAN = ("chunk_ends", "outputs", "spread_outputs", "pass_", "sweep_", "add_all", "add_blocks", "add_rows")


class Way(NamedTuple):
    """How a step is done: by one (no shard) or by all, with blocks recomputed or as they are."""

    shard: SequenceShard | None
    recompute: bool

    def __str__(self) -> str:
        count = "one" if self.shard is None else str(self.shard.size)
        return f"{count}, {'recomputed' if self.recompute else 'as they are'}"


def say(ranks: Ranks, text: str) -> None:
    """Print a line at once, on the first rank."""
    if ranks.first:
        print(f"{time.perf_counter() - BEGAN:7.1f} s  {text}", flush=True)


def finish(tokens: Tensor) -> None:
    """Wait for the device."""
    if tokens.is_cuda:
        torch.cuda.synchronize()


def step(model: MambaLM, tokens: Tensor, chunk: int, way: Way, ranks: Ranks, *, bfloat16: bool) -> list[Tensor]:
    """Do the forward and backward of a step; returns the gradients, of what all ranks add where they share."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bfloat16):
        loss = model.loss(tokens, time_chunk=chunk, shard=way.shard, recompute=way.recompute)
    (loss / (1 if way.shard is None else way.shard.size)).backward()
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    if way.shard is not None:
        ranks.add(gradients)
    return gradients


def worst(model: MambaLM, device: torch.device, way: Way, ranks: Ranks) -> float:
    """Return how far the gradients of all ranks together are from those of one."""
    tokens = torch.randint(4, (1, 20_001), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    expected = [one.clone() for one in step(model, tokens, 7_000, Way(None, False), ranks, bfloat16=False)]
    found = step(model, tokens, 7_000, way, ranks, bfloat16=False)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def seconds(step: Callable[[Tensor], object], tokens: Tensor, chunk: int, steps: int, what: str, ranks: Ranks) -> float:
    """Return the median time of steps, each of which is told."""
    finish(tokens)
    began = time.perf_counter()
    # Two chunks, each of the length that all will have: what is compiled and reserved is the same.
    step(tokens[:, : 2 * chunk + 1])
    finish(tokens)
    say(ranks, f"{what}: warmed up in {time.perf_counter() - began:.1f} s")
    if tokens.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for number in range(steps):
        began = time.perf_counter()
        step(tokens)
        finish(tokens)
        times.append(time.perf_counter() - began)
        say(ranks, f"{what}: step {number + 1} of {steps} in {times[-1]:.3f} s")
    return sorted(times)[steps // 2]


@contextmanager
def timed_exchanges() -> Iterator[list[float]]:
    """Put the seconds of each exchange of a shard into a list, waiting included."""
    spent: list[float] = []
    plain = {name: getattr(SequenceShard, name) for name in ("gathered", "total")}

    def timed(name: str) -> Callable[[SequenceShard, Tensor], Tensor]:
        def exchange(shard: SequenceShard, tensor: Tensor) -> Tensor:
            began = time.perf_counter()
            found: Tensor = plain[name](shard, tensor)
            spent.append(time.perf_counter() - began)
            return found

        return exchange

    for name in plain:
        setattr(SequenceShard, name, timed(name))
    try:
        yield spent
    finally:
        for name, function in plain.items():
            setattr(SequenceShard, name, function)


def split(step: Callable[[Tensor], object], tokens: Tensor) -> str:
    """Say where the time of a step goes."""
    began = time.perf_counter()
    if not tokens.is_cuda:
        with timed_exchanges() as spent:
            step(tokens)
        whole = time.perf_counter() - began
        return f"{whole:.3f} s: {len(spent)} exchanges {sum(spent):.3f}, all else {whole - sum(spent):.3f}"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step(tokens)
        finish(tokens)
        whole = time.perf_counter() - began
    parts = {"scan": 0.0, "exchanges": 0.0, "other kernels": 0.0}
    exchanges = 0
    for event in profile.key_averages():
        exchanged = event.key.startswith("nccl")
        exchanges += event.count if exchanged else 0
        part = "exchanges" if exchanged else "scan" if event.key.startswith(SCAN) else "other kernels"
        parts[part] += event.self_device_time_total / 1e6
    parts["no kernel"] = whole - sum(parts.values())
    told = ", ".join(f"{part} {spent:.3f}" for part, spent in parts.items())
    return f"{whole:.3f} s under the profiler, {exchanges} exchanges: {told}"


def compare(model: MambaLM, tokens: Tensor, arguments: argparse.Namespace, recompute: bool, ranks: Ranks) -> None:
    """Time one rank and all, and look into a step of each."""
    found, looked = [], []
    for shard in (None, ranks.shard):
        way = Way(shard, recompute)
        # Each rank has its part of a chunk in memory: chunks may be as many times as long.
        chunk = arguments.chunk * (1 if shard is None else shard.size)

        def one(tokens: Tensor, way: Way = way, chunk: int = chunk) -> None:
            step(model, tokens, chunk, way, ranks, bfloat16=True)

        if shard is not None or ranks.first:
            found.append(seconds(one, tokens, chunk, arguments.steps, str(way), ranks))
            peak = torch.cuda.max_memory_allocated() / 2**30 if tokens.is_cuda else 0.0
            looked.append(f"{way}: {split(one, tokens)}" + (f"; peak {peak:.2f} GiB" if peak else ""))
        ranks.wait()
    for line in looked:
        say(ranks, line)
    if ranks.first:
        alone, shared = found
        speeds = " and ".join(f"{(tokens.shape[1] - 1) / each / 1e6:.3f}" for each in found)
        how = "recomputed" if recompute else "as they are"
        say(ranks, f"RESULT, {how}: {speeds} M tokens/s, {ranks.size} are {alone / shared:.2f} times as fast as one")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--length", type=int, default=1 << 22)
    parser.add_argument("--chunk", type=int, default=1 << 18, help="tokens of a chunk that each rank has in memory")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(own_device(None) or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    with joined(per_sequence=size, device=device) as ranks:
        if ranks.shard is None:
            print("start it with torchrun --nproc-per-node 2 -m benchmarks.sequence_parallel")
            return 1
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads each"
        say(ranks, f"{ranks.size} x {name}, {dist.get_backend(ranks.shard.group)}, torch {torch.__version__}")
        sizes = f"{arguments.blocks} x {arguments.width}, {arguments.length:,} tokens"
        say(ranks, f"{sizes} in chunks of {arguments.chunk:,} a rank")
        torch.manual_seed(0)
        model = MambaLM(MambaConfig(d_model=arguments.width, n_layer=arguments.blocks)).to(device)
        for recompute in (False, True):
            error = worst(model, device, Way(ranks.shard, recompute), ranks)
            say(ranks, f"{Way(ranks.shard, recompute)}: gradients against one, float32: {error:.1e}")
            if not error <= 1e-4:
                return 1
        tokens = torch.randint(4, (1, arguments.length + 1), device=device, dtype=torch.uint8)
        for recompute in (True, False):
            compare(model, tokens, arguments, recompute, ranks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
