"""Score mutations of constrained motif instances against neutral ones, on SIMULATED genomes, beside a Markov model.

Run ``python -m benchmarks.constraint --out DIR``, on a CPU with ``--small`` (4 minutes on one core). Genomes are
simulated with motif instances that purifying selection keeps (`seqdomains.genomics.simulate.constraint`), a language
model is pretrained on them, the human-homologous chromosomes 5 and 7 held out, and `genomics score` scores mutations of
those of one species: substitutions that selection would reject, and deletions of one base, each beside a neutral one
with the same three bases, the same change, and nearly the same GC content within 50 bp on either side, outside repeats,
markers and instances. Printed is the area under the ROC curve with a 95 % interval (2,000 bootstrap samples of whole
instances with their neutral partners), and that of an interpolated Markov model of order 12 that counted the same
training chromosomes. The motifs recur: both learn them as words that genomes have, not by comparing species.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.stages import Stages, hardware, parser_of, result_of
from seqdomains.genomics.alphabet import ALPHABET, reverse_complement
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.markov import MarkovModel

SPECIES = "human"
HELD = ("chr5", "chr7")
PER_INSTANCE = 3
CANDIDATES = 20
GC_FLANK = 50
CLEAR = 30  # bp between a neutral place and what is not neutral
MARKOV_FLANK = 64
SAMPLES = 2_000
BASES_OF = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT",
            "V": "ACG", "N": "ACGT"}  # fmt: skip
COMPLEMENT = str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")


@dataclass(frozen=True)
class Mutation:
    """A base at `at` (0-based) of `contig` that becomes `alt`, or is lost where `alt` is None.

    `pair` is its instance's number, which its neutral partner has too.
    """

    contig: str
    at: int
    alt: int | None
    constrained: bool
    pair: int


@dataclass(frozen=True)
class Contig:
    """A held-out chromosome: its bases, where it is neutral, and the GC content around each base."""

    codes: np.ndarray
    neutral: np.ndarray
    gc: np.ndarray


class Row(NamedTuple):
    """A line of one of the simulator's BED files."""

    contig: str
    start: int
    end: int
    name: str
    strand: str


def rows_of(path: Path) -> list[Row]:
    rows = (line.split() for line in path.read_text().splitlines())
    return [Row(contig, int(start), int(end), name, strand) for contig, start, end, name, _, strand in rows]


def read_contig(fasta: FastaFile, name: str, busy: list[Row]) -> Contig:
    length = dict(zip(fasta.names, fasta.lengths, strict=True))[name]
    codes = fasta.codes(name, 0, length)
    neutral = ~fasta.soft_mask(name, 0, length)
    for row in busy:
        if row.contig == name:
            neutral[max(0, row.start - CLEAR) : row.end + CLEAR] = False
    neutral[:2_000] = neutral[-2_000:] = False
    strong = np.concatenate([[0], np.cumsum((codes == 1) | (codes == 2))])
    edges = np.arange(length)
    high, low = np.minimum(edges + GC_FLANK + 1, length), np.maximum(edges - GC_FLANK, 0)
    return Contig(codes, neutral, (strong[high] - strong[low]) / (high - low))


def letters_of(motif: str, strand: str) -> str:
    return motif if strand == "+" else motif.translate(COMPLEMENT)[::-1]


