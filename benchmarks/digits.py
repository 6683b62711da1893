"""Train on spoken digits and test on held-out takes or on each speaker in turn, beside MFCC and an SVM.

Run ``python -m benchmarks.digits`` with the recordings of FSDD in ``$SEQDOMAINS_DATA/fsdd/recordings``. Each split is
one ``audio train``, and all further options are passed to it, such as ``--preset digits --set train.seed=1``. The runs
lie in ``--out``: the repeated command goes on with what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

SPLITS = {
    "takes 0 to 4": '{take: ["0", "1", "2", "3", "4"]}',
    **{name: f"{{speaker: [{name}]}}" for name in ("george", "jackson", "nicolas", "yweweler")},
}


def result(folder: Path, data: Path, held: str, options: list[str]) -> dict:
    """Return the evaluation of a run, which is done first if it is not there."""
    if not (folder / "evaluation.json").exists():
        command = [sys.executable, "-m", "seqdomains", "audio", "train", "--data", data, "--label-from"]
        command += ["name:{label}_{speaker}_{take}", "--set", f"data.held={held}", "--out", folder, *options]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "evaluation.json").read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; one for each set of options")
    parser.add_argument("--splits", nargs="*", choices=SPLITS, default=list(SPLITS))
    arguments, options = parser.parse_known_args()
    data = os.environ.get("SEQDOMAINS_DATA")
    if data is None:
        print("SEQDOMAINS_DATA is not set: it names the folder with fsdd/recordings")
        return 1
    options = options if "--preset" in options else ["--preset", "digits-mel", *options]
    print(" ".join(options))
    print("held out        right    95 % interval     MFCC + SVM  seconds")
    found = []
    for name in arguments.splits:
        began = time.perf_counter()
        one = result(arguments.out / name.split()[0], Path(data) / "fsdd" / "recordings", SPLITS[name], options)
        low, high = one["interval"]
        found.append((one["accuracy"], one["baseline"]["accuracy"]))
        taken = time.perf_counter() - began
        print(
            f"{name:14} {one['accuracy']:6.3f}   {low:.3f} to {high:.3f}   {found[-1][1]:10.3f} {taken:8.0f}",
            flush=True,
        )
    speakers = [pair for name, pair in zip(arguments.splits, found, strict=True) if name.isalpha()]
    if speakers:
        model, baseline = (sum(values) / len(speakers) for values in zip(*speakers, strict=True))
        print(f"mean of {len(speakers)} speakers: {model:.3f}, MFCC + SVM {baseline:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
