"""Three questions to language models of DNA, one command each that can be stopped and repeated until its table stands.

Run ``python -m benchmarks.dna_models QUESTION --out DIR``; ``--device cpu --small`` shows in a minute or two what it
does. Every number comes from `genomics pretrain`, `train` and `finetune`, whose logs lie in DIR. Exit code 75 says that
the ``--minutes`` of a session are over: the same command goes on (see `benchmarks.stages`).

bits
    How many bits a base takes: one model for each window from 2^10 to 2^16 bp, all of as many bases a step and as many
    steps, and one of both sides that is asked hidden bases; beside each the interpolated Markov model and the
    frequencies of the bases, on the same held-out bases. SIMULATED great apes, 96 Mb to train on.
transfer
    What pretraining is worth to a classifier: great apes from scratch, the same preset on the backbone of a language
    model that read the same training chromosomes, that with its backbone kept, 6-mers and the marker oracle.
    SIMULATED.
enm002
    Whether a model falls below the Markov model on real DNA, human and chimpanzee ENm002 of ``$SEQDOMAINS_DATA``. Sizes
    and steps are chosen on 90 kb beside the test part (the same of both species), which is neither trained on nor
    tested; the best of them is trained with the preset's own split and tested once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.stages import Stages, hardware, parser_of, result_of

Settings = Mapping[str, object]

# Bases of the test windows in all, so that long windows are not judged on more.
TESTED = 1 << 22
# ENm002 in both species, from 0: unique 32-mers put human base 700,000 beside chimpanzee base 697,938, and 790,000
# beside 793,044. The rest as in the preset `encode-enm002`; 10 kb beside each part are left out.
PARTS = {
    "train": [("human_ENm002_0", 0, 700_000), ("chimp_ENm002_0", 0, 697_938)],
    "valid": [("human_ENm002_0", 700_000, 790_000), ("chimp_ENm002_0", 697_938, 793_044)],
    "test": [("human_ENm002_0", 800_000, 1_000_000), ("chimp_ENm002_0", 803_025, 1_005_278)],
}


def options_of(settings: Settings) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def simulate(stages: Stages, seed: int, *, length: int, density: float, chromosomes: str) -> Path:
    genomes = stages.out / "genomes"
    simulation = {"chromosomes": chromosomes, "chromosome_length": length, "density": density, "seed": seed}
    settings = options_of({f"data.simulation.{key}": value for key, value in simulation.items()})
    stages.command("simulate", "genomics", "simulate", "--out", genomes, *settings, on_device=False)
    return genomes


def pretrain(stages: Stages, name: str, data: Path, preset: str, settings: Settings, *more: object) -> None:
    run = stages.out / name
    given = ("--data", data, *more, "--preset", preset, "--out", run)
    stages.command(name, "genomics", "pretrain", *given, *options_of(settings))


def bits_row(stages: Stages, name: str) -> tuple[str, ...]:
    found = result_of(stages.out / name)
    references = {one["name"].split(" interp")[0]: one["bits"] for one in found["baselines"]}
    markov = next((f"{bits:.4f} ({one})" for one, bits in references.items() if one.startswith("order-")), "")
    error = found["standard_error"] or 0.0
    frequencies = f"{references.get('frequencies of the bases', float('nan')):.4f}"
    asked = f"{found['positions']:,}"
    return name, f"{found['bits']:.4f} ± {error:.4f}", markov, frequencies, asked, f"{stages.seconds[name]:.0f}"


def bits(stages: Stages, seed: int, *, small: bool) -> Iterable[tuple[str, ...]]:
    """Yield the table of `bits`, after its header."""
    length, chromosomes = (60_000, "[2,5]") if small else (4_000_000, "[2,4,6,8,5,7]")
    genomes = simulate(stages, seed, length=length, density=1, chromosomes=chromosomes)
    windows = (256, 1024) if small else (1 << 10, 1 << 12, 1 << 14, 1 << 16)
    preset = "pretrain-tiny" if small else "pretrain-gpu"
    steps = {"train.steps": 60, "train.batch_tokens": 4096} if small else {}
    tested = 1 << 14 if small else TESTED
    names = []
    for window in windows:
        asked = {"data.window": window, "data.test_windows": tested // window, "train.length_warmup": "[]"}
        pretrain(stages, f"next-{window}", genomes, preset, {**steps, **asked, "train.seed": seed})
        names.append(f"next-{window}")
    asked |= {"data.window": windows[0], "data.test_windows": tested // windows[0]}
    masked = {"objective": "masked", "model.bidirectional": "true"}
    pretrain(stages, f"masked-{windows[0]}", genomes, preset, {**steps, **asked, **masked, "train.seed": seed})
    yield "asked, window", "bits", "Markov, both strands", "frequencies", "bases asked", "seconds"
    for name in (*names, f"masked-{windows[0]}"):
        yield bits_row(stages, name)


def draw(runs: Path, path: Path) -> None:
    """Draw the bits of next-base models over their windows, beside the Markov model on the same bases."""
    from matplotlib.figure import Figure

    windows = sorted(int(one.name.removeprefix("next-")) for one in runs.glob("next-*/"))
    found = [result_of(runs / f"next-{window}") for window in windows]
    markov = [next(one["bits"] for one in result["baselines"] if one["name"].startswith("order-")) for result in found]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    errors = [result["standard_error"] or 0.0 for result in found]
    axes.errorbar(windows, [result["bits"] for result in found], errors, fmt="o-", capsize=3, label="model")
    axes.plot(windows, markov, "s--", label="order-12 interpolated Markov model")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="window (bp)", ylabel="bits a base", title="SIMULATED great apes, held-out chromosomes")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path)


def transfer(stages: Stages, seed: int, *, small: bool) -> Iterable[tuple[str, ...]]:
    """Yield the table of `transfer`, after its header."""
    length, density, chromosomes = (20_000, 256, "[2,5]") if small else (2_000_000, 64, "[2,4,6,8,5,7]")
    genomes = simulate(stages, seed, length=length, density=density, chromosomes=chromosomes)
    preset, classifier = ("pretrain-tiny", "tiny") if small else ("pretrain-gpu", "great-apes-gpu")
    pretrain(stages, "language-model", genomes, preset, {"train.seed": seed})
    data = ("--species", "great-apes", "--data", genomes, "--preset", classifier)
    seeded = options_of({"train.seed": seed, "data.simulation": "null"})
    ways = {
        "scratch": ("train", *data),
        "finetuned": ("finetune", stages.out / "language-model", *data),
        "finetuned-tenth": ("finetune", stages.out / "language-model", *data, "--set", "train.backbone_lr_scale=0.1"),
        "head-only": ("finetune", stages.out / "language-model", *data, "--head-only"),
    }
    for name, words in ways.items():
        stages.command(name, "genomics", *words, *seeded, "--out", stages.out / name)
    yield "model", "accuracy (95 %)", "macro F1", "6-mers", "oracle", "chance", "seconds"
    for name in ways:
        found = result_of(stages.out / name)
        low, high = found["interval"]
        oracle = "" if found["ceiling"] is None else f"{found['ceiling']:.3f}"
        kmers = "" if found["baseline"] is None else f"{found['baseline']['accuracy']:.3f}"
        seconds = stages.seconds[name] + (stages.seconds["language-model"] if name != "scratch" else 0)
        accuracy = f"{found['accuracy']:.3f} ({low:.3f} to {high:.3f})"
        yield name, accuracy, f"{found['macro_f1']:.3f}", kmers, oracle, f"{found['chance']:.3f}", f"{seconds:.0f}"


def enm002(stages: Stages, seed: int, *, small: bool) -> Iterable[tuple[str, ...]]:
    """Yield the table of `enm002`, after its header."""
    root = os.environ.get("SEQDOMAINS_DATA")
    if root is None:
        raise SystemExit("SEQDOMAINS_DATA is not set: it names the folder with encode-ENm002")
    data = Path(root) / "encode-ENm002"
    parts = stages.out / "parts.bed"
    rows = (f"{contig}\t{start}\t{end}\t{name}\n" for name, rows in PARTS.items() for contig, start, end in rows)
    parts.write_text("".join(rows))
    tried = (
        {"16x1-40": (16, 1, 40, 4096, 4e-3), "16x1-80": (16, 1, 80, 4096, 4e-3)}
        if small
        else {
            "64x4-3000": (64, 4, 3_000, 8_192, 4e-3),
            "64x4-6000": (64, 4, 6_000, 8_192, 4e-3),
            "64x8-3000": (64, 8, 3_000, 8_192, 4e-3),
            "128x6-1500": (128, 6, 1_500, 8_192, 3e-3),
            "128x6-3000": (128, 6, 3_000, 8_192, 3e-3),
            "192x8-2000": (192, 8, 2_000, 8_192, 2e-3),
        }
    )
    preset = "encode-enm002"
    window = {"data.window": 1024, "train.length_warmup": "[]"} if small else {}
    configurations = {}
    for name, (width, blocks, steps, tokens, rate) in tried.items():
        configurations[name] = {
            "model.d_model": width, "model.n_layer": blocks, "train.steps": steps, "train.batch_tokens": tokens,
            "train.lr": rate, "train.seed": seed, "train.checkpoint_every": 500, **window,
        }  # fmt: skip
        choice = {"data.held": "[]", "data.split": "named", "data.part": "valid"}
        pretrain(
            stages, f"valid-{name}", data, preset, {**configurations[name], **choice}, "--regions", parts.absolute()
        )
    best = min(tried, key=lambda name: result_of(stages.out / f"valid-{name}")["bits"])
    pretrain(stages, f"test-{best}", data, preset, configurations[best])
    yield "part, width x blocks, steps", "bits", "Markov, both strands", "frequencies", "bases asked", "seconds"
    for name in (*(f"valid-{name}" for name in tried), f"test-{best}"):
        yield bits_row(stages, name)


QUESTIONS: Mapping[str, tuple[Callable[..., Iterable[tuple[str, ...]]], str]] = {
    "bits": (bits, "SIMULATED great apes"),
    "transfer": (transfer, "SIMULATED great apes"),
    "enm002": (enm002, "real: ENCODE ENm002, human and chimpanzee"),
}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--figure", type=Path, help="SVG or PNG of `bits`")
    given = parser.parse_args()
    if given.figure is not None and given.question != "bits":
        parser.error("--figure is of the question bits")
    stages = Stages(given.out, minutes=given.minutes, device=given.device)
    answer, data = QUESTIONS[given.question]
    header, *rows = answer(stages, given.seed, small=given.small)
    print(f"{data}; {hardware(given.device)}; seed {given.seed}{'; small: learns next to nothing' * given.small}")
    print(f"{sum(stages.seconds.values()):.0f} s in all")
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    if given.figure is not None:
        draw(given.out, given.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
