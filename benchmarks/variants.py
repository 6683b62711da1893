"""Time `genomics score` from a VCF of substitutions to a VCF, on a bgzip genome.

Run ``python -m benchmarks.variants``, with ``--variants 200`` on a CPU. The genome is random, the substitutions are
random places of it, in order, and the model, 1.4 M parameters, 12 x 128, is untrained: SIMULATED input, of which the
speed alone means anything. The bar is 100,000 at 1,024 bp in 3 minutes on one H100. First the scores of some are held
against float32 likelihoods of their windows on the CPU, one variant at a time; no speed is shown of what fails. The
time is the whole command's, the model's loading, the reading and the index of the output included, after a small run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pysam
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.cli.variants import run_score
from seqdomains.genomics.alphabet import ALPHABET, SIGNATURE, reverse_complement

BASES = np.frombuffer(ALPHABET[:4].encode(), np.uint8)
CHECKED = 8
# Of the error, relative to the largest score.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}


def write_genome(path: Path, codes: np.ndarray) -> None:
    lines = BASES[codes][: len(codes) // 60 * 60].reshape(-1, 60)
    text = np.concatenate([lines, np.full((len(lines), 1), ord("\n"), np.uint8)], axis=1)
    with pysam.BGZFile(str(path), "wb", None) as handle:
        handle.write(b">chr1\n")
        handle.write(text.tobytes())


def write_variants(path: Path, codes: np.ndarray, places: np.ndarray) -> None:
    letters = ALPHABET[:4]
    with path.open("w") as handle:
        handle.write("##fileformat=VCFv4.3\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        for at in places.tolist():
            ref = codes[at]
            handle.write(f"chr1\t{at + 1}\t.\t{letters[ref]}\t{letters[3 - ref]}\t.\t.\t.\n")


def by_hand(model: MambaLM, codes: np.ndarray, at: int, window: int) -> float:
    """Return the score of a substitution, both strands, from whole windows on the CPU."""
    flank = (window - 1) // 2
    first = codes[at - flank : at + flank + 1]
    second = first.copy()
    second[flank] = 3 - second[flank]
    windows = [first, second, reverse_complement(first), reverse_complement(second)]
    with torch.inference_mode():
        tokens = torch.from_numpy(np.stack(windows)).long()
        likely = model(tokens[:, :-1]).double().log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum((1, 2))
    return float((likely[1] - likely[0] + likely[3] - likely[2]) / 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--variants", type=int, default=100_000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--bases", type=int, default=100_000_000)
    parser.add_argument("--precision", choices=tuple(TOLERANCE), nargs="*", help="both on a GPU, float32 on a CPU")
    arguments = parser.parse_args()
    window = arguments.window
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, arguments.bases // 60 * 60).astype(np.uint8)
    places = np.sort(random.choice(len(codes) - 2 * window, arguments.variants, replace=False)) + window
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}, SIMULATED input")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_genome(folder / "r.fa.gz", codes)
        write_variants(folder / "few.vcf", codes, places[:CHECKED])
        write_variants(folder / "all.vcf", codes, places)
        model = MambaLM(MambaConfig(d_model=128, n_layer=12), generator=torch.Generator().manual_seed(0)).eval()
        model.save_pretrained(folder / "model", signature={**SIGNATURE, "window": window})
        wanted = [by_hand(model, codes, int(at), window) for at in places[:CHECKED]]
        for precision in arguments.precision or (tuple(TOLERANCE) if device == "cuda" else ("float32",)):
            for vcf in ("few", "all"):
                output = folder / f"{vcf}.{precision}.vcf.gz"
                began = time.perf_counter()
                run_score(
                    folder / "model", vcf=folder / f"{vcf}.vcf", reference=folder / "r.fa.gz", output=str(output),
                    window=None, strands="both", on_mismatch="error", precision=precision, device=device,
                )  # fmt: skip
                taken = time.perf_counter() - began
                with pysam.VariantFile(str(output)) as scored:
                    found = [record.info["SDLLR"][0] for record, _ in zip(scored, wanted, strict=False)]
                error = max(abs(one - other) for one, other in zip(found, wanted, strict=True)) / max(map(abs, wanted))
                print(f"{precision}: {error:.1e} from the CPU's, relative to the largest score", flush=True)
                if error > TOLERANCE[precision]:
                    return 1
            tokens = 4 * arguments.variants * (window - 1 + window % 2)
            rate = f"{arguments.variants / taken:.0f} a second, {tokens / taken / 1e6:.2f} M tokens/s"
            print(
                f"{precision}: {arguments.variants:,} substitutions at {window:,} bp: {taken:.1f} s, {rate}", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
