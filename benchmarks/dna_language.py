"""Time the Markov model that language models of DNA stand beside, and generation by a model of two sizes.

Run ``python -m benchmarks.dna_language``; on a GPU generation is timed with a CUDA graph and without one, which must
write the same. The bases are random and the models untrained (SIMULATED input: only the speed means anything). Prints
seconds for counting, choosing the order on 1 Mb and scoring 200 windows of 16,384 bp, and bases written a second.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.genomics.markov import MarkovModel
from seqdomains.kernels.token_draw import Sampling
from seqdomains.pipelines.generate import generate

BLOCK = 4096
TOGETHER = 16  # sequences 1 to 16, which a CPU writes side by side


def time_markov(megabases: int) -> None:
    codes = np.random.default_rng(0).integers(0, 4, megabases * 1_000_000, dtype=np.uint8)
    model = MarkovModel(most=12)
    model.add(codes[:100])  # compiles
    fitted = len(codes) * 19 // 20
    times = [time.perf_counter()]
    model.add(codes[:fitted])
    times.append(time.perf_counter())
    blocks = np.linspace(fitted, len(codes) - BLOCK, min(256, (len(codes) - fitted) // BLOCK)).astype(int)
    model.choose([codes[start : start + BLOCK] for start in blocks])
    times.append(time.perf_counter())
    windows = codes[: 200 * 16384].reshape(200, 16384)
    model.bits(windows, windows < 4)
    times.append(time.perf_counter())
    counted, chosen, scored = np.diff(times)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"Markov, order 12, both strands: {counted:.1f} s for {fitted / 1e6:.0f} Mb, {chosen:.1f} s to choose on "
        f"{len(blocks) * BLOCK / 1e6:.1f} Mb, {scored:.1f} s to score 3.3 Mb; {memory:.2f} GiB at most"
    )


def time_generation(width: int, blocks: int, *, length: int, device: str) -> None:
    model = MambaLM(MambaConfig(d_model=width, n_layer=blocks)).eval()
    written = []
    for graph in (False, True) if device == "cuda" else (False,):
        options = {"sampling": Sampling(codes=(0, 1, 2, 3)), "device": device, "graph": graph, "progress": False}
        options |= {"count": TOGETHER, "first": 1}
        list(generate(model, np.array([14]), length=5, **options))
        began = time.perf_counter()
        written.append(np.stack(list(generate(model, np.array([14]), length=length, **options))))
        speed = TOGETHER * length / (time.perf_counter() - began)
        name = "CUDA graph" if graph else "launch by launch" if device == "cuda" else "one thread"
        print(f"generate, {width} x {blocks}, {TOGETHER} sequences of {length}, {device}, {name}: {speed:,.0f} bases/s")
    if not all(np.array_equal(one, written[0]) for one in written):
        raise SystemExit("the graph writes something else: its time means nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabases", type=int, default=100)
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    time_markov(given.megabases)
    for width, blocks in ((32, 2), (128, 12)):
        time_generation(width, blocks, length=given.length, device=given.device)


if __name__ == "__main__":
    main()
