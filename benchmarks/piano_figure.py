"""Draw how a language model of sound learned, beside linear prediction, and what it writes, beside a recording.

Run ``python -m benchmarks.piano_figure RUN FIGURE SOUND...`` with a run folder of `audio pretrain` and sound files,
such as the beginning of a held-out clip and what `audio generate` wrote; at most 20 s of each are drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from seqdomains.audio.figures import _draw_spectrum
from seqdomains.audio.files import read
from seqdomains.pipelines.metrics import read_metrics

SECONDS = 20
RATE = 16_000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder with metrics.jsonl and evaluation.json")
    parser.add_argument("figure", type=Path, help="PNG or SVG")
    parser.add_argument("sounds", type=Path, nargs="+")
    arguments = parser.parse_args()
    rows = read_metrics(arguments.run / "metrics.jsonl")
    result = json.loads((arguments.run / "evaluation.json").read_text())
    figure = Figure(figsize=(9, 2.6 * (1 + len(arguments.sounds))), layout="constrained")
    curve, *places = figure.subplots(1 + len(arguments.sounds))
    # Windows may grow while a model is trained.
    windows = np.diff([row["samples"] for row in rows], prepend=0)
    read_so_far = np.cumsum(windows * [row["window"] for row in rows]) / 1e6
    curve.plot(read_so_far, [row["loss"] / np.log(2) for row in rows], lw=0.8, label="training")
    curve.axhline(result["bits"], color="C1", label=f"held-out clips {result['bits']:.2f}")
    for style, one in zip((":", "--", "-."), result["baselines"], strict=False):
        curve.axhline(one["bits"], color="0.4", ls=style, label=f"{one['name']} {one['bits']:.2f}")
    curve.set(xlabel="million samples read", ylabel="bits a sample", ylim=(0, 8))
    curve.legend(fontsize=8)
    for axes, path in zip(places, arguments.sounds, strict=True):
        sound = read(path, rate=RATE, seconds=SECONDS)[0]
        image = _draw_spectrum(axes, sound, RATE)
        axes.set(title=path.stem, ylim=(0, 4000))
        figure.colorbar(image, ax=axes, label="dB of full scale")
    figure.savefig(arguments.figure, dpi=75)
    return 0


if __name__ == "__main__":
    sys.exit(main())
