"""Bits a sample against the length of training windows, and complex states against real ones, on piano.

``python -m benchmarks.piano --data FOLDER --out RUNS`` pretrains the same model on windows of several lengths, with as
many samples a step and as many steps, for each seed and kind of state, and scores all on the same held-out clips. It
does so for ``--minutes`` and then prints what there is; the repeated command goes on, to the same result. FOLDER is of
``audio synthesize --kind piano`` or packed by `benchmarks.piano_data`. ``--throughput`` times training steps instead.

Two figures are given of each model. The first has the state carried through each clip; the second forgets all at the
beginning of each window of the length that the model was trained on, as it did in training. Differences are paired:
clip by clip and seed by seed; the standard error is that of a mean over both, crossed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.piano_data import REFERENCES, unpack
from seqdomains.audio.code_task import CodeTask
from seqdomains.audio.synthesis.write import MANIFEST, RECORD
from seqdomains.backbone import MambaLM
from seqdomains.cli.config import resolve
from seqdomains.cli.models import choose_device
from seqdomains.cli.sound_config import SoundPretrainConfig
from seqdomains.errors import ConfigError
from seqdomains.pipelines.bits import BitsConfig, window_costs
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.environment import session_facts
from seqdomains.pipelines.interrupts import StoppedError
from seqdomains.pipelines.metrics import read_metrics
from seqdomains.pipelines.objectives import NextToken
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train
from seqdomains.task import Windows

SCORES = "clips.json"
# Samples of all clips on the device at once while they are scored: 0.25 GiB of logits.
AT_ONCE = 1 << 18


class OutOfTimeError(Exception):
    """The minutes are over."""


class Run(NamedTuple):
    """A model that is trained: kind of state (None: the preset's), window in samples, seed."""

    states: str | None
    window: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.states or 'preset'}-{self.window}-{self.seed}"