def mutations(genomes: Path, rng: np.random.Generator) -> list[Mutation]:
    """Draw mutations of the constrained instances of the held-out chromosomes, each with a neutral partner."""
    motifs = json.loads((genomes / "simulation.json").read_text())["config"]["constraint"]["motifs"]
    truth = rows_of(genomes / f"constrained.{SPECIES}.bed")
    busy = [*truth, *rows_of(genomes / f"markers.{SPECIES}.bed")]
    fasta = FastaFile(genomes / f"{SPECIES}.fa")
    contigs = {name: read_contig(fasta, name, busy) for name in HELD}
    # Neutral places by the three bases there.
    words = {}
    for name, contig in contigs.items():
        word = 16 * contig.codes[:-2].astype(int) + 4 * contig.codes[1:-1] + contig.codes[2:]
        places = np.flatnonzero(contig.neutral[1:-1])
        order = np.argsort(word[places], kind="stable")
        bounds = np.searchsorted(word[places][order], np.arange(65))
        words[name] = [places[order[low:high]] + 1 for low, high in pairwise(bounds)]

    def partner(name: str, at: int) -> int | None:
        contig = contigs[name]
        word = int(16 * contig.codes[at - 1] + 4 * contig.codes[at] + contig.codes[at + 1])
        if not len(words[name][word]):
            return None
        drawn = rng.choice(words[name][word], CANDIDATES)
        return int(drawn[np.argmin(np.abs(contig.gc[drawn] - contig.gc[at]))])

    found: list[Mutation] = []
    for number, instance in enumerate(truth):
        motif = letters_of(motifs[instance.name], instance.strand)
        if instance.contig not in contigs or instance.end - instance.start != len(motif):
            continue  # of the training part, or an indel has shifted its letters
        codes = contigs[instance.contig].codes
        if not CLEAR < instance.start < len(codes) - CLEAR - len(motif):
            continue
        places = []
        for offset, letter in enumerate(motif):
            at, may = instance.start + offset, BASES_OF.get(letter, letter)
            if ALPHABET[codes[at]] in may:
                places += [(at, alt) for alt in range(4) if ALPHABET[alt] not in may]
        drawn = [places[one] for one in rng.permutation(len(places))[:PER_INSTANCE]]
        # A base that has its like beside it could be lost from either place.
        alone = [at for at, _ in places if codes[at] not in (codes[at - 1], codes[at + 1])]
        drawn += [(int(rng.choice(alone)), None)] if alone else []
        for at, alt in drawn:
            neutral = partner(instance.contig, at)
            if neutral is not None:
                found.append(Mutation(instance.contig, at, alt, True, number))
                found.append(Mutation(instance.contig, neutral, alt, False, number))
    return found


def write_vcf(path: Path, drawn: list[Mutation], fasta: FastaFile) -> None:
    rows = []
    for number, one in enumerate(drawn):
        before, base = (ALPHABET[code] for code in fasta.codes(one.contig, one.at - 1, one.at + 1))
        pos, ref, alt = (one.at, before + base, before) if one.alt is None else (one.at + 1, base, ALPHABET[one.alt])
        rows.append((one.contig, pos, f"{one.contig}\t{pos}\t{number}\t{ref}\t{alt}\t.\t.\t.\n"))
    head = "##fileformat=VCFv4.3\n##source=SIMULATED mutations of simulated genomes\n"
    head += "".join(f"##contig=<ID={name}>\n" for name in HELD)
    body = "".join(line for *_, line in sorted(rows))
    path.write_text(head + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + body)


def read_scores(path: Path, count: int) -> np.ndarray:
    scores = np.full(count, np.nan)
    with path.open() as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            scores[int(row["id"])] = float(row["score"])
    return scores


def bits_of(model: MarkovModel, windows: np.ndarray) -> np.ndarray:
    """Return what windows cost, the mean of both strands."""
    strands = (windows, np.stack([reverse_complement(one) for one in windows]))
    return np.mean([model.bits(one, np.ones(one.shape, bool)) for one in strands], axis=0)


def markov_scores(genomes: Path, drawn: list[Mutation]) -> np.ndarray:
    """Return the same ratio from a Markov model of all species' training chromosomes, both strands."""
    model, chosen_on, tails = MarkovModel(most=12), [], []
    for path in sorted(genomes.glob("*.fa")):
        fasta = FastaFile(path)
        for name, length in zip(fasta.names, fasta.lengths, strict=True):
            if name not in HELD:
                codes = fasta.codes(name, 0, length)
                # As `genomics pretrain` does: orthologues end at one place, and twice as much is not counted at first.
                model.add(codes[: int(0.9 * length)])
                chosen_on.append(codes[int(0.95 * length) :])
                tails.append(codes[int(0.9 * length) :])
    model.choose(chosen_on)
    for codes in tails:
        model.add(codes)
    fasta = FastaFile(genomes / f"{SPECIES}.fa")
    windows = np.stack([fasta.codes(one.contig, one.at - MARKOV_FLANK, one.at + MARKOV_FLANK + 1) for one in drawn])
    changed = windows.copy()
    changed[:, MARKOV_FLANK] = [0 if one.alt is None else one.alt for one in drawn]
    lost = np.array([one.alt is None for one in drawn])
    scores = bits_of(model, windows) - bits_of(model, changed)
    scores[lost] = bits_of(model, windows[lost]) - bits_of(model, np.delete(changed[lost], MARKOV_FLANK, axis=1))
    return scores * np.log(2)


