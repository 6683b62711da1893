"""Time how fast language models of sample codes write sound, one at a time and 64 side by side.

Run ``python -m benchmarks.sound_generate``; `--model RUN` times a model of yours in place of untrained ones of
presets, of which only the speed means anything. First the logits of steps are compared with those of one pass over the
whole sequence, and on a GPU what is written with a CUDA graph with what is written without one; a model that fails has
no time. Printed are samples a second of a step with its draw by the number of rows, then of all of `generate_blocks`,
beside real time (16,000), and how much the memory grew.
`--processor-time` counts the time of the processor, where other work shares it.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from seqdomains.audio.front_end import input_of
from seqdomains.backbone import MambaLM
from seqdomains.backbone.step import Stepper
from seqdomains.cli.config import resolve
from seqdomains.cli.models import load_model, next_token_model_of
from seqdomains.cli.sound_config import SoundPretrainConfig
from seqdomains.kernels.token_draw import Sampling
from seqdomains.pipelines.borrowed import deterministic, thread_count
from seqdomains.pipelines.generate import _draws, _read, _Writer, generate_blocks

Clock = Callable[[], float]
REAL_TIME = 16_000
SILENCE = np.array([128], np.uint8)
CHECKED = 400
ROWS = (1, 16, 64)
PRESETS = ("codes-small", "piano-small", "piano-3m")
SAMPLINGS = {"as it is": Sampling(), "top-k 100, top-p 0.98": Sampling(top_k=100, top_p=0.98)}


def check(model: MambaLM, device: str) -> None:
    """Compare steps with the parallel forward pass, and a graph with launches."""
    tokens = torch.randint(256, (3, CHECKED), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        whole = model(tokens)
        _, state = model(tokens[:, :100], return_state=True)
        stepper = Stepper(model, state, rows=3)
        found = torch.stack([stepper(tokens[:, at]) for at in range(100, CHECKED)], 1)
    worst = ((found - whole[:, 100:]).abs().max() / whole.abs().max()).item()
    print(f"logits of steps and of one pass differ by {worst:.1e} of the largest")
    if not worst < 1e-3:
        raise SystemExit("the steps say something else: their time means nothing")
    if device == "cuda":
        one, other = (
            np.concatenate([block.tokens for block in generate_blocks(
                model, SILENCE, length=2000, count=64, graph=graph, device=device, progress=False
            )], axis=1)
            for graph in (False, True)
        )  # fmt: skip
        if not np.array_equal(one, other):
            raise SystemExit("the graph writes something else: its time means nothing")


def time_rows(
    model: MambaLM, rows: int, device: torch.device, clock: Clock, *, graph: bool, sampling: Sampling
) -> float:
    """Return samples a second of steps with their draws."""
    with deterministic(), torch.inference_mode(), thread_count(1):
        logits, state, _ = _read(model, SILENCE, 1, device, None)
        writer = _Writer(model, state, sampling, (rows, 1024), device, recorded=graph)
        writer.begin(state, logits)
        draws = _draws(0, range(rows), 0, 64)
        writer.write(draws)
        blocks, began = 0, clock()
        while clock() - began < 1.5:
            writer.write(draws)
            blocks += 1
    return rows * blocks * draws.shape[1] / (clock() - began)


def time_all(model: MambaLM, count: int, device: str, clock: Clock, seconds: float) -> None:
    """Print what the pipeline writes in a while, and by how much the peak of the memory grew behind its first block."""
    blocks = generate_blocks(model, SILENCE, length=1 << 40, count=count, device=device, progress=False)
    next(blocks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    written, began = 0, clock()
    while clock() - began < seconds:
        written += next(blocks).tokens.size
    speed = written / (clock() - began)
    blocks.close()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(
        f"batch {count}, {device}: {speed:,.0f} samples/s, {speed / count / REAL_TIME:.3f} of real time each, "
        f"{speed / REAL_TIME:.2f} in all; {written:,} written, peak memory grew by {grown:.1f} MiB"
    )


def time_model(name: str, model: MambaLM, device: str, clock: Clock, seconds: float) -> None:
    print(f"{name}: {sum(one.numel() for one in model.parameters()):,} parameters")
    model.to(device).eval()
    check(model, device)
    for label, sampling in SAMPLINGS.items():
        for graph in (False, True) if device == "cuda" else (False,):
            place = torch.device(device)
            speeds = (time_rows(model, rows, place, clock, graph=graph, sampling=sampling) for rows in ROWS)
            found = "; ".join(f"{rows} rows {speed:,.0f}" for rows, speed in zip(ROWS, speeds, strict=True))
            print(f"steps, {label}, {device}{', CUDA graph' if graph else ''}, samples/s: {found}")
    for count in (1, 64):
        time_all(model, count, device, clock, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a run folder or an artefact of `seqdomains audio pretrain`")
    parser.add_argument("--preset", action="append", help="sizes of an untrained model; repeatable")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of the whole pipeline")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processor-time", action="store_true", help="count no time in which others have the core")
    given = parser.parse_args()
    if given.processor_time and given.device != "cpu":
        raise SystemExit("--processor-time: a GPU works while the processor waits")
    clock = time.process_time if given.processor_time else time.perf_counter
    if given.model is not None:
        loaded = load_model(given.model, device=torch.device(given.device), check=input_of)
        time_model(str(given.model), next_token_model_of(loaded), given.device, clock, given.seconds)
        return
    for preset in given.preset or PRESETS:
        model = MambaLM(resolve(SoundPretrainConfig, preset=preset).config.backbone())
        time_model(f"untrained, preset {preset}", model, given.device, clock, given.seconds)


if __name__ == "__main__":
    main()
