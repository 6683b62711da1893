"""Coding or not, on real human DNA: pieces of 231 genes' coding sequences against as many of the ENCODE region ENm002.

Run ``SEQDOMAINS_DATA=... python -m benchmarks.coding``: it writes a table of pieces of 120 to 300 bp, with the gene or
the stretch of 20 kb that each is from, gives it to `genomics train`, which holds out whole genes and stretches, and to
`genomics finetune`, which begins with the backbone of a model if one is named (``MODEL``).
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from seqdomains.genomics.alphabet import decode
from seqdomains.genomics.labels import header_value
from seqdomains.genomics.records import stream_records

SHORTEST, LONGEST = 120, 300
STRETCH = 20_000


def write_table(path: Path, data: Path) -> None:
    """Write pieces of coding sequences, and as many random ones of the region, on either strand as they stand."""
    random = np.random.default_rng(0)
    rows = []
    for record in stream_records(data / "apes-nuclear-cds" / "cds_231genes_4species.fasta"):
        if header_value(record.description, "species") != "human":
            continue
        codes, start = record.codes(), 0
        while (length := int(random.integers(SHORTEST, LONGEST + 1))) <= len(codes) - start:
            piece = decode(codes[start : start + length])
            start += length
            if "N" not in piece:  # the region has none: they would tell the class
                rows.append((piece, "coding", record.name))
    region = next(stream_records(data / "encode-ENm002" / "human_chimp_ENm002.fasta")).codes()
    for length, place in zip(random.integers(SHORTEST, LONGEST + 1, len(rows)), random.random(len(rows)), strict=True):
        start = int(place * (len(region) - length))
        rows.append((decode(region[start : start + length]), "region", f"stretch{start // STRETCH}"))
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([("sequence", "label", "origin"), *rows])


def main() -> None:
    """Write the table, train on it, fine-tune on it."""
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "coding.csv"
        write_table(table, Path(os.environ["SEQDOMAINS_DATA"]))
        settings = ("--data", str(table), "--set", "data.group=column:origin", *sys.argv[2:])
        commands = {"train": ("train",)}
        if len(sys.argv) > 1 and sys.argv[1] != "-":
            commands["finetune"] = ("finetune", sys.argv[1])
        for name, command in commands.items():
            begin = time.perf_counter()
            whole = [sys.executable, "-m", "seqdomains", "genomics", *command, *settings, "--out", f"{scratch}/{name}"]
            subprocess.run(whole, check=True)
            print(f"{name}: {time.perf_counter() - begin:.0f} s with everything, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
