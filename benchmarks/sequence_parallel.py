"""Time a training step of one long sequence on one device and shared by all of a torchrun job.

Run ``torchrun --nproc-per-node 2 -m benchmarks.sequence_parallel``. Loss and gradients of both are compared first, in
float32 on a shorter sequence: no speed is shown of what differs. The steps are of a language model of 12 x 256 on 2^22
random tokens in time chunks, bfloat16 autocast; alone it runs on rank 0 while the others wait.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import torch
from torch import distributed as dist

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.pipelines.ranks import Ranks, joined, own_device


def step(
    model: MambaLM, tokens: torch.Tensor, chunk: int, shard: SequenceShard | None, *, bfloat16: bool
) -> tuple[float, list[torch.Tensor]]:
    """Return the loss and this rank's gradients, of what all ranks add."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bfloat16):
        loss = model.loss(tokens, time_chunk=chunk, shard=shard)
    (loss / (1 if shard is None else shard.size)).backward()
    return loss.item(), [one.grad for one in model.parameters() if one.grad is not None]


def worst(model: MambaLM, device: torch.device, shard: SequenceShard, ranks: Ranks) -> float:
    """Return how far the gradients of all ranks together are from those of one."""
    tokens = torch.randint(4, (1, 20_001), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    _, expected = step(model, tokens, 7_000, None, bfloat16=False)
    expected = [one.clone() for one in expected]
    _, found = step(model, tokens, 7_000, shard, bfloat16=False)
    ranks.add(found)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def seconds(model: MambaLM, tokens: torch.Tensor, chunk: int, shard: SequenceShard | None, ranks: Ranks) -> float:
    """Return the median time of a step, with the sum of the gradients."""
    times = []
    for _ in range(4):
        if tokens.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        _, gradients = step(model, tokens, chunk, shard, bfloat16=True)
        if shard is not None:
            ranks.add(gradients)
        if tokens.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--length", type=int, default=1 << 22)
    parser.add_argument("--chunk", type=int, default=1 << 18)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=12)
    arguments = parser.parse_args()
    device = torch.device(own_device(None) or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    with joined(per_sequence=size, device=device) as ranks:
        if ranks.shard is None:
            print("start it with torchrun --nproc-per-node 2 -m benchmarks.sequence_parallel")
            return 1
        torch.manual_seed(0)
        model = MambaLM(MambaConfig(d_model=arguments.width, n_layer=arguments.blocks)).to(device)
        error = worst(model, device, ranks.shard, ranks)
        if ranks.first:
            print(f"gradients of {ranks.size} ranks against one, float32: {error:.1e}", flush=True)
        if error > 1e-4:
            return 1
        tokens = torch.randint(4, (1, arguments.length + 1), device=device, dtype=torch.uint8)
        alone = seconds(model, tokens, arguments.chunk, None, ranks) if ranks.first else 0.0
        ranks.wait()
        # Each rank has its part of a chunk in memory: chunks may be as many times as long.
        shared = seconds(model, tokens, arguments.chunk * ranks.size, ranks.shard, ranks)
        if ranks.first:
            name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
            backend = dist.get_backend(ranks.shard.group)
            print(
                f"{name}, {backend}: one {alone:.3f} s, {ranks.size} {shared:.3f} s, {alone / shared:.2f} times as fast"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
