"""What `genomics score` does: a language model, a VCF and a reference genome, joined."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from seqdomains import __version__
from seqdomains.backbone import MambaLM
from seqdomains.backbone.artefact import WEIGHTS
from seqdomains.cli.batch_plan import hash_of
from seqdomains.cli.models import (
    artefact_of,
    choose_device,
    load_model,
    next_token_model_of,
    trained_window,
    windows_at_once,
)
from seqdomains.errors import ConfigError, InputError, printable
from seqdomains.genomics.alphabet import N
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.variant_scores import is_vcf, open_scores
from seqdomains.genomics.variants import OnMismatch, Strands, VariantReader
from seqdomains.pipelines.ratio import score_pairs

logger = logging.getLogger(__name__)


def run_score(
    path: Path,
    *,
    vcf: Path,
    reference: Path,
    output: str,
    window: int | None,
    strands: Strands,
    on_mismatch: OnMismatch,
    precision: Literal["float32", "bfloat16"],
    device: str | None,
) -> bool:
    """Score the variants of a VCF; returns whether any was skipped because it does not fit the reference.

    How likely N is says nothing of a variant: its positions are read, but left out of the sums. Before each window the
    model reads an N, as it did in training.
    """
    to_vcf = is_vcf(output)
    for source in (vcf, reference):
        if Path(output).is_file() and source.exists() and source.samefile(output):
            raise ConfigError(f"-o {output}: is also an input, which would be lost; choose another file")
    where = choose_device(device)
    loaded = load_model(path, device=where)
    if not isinstance(loaded.model, MambaLM):
        raise InputError(
            f"{path} is a {type(loaded.model).__name__}; variants are scored by a language model (MambaLM), which says "
            "how likely each base is"
        )
    model = next_token_model_of(loaded)
    window = window or trained_window(loaded)
    reader = VariantReader(
        vcf, FastaFile(reference), window=window, strands=strands, on_mismatch=on_mismatch, samples=to_vcf
    )
    provenance = (
        f"genomics score of seqdomains {__version__}; model sha256 {hash_of(artefact_of(path) / WEIGHTS)}; "
        f"window {window}; strand {strands}; precision {precision}; on mismatch {on_mismatch}; {reference.name}"
    )
    values = 2 if strands == "both" else 1
    score_pairs(
        model,
        [(str(vcf), reader.variants())],
        open_scores(output, reader.header, strands=values, provenance=printable(provenance)),
        values=values,
        batch_size=windows_at_once(where, window),
        precision=precision,
        ignored=N,
        before=N,
        device=where,
    )
    logger.info("%s", summary(reader))
    return bool(reader.skipped)


def summary(reader: VariantReader) -> str:
    """Return what became of the alleles of a VCF that was read.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from collections import Counter
    >>> print(summary(SimpleNamespace(records=3, tally=Counter({"scored": 2, "symbolic": 1}))))
    3 records; alleles scored: 2; passed through: 1 symbolic
    """
    counts = dict(reader.tally)
    scored, swapped = counts.pop("scored", 0), counts.pop("swapped", 0)
    words = f"{reader.records} records; alleles scored: {scored}"
    if swapped:
        words += f", of them REF and ALT swapped: {swapped}"
    passed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"{words}; passed through: {passed}" if passed else words
