"""DNA barcoding on real mitochondrial genomes: train on the five references, name the species of other individuals.

Run ``SEQDOMAINS_DATA=... python -m benchmarks.barcode``: it gives the README's second example to the command line, then
prints the accuracy per species and its mean over species at three widths, beside those of a vote of 15-mers.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seqdomains.genomics.kmers import KmerVote
from seqdomains.genomics.labels import header_value
from seqdomains.genomics.records import stream_records

WIDTHS = (64, 128, 256)


def seqdomains(*arguments: str) -> None:
    """Run the command line as a user would."""
    subprocess.run([sys.executable, "-m", "seqdomains", *arguments], check=True)


def main() -> None:
    """Train, predict, print."""
    folder = Path(os.environ["SEQDOMAINS_DATA"]) / "apes-mtdna"
    references, others = folder / "refs.fasta", folder / "other_individuals.fasta"
    with tempfile.TemporaryDirectory() as scratch:
        run = f"{scratch}/barcode"
        begin = time.perf_counter()
        seqdomains(
            *("genomics", "train", "--data", str(references), "--label-from", "header:species"),
            *("--preset", "barcode", "--out", run),
        )
        print(f"train: {time.perf_counter() - begin:.0f} s with everything, {os.cpu_count()} cores")
        for width in WIDTHS:
            table = Path(scratch) / f"{width}.tsv"
            seqdomains(
                *("genomics", "predict", run, str(others)),
                *("--window", str(width), "--stride", str(width), "-o", str(table)),
            )
            report(width, table, references, others)


def report(width: int, table: Path, references: Path, others: Path) -> None:
    """Print the accuracies of one table of predictions and of the vote on the same windows."""
    truth, sequences = {}, {}
    for record in stream_records(others):
        truth[record.name] = header_value(record.description, "species")
        sequences[record.name] = record.codes()
    vote = KmerVote({str(header_value(r.description, "species")): [r.codes()] for r in stream_records(references)})
    with table.open(newline="") as handle:
        rows = list(csv.reader(handle, delimiter="\t"))[1:]
    voted = vote.predict([sequences[record][int(start) : int(end)] for record, start, end, *_ in rows])
    right: dict[str, list[tuple[bool, bool]]] = {}
    for (record, _, _, predicted, *_), named in zip(rows, voted, strict=True):
        right.setdefault(truth[record], []).append((predicted == truth[record], named == truth[record]))
    for who, column in (("model", 0), ("15-mer vote", 1)):
        shares = {species: sum(hit[column] for hit in hits) / len(hits) for species, hits in right.items()}
        each = ", ".join(f"{species} {share:.3f}" for species, share in shares.items())
        print(f"{width:>4} bp  {who:<12} macro {sum(shares.values()) / len(shares):.4f}  ({each})")


if __name__ == "__main__":
    main()
