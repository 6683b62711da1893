"""Time `genomics predict --out` from bgzipped FASTA to Parquet, beside a plain loop over torch's DataLoader.

Run ``python -m benchmarks.batch``. The bases are random and the model is untrained (SIMULATED input: only the speed
means anything): the paper's classifier of 1.4 M parameters, 128 x 12, on windows of 2^14. Prints million bases a second
for the whole command, planning and table included, and for the computing alone; the share of the time in which the GPU
computes, from torch's profiler in a run of its own; and with ``--scaling`` what a second worker gains.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pysam
import torch
from torch.utils.data import DataLoader, Dataset

from seqdomains.backbone import MambaConfig, SequenceClassifier, from_pretrained
from seqdomains.cli.batch import Asked
from seqdomains.cli.batch_plan import BatchOptions
from seqdomains.cli.species import run_batch
from seqdomains.genomics.alphabet import SIGNATURE, encode, reverse_complement
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import stream_fasta

RECORDS = 8
LINE = 60


def write_record(path: Path, number: int, bases: int) -> None:
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(number).integers(0, 4, bases)]
    lines = letters[: bases // LINE * LINE].reshape(-1, LINE)
    text = np.concatenate([lines, np.full((len(lines), 1), ord("\n"), np.uint8)], axis=1)
    with pysam.BGZFile(str(path), "wb") as handle:
        handle.write(f">chr{number + 1}\n".encode())
        handle.write(text.tobytes())


def simulate(path: Path, bases: int) -> int:
    """Write random records; returns how many bases they have."""
    parts = [path.with_name(f"{number}.part") for number in range(RECORDS)]
    each = bases // RECORDS // LINE * LINE
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_record, parts, range(RECORDS), [each] * RECORDS))
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as handle:
                shutil.copyfileobj(handle, whole)
            part.unlink()
    return each * RECORDS


def write_model(folder: Path, window: int, width: int, blocks: int) -> None:
    classes = ("human", "chimpanzee", "bonobo", "gorilla", "orangutan")
    generator = torch.Generator().manual_seed(0)
    model = SequenceClassifier(MambaConfig(d_model=width, n_layer=blocks), classes=classes, generator=generator)
    model.save_pretrained(folder, signature={**SIGNATURE, "window": window})


def batch(model: Path, *fasta: Path, out: Path, **options: object) -> tuple[float, dict]:
    """Run the command; returns its seconds and run.json."""
    began = time.perf_counter()
    run_batch(
        Asked("predict"),
        model,
        [str(path) for path in fasta],
        from_file=None,
        regions=None,
        settings=(),
        options=BatchOptions(out=out, **options),
    )
    return time.perf_counter() - began, json.loads((out / "run.json").read_text())


class Windows(Dataset):
    """What one writes in an afternoon: a window is read by position and given to the default collation."""

    def __init__(self, fasta: Path, window: int) -> None:
        self.fasta, self.window = FastaFile(fasta), window
        places = zip(self.fasta.names, self.fasta.lengths, strict=True)
        self.places = [(name, start) for name, length in places for start in range(0, length - window + 1, window)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:
        name, start = self.places[index]
        return torch.from_numpy(self.fasta.codes(name, start, start + self.window).astype(np.int64))


def plain_loop(model: Path, fasta: Path, window: int, device: torch.device, precision: str) -> float:
    """Return bases a second of a plain loop."""
    network = from_pretrained(model, device=device).model.eval()
    windows = Windows(fasta, window)
    loader = DataLoader(windows, batch_size=32, num_workers=2, pin_memory=device.type == "cuda")
    rows, began = [], 0.0
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for number, tokens in enumerate(loader):
            if number == 1:  # the first batch starts the workers
                began = time.perf_counter()
            rows.append(network(tokens.to(device)).softmax(-1).cpu().numpy())
    return (len(windows) - 32) * window / (time.perf_counter() - began)


def tokenizing(fasta: Path) -> str:
    """Time reading and tokenizing, and tokenizing and reverse complement by table alone."""
    began = time.perf_counter()
    bases = sum(piece.size for record in stream_fasta(fasta) for piece in record.code_pieces())
    reading = bases / (time.perf_counter() - began)
    letters = b"ACGT" * (1 << 22)
    began = time.perf_counter()
    codes = encode(letters)
    coding = time.perf_counter() - began
    began = time.perf_counter()
    reverse_complement(codes)
    turning = time.perf_counter() - began
    rates = (reading, codes.size / coding, codes.size / turning)
    return "read and tokenize from bgzip {:.0f} Mb/s, tokenize {:.0f}, reverse complement {:.0f}".format(
        *(rate / 1e6 for rate in rates)
    )


def busy_share(model: Path, fasta: Path, out: Path, **options: object) -> float:
    """Return the share of the computing's time in which a kernel ran."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        _, facts = batch(model, fasta, out=out, **options)
    busy = sum(event.self_device_time_total for event in found.key_averages()) * 1e-6
    return busy / facts["last_session"]["seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabases", type=float, default=200.0)
    parser.add_argument("--window", type=int, default=1 << 14)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--precision", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scaling", action="store_true", help="one and two workers of one thread, or of one GPU, each")
    parser.add_argument("--copies", type=int, default=1, help="of the file, with --scaling")
    arguments = parser.parse_args()
    logging.getLogger("seqdomains").setLevel(logging.ERROR)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, fasta, small = folder / "model", folder / "bases.fa.gz", folder / "small.fa.gz"
        quarter = folder / "quarter.fa.gz"
        write_model(model, arguments.window, arguments.width, arguments.blocks)
        bases = simulate(fasta, int(arguments.megabases * 1e6))
        simulate(small, min(bases, 32 * RECORDS * arguments.window))
        simulate(quarter, bases // 4)
        print(f"{name}, torch {torch.__version__}; SIMULATED: {bases / 1e6:.0f} Mb of random bases, untrained model of "
              f"{arguments.width} x {arguments.blocks}, windows of {arguments.window}")  # fmt: skip
        print(tokenizing(fasta), flush=True)
        if arguments.scaling:
            # Links to one file: as many bases as both workers need to outlast their start.
            files = [folder / f"copy-{number}.fa.gz" for number in range(arguments.copies)]
            for file in files:
                file.symlink_to(fasta)
            return scaling(model, files, bases * len(files), folder, device, arguments.precision[-1])
        for precision in arguments.precision:
            options = {"device": arguments.device, "precision": precision}
            batch(model, small, out=folder / f"warm-{precision}", **options)  # kernels are compiled
            whole, facts = batch(model, fasta, out=folder / f"out-{precision}", **options)
            computing = facts["last_session"]["seconds"]
            text = f"{precision}: {bases / whole / 1e6:.2f} M bases/s with planning and table ({whole:.1f} s), "
            text += f"{bases / computing / 1e6:.2f} computing, {facts['shards']} shards"
            if device.type == "cuda":
                share = busy_share(model, quarter, folder / f"busy-{precision}", **options)
                text += f", GPU busy {share:.0%} of the computing"
            print(text, flush=True)
            rate = plain_loop(model, quarter, arguments.window, device, precision)
            print(f"    plain DataLoader loop {rate / 1e6:.2f} M bases/s", flush=True)
    return 0


def scaling(model: Path, files: list[Path], bases: int, folder: Path, device: torch.device, precision: str) -> int:
    """Time the command with one worker and with two, in all as for a user, and computing alone."""
    found = []
    for workers in (1, 2):
        out = folder / f"workers-{workers}"
        command = [
            sys.executable,
            "-m",
            "seqdomains",
            "genomics",
            "predict",
            model,
            *files,
            "--out",
            out,
            "--threads",
            1,
        ]
        command += ["--workers", workers, "--device", device.type, "--precision", precision]
        began = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        whole = time.perf_counter() - began
        computing = json.loads((out / "run.json").read_text())["last_session"]["seconds"]
        found.append((whole, computing))
        rates = f"{bases / whole / 1e6:.3f} M bases/s in all, {bases / computing / 1e6:.3f} computing"
        print(f"{precision}, {workers} workers: {rates}", flush=True)
    gains = [one / two for one, two in zip(*found, strict=True)]
    print(f"a second worker: {gains[0]:.2f} times as fast in all, {gains[1]:.2f} computing alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