def area(scores: np.ndarray, constrained: np.ndarray, pairs: np.ndarray, rng: np.random.Generator) -> str:
    """Return the area under the ROC curve with its interval by resampling instances with their partners."""
    instances = np.unique(pairs)
    members = [np.flatnonzero(pairs == one) for one in instances]
    samples = []
    for _ in range(SAMPLES):
        rows = np.concatenate([members[one] for one in rng.integers(0, len(instances), len(instances))])
        samples.append(roc_auc_score(constrained[rows], -scores[rows]))
    low, high = np.quantile(samples, (0.025, 0.975))
    return f"{roc_auc_score(constrained, -scores):.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--rejection", type=float, default=0.95, help="of mutations that harm an instance")
    given = parser.parse_args()
    stages = Stages(given.out, minutes=given.minutes, device=given.device)
    genomes, run = given.out / "genomes", given.out / "model"
    length, per_mb = (300_000, 800) if given.small else (4_000_000, 50)
    simulation = {
        "chromosomes": "[2,4,5,7]", "chromosome_length": length, "seed": given.seed, "density": 1,
        "constraint.per_mb": per_mb, "constraint.rejection": given.rejection,
    }  # fmt: skip
    settings = [one for key, value in simulation.items() for one in ("--set", f"data.simulation.{key}={value}")]
    stages.command("simulate", "genomics", "simulate", "--out", genomes, *settings, on_device=False)
    small = {"train.steps": 2000, "train.batch": 32, "data.window": 256, "train.length_warmup": "[]", "train.lr": 8e-3}
    options = {"train.seed": given.seed, **(small if given.small else {})}
    settings = [one for key, value in options.items() for one in ("--set", f"{key}={value}")]
    preset = "pretrain-laptop" if given.small else "pretrain-gpu"
    stages.command("pretrain", "genomics", "pretrain", "--data", genomes, "--preset", preset, "--out", run, *settings)
    drawn = mutations(genomes, np.random.default_rng(given.seed))
    write_vcf(given.out / "mutations.vcf", drawn, FastaFile(genomes / f"{SPECIES}.fa"))
    stages.command(
        "score", "genomics", "score", run, "--vcf", given.out / "mutations.vcf", "--reference",
        genomes / f"{SPECIES}.fa", "--window", 256 if given.small else 1024, "-o", given.out / "scores.tsv",
    )  # fmt: skip
    scored = {
        f"model, {preset}": read_scores(given.out / "scores.tsv", len(drawn)),
        "order-12 Markov": markov_scores(genomes, drawn),
    }
    bits = result_of(run)
    print(f"SIMULATED; {hardware(given.device)}; seed {given.seed}; rejection {given.rejection}")
    print("; ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items()))
    markov = bits["baselines"][0]
    print(
        f"held-out bases: model {bits['bits']:.3f} ± {bits['standard_error']:.3f} bits, {markov['name']} "
        f"{markov['bits']:.3f}"
    )
    truth = np.array([one.constrained for one in drawn])
    pairs = np.array([one.pair for one in drawn])
    lost = np.array([one.alt is None for one in drawn])
    for kind, chosen in (("substitutions", ~lost), ("deletions of a base", lost)):
        count = len(np.unique(pairs[chosen]))
        print(f"{kind}: {int(chosen.sum()) // 2} pairs of {count} instances; area under the ROC curve (95 %)")
        for name, scores in scored.items():
            found = area(scores[chosen], truth[chosen], pairs[chosen], np.random.default_rng(given.seed))
            print(f"  {name:24} {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