class HeldClips:
    """The held-out clips of a task: whole, or cut into windows before each of which all is forgotten."""

    ignored = None

    def __init__(self, task: CodeTask, window: int | None = None) -> None:
        self._pad, self._window = task.input.pad, window
        batches = list(task.test_batches(1))
        self.clips = [row[1:end] for batch in batches for row, end in zip(batch.tokens, batch.lengths, strict=True)]

    def pieces(self, clip: np.ndarray) -> list[np.ndarray]:
        """Return what a clip is scored in."""
        step = self._window or len(clip)
        return [clip[start : start + step] for start in range(0, len(clip), step)]

    def test_batches(self, batch_size: int) -> Iterator[Windows]:
        """Yield all clips side by side, or as many short windows as have AT_ONCE samples."""
        rows = [piece for clip in self.clips for piece in self.pieces(clip)]
        together = len(self.clips) if self._window is None else max(1, AT_ONCE // self._window)
        for first in range(0, len(rows), together):
            some = rows[first : first + together]
            tokens = np.full((len(some), 1 + max(map(len, some))), self._pad, np.uint8)
            for row, codes in zip(tokens, some, strict=True):
                row[1 : 1 + len(codes)] = codes
            yield Windows(tokens, np.array([1 + len(codes) for codes in some]))

    def bits(self, model: MambaLM, device: torch.device) -> list[float]:
        """Return what each clip costs a sample."""
        config = BitsConfig(tokens_at_once=AT_ONCE if device.type == "cuda" else 1 << 16)
        nats, _ = window_costs(model, self, config, device=device)
        ends = np.cumsum([len(self.pieces(clip)) for clip in self.clips])
        sums = [part.sum() for part in np.split(nats, ends[:-1])]
        return [float(cost / np.log(2) / len(clip)) for cost, clip in zip(sums, self.clips, strict=True)]


def config_of(run: Run, arguments: argparse.Namespace) -> SoundPretrainConfig:
    settings = [
        f"train.batch_tokens={arguments.samples}",
        f"train.steps={arguments.steps}",
        f"train.seed={run.seed}",
        "train.checkpoint_every=50",
        "train.keep=1",
        *([] if run.states is None else [f"model.states={run.states}"]),
        *arguments.set,
    ]
    rate = resolve(SoundPretrainConfig, preset=arguments.preset, settings=settings).config.input.rate
    given = {
        "data.paths": ([str(arguments.data / MANIFEST)], "--data"),
        "data.seconds": (run.window / rate, "--windows"),
    }
    return resolve(SoundPretrainConfig, preset=arguments.preset, settings=settings, given=given).config


def trained(run: Run, task: CodeTask, config: SoundPretrainConfig, out: Path, device: torch.device) -> dict:
    """Train a model, or what is left of it, and score it; a run that is scored already is read."""
    folder = RunFolder.prepare(out / run.name, config.model_dump(mode="json"))
    scores = folder.path / SCORES
    if scores.exists():
        return json.loads(scores.read_text())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with seeded(config.train.seed, device=device):
        model = MambaLM(config.backbone())
    train(model, task, config.train, folder, objective=NextToken(task.ignored), device=device)
    began = time.perf_counter()
    rows = read_metrics(folder.metrics)
    found = {
        "bits": HeldClips(task).bits(model, device),
        "fresh": HeldClips(task, run.window).bits(model, device),
        "parameters": sum(one.numel() for one in model.parameters()),
        "training_seconds": rows[-1]["seconds"],
        "samples": rows[-1]["step"] * task_samples(config, run.window),
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in rows[len(rows) // 4 :]),
        "gib": max((row.get("memory_mib", 0) for row in rows), default=0) / 1024,
        "scoring_seconds": time.perf_counter() - began,
    }
    partial = scores.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.rename(scores)
    return found


def task_samples(config: SoundPretrainConfig, window: int) -> int:
    return config.train.windows(window) * window


def mean_and_error(values: np.ndarray) -> tuple[float, float | None]:
    """Return the mean of values, shape (clips, seeds), and its standard error by how clips and seeds differ.

    Of a crossed design: the variances of the means of clips and of seeds both have that of what is left in them. None
    with a single clip; of a single seed, that seeds differ is left out.
    """
    clips, seeds = values.shape
    if clips < 2:
        return float(values.mean()), None
    over_clips = values.mean(1).var(ddof=1) / clips
    if seeds < 2:
        return float(values.mean()), float(np.sqrt(over_clips))
    over_seeds = values.mean(0).var(ddof=1) / seeds
    rest = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    both = (rest**2).sum() / ((clips - 1) * (seeds - 1)) / (clips * seeds)
    return float(values.mean()), float(np.sqrt(max(over_clips + over_seeds - both, over_clips, over_seeds)))


def shown(values: np.ndarray, *, sign: bool = False) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:{'+' if sign else ''}.4f}" + ("" if error is None else f" ({2 * error:.4f})")


def print_table(done: dict[Run, dict], arguments: argparse.Namespace, kinds: list[str | None]) -> None:
    def values(states: str | None, window: int, seeds: list[int], key: str) -> np.ndarray:
        return np.array([done[Run(states, window, seed)][key] for seed in seeds]).T

    def seeds_of(*cases: tuple[str | None, int]) -> list[int]:
        return [s for s in range(arguments.seeds) if all(Run(*case, s) in done for case in cases)]

    def less(one: tuple[str | None, int], other: tuple[str | None, int], key: str) -> str:
        """Return by how much `one` lies above `other`, clip by clip and seed by seed."""
        seeds = seeds_of(one, other)
        return f"{shown(values(*one, seeds, key) - values(*other, seeds, key), sign=True)} bits, {len(seeds)} seeds"

    heads = ("states", "window", "seeds", "bits, state carried (2 SE)", "bits, fresh each window (2 SE)")
    print_row(*heads, "M samples read", "M samples/s", "GiB", "s", head=True)
    for states in kinds:
        for window in arguments.windows:
            if not (seeds := seeds_of((states, window))):
                continue
            mine = [done[Run(states, window, seed)] for seed in seeds]
            rate = statistics.median(one["tokens_per_s"] for one in mine) / 1e6
            taken = statistics.mean(one["training_seconds"] for one in mine)
            print_row(
                states or "of the preset",
                f"{window:,}",
                str(len(seeds)),
                *(shown(values(states, window, seeds, key)) for key in ("bits", "fresh")),
                f"{mine[0]['samples'] / 1e6:.4g}",
                f"{rate:.3f}",
                f"{mine[0]['gib']:.2f}",
                f"{taken:.0f}",
            )
    short, long = min(arguments.windows), max(arguments.windows)
    for states in kinds:
        ends = ((states, long), (states, short))
        if short < long and seeds_of(*ends):
            for key, how in (("bits", "state carried"), ("fresh", "fresh each window")):
                print(f"{states or 'preset'}: {long:,} less {short:,}, {how}: {less(*ends, key)}")
    for window in arguments.windows:
        pair = (("complex", window), ("real", window))
        if seeds_of(*pair):
            for key, how in (("bits", "state carried"), ("fresh", "fresh each window")):
                print(f"{window:,}: complex less real, {how}: {less(*pair, key)}")


def draw(done: dict[Run, dict], path: Path) -> None:
    """Draw bits over the windows of training, of each kind of state and both ways of scoring."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle("RENDERED piano, held-out clips, as many samples read by each")
    places = figure.subplots(1, 2)
    for axes, key, title in zip(places, ("fresh", "bits"), ("fresh each window", "state carried"), strict=True):
        for states in dict.fromkeys(run.states for run in done):
            windows = sorted({run.window for run in done if run.states == states})
            means = [
                statistics.mean(statistics.mean(one[key]) for run, one in done.items() if run[:2] == (states, window))
                for window in windows
            ]
            (line,) = axes.plot(windows, means, label=states or "the preset's")
            runs = [(run.window, statistics.mean(one[key])) for run, one in done.items() if run.states == states]
            axes.plot(*zip(*runs, strict=True), "o", color=line.get_color(), ms=4)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="window of training (samples)", ylabel="bits a sample", title=title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(title="states; a dot is a seed")
    figure.savefig(path)


def print_row(*cells: str, head: bool = False) -> None:
    print(f"| {' | '.join(cells)} |" + (f"\n|{' --- |' * len(cells)}" if head else ""), flush=True)


def print_machine(device: torch.device) -> None:
    facts = session_facts(device)
    names = ("device", "cpu", "cores", "threads", "python", "torch", "triton", "commit")
    print(", ".join(f"{name} {facts[name]}" for name in names if facts.get(name)))


def compare(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train and score what there is time for, and print it."""
    kinds: list[str | None] = arguments.states or [None]
    ends = (min(arguments.windows), max(arguments.windows))
    # Of each seed first what the difference is of.
    order = sorted(arguments.windows, key=lambda window: (window not in ends, window))
    runs = [Run(states, window, seed) for seed in range(arguments.seeds) for states in kinds for window in order]
    configs = {run: config_of(run, arguments) for run in runs}
    read = {run.window: task_samples(config, run.window) for run, config in configs.items()}
    if len(set(read.values())) > 1:
        raise SystemExit(f"--samples {arguments.samples}: steps of windows read {read}; give a multiple of all windows")
    tasks: dict[int, CodeTask] = {}
    done: dict[Run, dict] = {}
    try:
        for run in runs:
            config = configs[run]
            if run.window not in tasks:
                tasks[run.window] = CodeTask(config.data, config.input)
            done[run] = trained(run, tasks[run.window], config, arguments.out, device)
    except (OutOfTimeError, StoppedError):
        left = ", ".join(run.name for run in runs if run not in done)
        print(f"the {arguments.minutes:g} minutes are over; repeat the command to go on with {left}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not done:
        return
    config, one = configs[runs[0]], next(iter(done.values()))
    print(
        f"preset {arguments.preset} {' '.join(arguments.set)}: {one['parameters']:,} parameters, {arguments.steps} "
        f"steps of {read[ends[0]]:,} samples, learning rate {config.train.lr:g}, precision {config.train.precision}"
    )
    print(f"RENDERED piano; {len(one['bits'])} held-out clips, the same for all; in brackets 2 SE over clips and seeds")
    print_table(done, arguments, kinds)
    if arguments.figure is not None:
        draw(done, arguments.figure)
    if (references := arguments.source / REFERENCES).exists():
        bits = json.loads(references.read_text())["bits"]
        print("on the same clips: " + ", ".join(f"{name} {value:.3f}" for name, value in bits.items()))


def throughput(arguments: argparse.Namespace, device: torch.device) -> None:
    """Time training steps of the longest windows and of eight that are an eighth as long, reading of data included."""
    recompute, chunks = "train.recompute=true", f"train.time_chunk={arguments.long // 8}"
    cases: list[tuple[int, int, int, tuple[str, ...]]] = [(arguments.short, 8, 20, how) for how in ((), (recompute,))]
    cases += [(arguments.long, 1, 101, how) for how in ((), (recompute,), (chunks,), (recompute, chunks))]
    heads = ("window x batch", "how", "steps", "first step, s", "M samples/s", "GiB")
    print_row(*heads, "loss of the first ten steps (nats)", "of the last ten", head=True)
    for window, batch, steps, how in cases:
        said = ", ".join(one.removeprefix("train.") for one in how) or "whole"
        own = argparse.Namespace(**vars(arguments))
        own.samples, own.steps = window * batch, min(steps, arguments.steps)
        own.set = [*arguments.set, "train.log_every=1", "train.checkpoint_every=1000000", *how]
        config = config_of(Run(None, window, 0), own)
        name = f"throughput-{window}x{batch}-{said.replace(', ', '-').replace('=', '-')}"
        folder = RunFolder.prepare(arguments.out / name, config.model_dump(mode="json"))
        try:
            rows = read_metrics(folder.metrics) if folder.complete else stepped(config, folder, device)
        except ConfigError as error:
            print_row(f"{window:,} x {batch}", said, str(error).splitlines()[0])
            continue
        except (OutOfTimeError, StoppedError):
            print("the minutes are over; repeat the command to go on")
            return
        rate = statistics.median(row["tokens_per_s"] for row in rows[len(rows) // 4 :]) / 1e6
        print_row(
            f"{window:,} x {batch}",
            said,
            str(len(rows)),
            f"{rows[0]['seconds']:.1f}",
            f"{rate:.3f}",
            f"{max(row.get('memory_mib', 0) for row in rows) / 1024:.2f}",
            *(f"{statistics.mean(row['loss'] for row in some):.3f}" for some in (rows[:10], rows[-10:])),
        )


def stepped(config: SoundPretrainConfig, folder: RunFolder, device: torch.device) -> list[dict]:
    """Train and return what was logged of each step."""
    task = CodeTask(config.data, config.input)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with seeded(config.train.seed, device=device):
        model = MambaLM(config.backbone())
    train(model, task, config.train, folder, objective=NextToken(task.ignored), device=device)
    return read_metrics(folder.metrics)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="rendered piano, packed or not")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, with which the command goes on")
    parser.add_argument("--windows", type=int, nargs="+", default=[1 << 13, 1 << 17], help="samples, such as 958464")
    parser.add_argument("--states", choices=("real", "complex"), nargs="*", help="the preset's if not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="piano-3m")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--samples", type=int, default=1 << 19, help="of a step; a multiple of all windows")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--device")
    parser.add_argument("--figure", type=Path, help="SVG or PNG of bits over windows")
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--short", type=int, default=122_880, help="of --throughput: samples of each of eight windows")
    parser.add_argument("--long", type=int, default=958_464, help="of --throughput: samples of the longest window")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)

    def over(signum, frame):
        raise OutOfTimeError

    # While a model is trained the pipeline's own handler takes the signal: it saves and leaves.
    signal.signal(signal.SIGTERM, over)
    timer = threading.Timer(60 * arguments.minutes, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    began = time.perf_counter()
    arguments.source = arguments.data
    if "packed" in json.loads((arguments.data / RECORD).read_text()):
        arguments.data = arguments.out / "clips"
        unpack(arguments.source, arguments.data)
    print_machine(device)
    (throughput if arguments.throughput else compare)(arguments, device)
    print(f"{time.perf_counter() - began:.0f} s in this call")
    return 0


if __name__ == "__main__":
    sys.exit(main())
