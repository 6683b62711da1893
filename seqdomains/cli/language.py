"""What the commands of language models of DNA do: resolve the configuration, build data and model, call a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seqdomains.cli.config import check_preset, resolve
from seqdomains.cli.language_config import LanguageConfig
from seqdomains.cli.models import choose_device, load_model, next_token_model_of
from seqdomains.cli.run_config import PredictConfig
from seqdomains.cli.simulated import refuse_short_genomes, with_genomes
from seqdomains.cli.species import find_sequences, refuse_clashes
from seqdomains.cli.summary import bits_as_text
from seqdomains.cli.training import pretrain_and_evaluate, print_pretraining_estimate
from seqdomains.errors import ConfigError
from seqdomains.genomics.alphabet import GapPolicy, N, reverse_complement
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import reads_once, source_name
from seqdomains.genomics.language_task import LanguageTask
from seqdomains.genomics.markov import BASES
from seqdomains.genomics.records import is_genbank, stream_records
from seqdomains.genomics.variants import Strands
from seqdomains.pipelines.objectives import MaskedTokens, NextToken, Objective
from seqdomains.pipelines.ranks import own_device
from seqdomains.pipelines.record_likelihood import BothWays, record_likelihoods
from seqdomains.pipelines.tables import check_name
from seqdomains.pipelines.tracks import is_bigwig, open_values

logger = logging.getLogger(__name__)

# Bases that are read by position at once.
_BLOCK = 1 << 20


def run_pretrain(
    *,
    data: Sequence[Path],
    regions: Path | None,
    preset: str | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
    only_estimate: bool = False,
) -> None:
    """Train a language model of DNA, score it, and print the result; go on with the run in `out` if there is one."""
    where = choose_device(own_device(device))
    preset = preset or ("pretrain-gpu" if where.type == "cuda" else "pretrain-laptop")
    check_preset(preset, "genomics pretrain")
    given: dict[str, tuple[Any, str]] = {}
    if data:
        given["data.paths"] = ([str(path.absolute()) for path in data], "--data")
    if regions is not None:
        given["data.regions"] = (str(regions.absolute()), "--regions")
    resolved = resolve(LanguageConfig, preset=preset, settings=settings, given=given)
    config = resolved.config
    masked = config.objective == "masked"
    objective: Objective = MaskedTokens() if masked else NextToken()
    causal = config.backbone().causal
    if masked and causal:
        logger.warning("the model reads one side of a hidden base alone; --set model.bidirectional=true adds the other")
    refuse_short_genomes(config.data)
    if only_estimate:
        print_pretraining_estimate(config, window=config.data.window, device=where, objective=objective)
        return
    pretrain_and_evaluate(
        config,
        resolved,
        preset=preset,
        out=out,
        device=where,
        make_task=lambda: LanguageTask(
            with_genomes(config.data, instead="for real sequences give --data FASTA"),
            config.objective,
            both_sides=not causal,
        ),
        as_text=partial(bits_as_text, position="masked base" if masked else "base"),
        objective=objective,
    )


def run_likelihood(
    path: Path,
    given: Sequence[str],
    *,
    from_file: Path | None,
    every: int | None,
    strands: Strands,
    output: str,
    settings: Sequence[str],
    device: str | None,
) -> bool:
    """Write how likely records are; returns whether any file was skipped."""
    policy = resolve(PredictConfig, settings=settings).config.data.gap_policy
    fasta = find_sequences(given, from_file)
    refuse_clashes(fasta, None, output)
    if is_bigwig(output):
        raise ConfigError(f"-o {output}: rows with several values are no track; choose .tsv or .parquet")
    check_name(output)
    read = _forward
    if strands == "both":
        if unfit := [source for source in fasta if reads_once(source) or is_genbank(source)]:
            raise ConfigError(
                f"--strand both: {source_name(unfit[0])} cannot be read from its end; give FASTA files, plain or "
                "bgzip, or --strand forward"
            )
        read = _both_ways
    where = choose_device(device)
    model = next_token_model_of(load_model(path, device=where))
    columns = ("bases", "log_likelihood", "bits_per_base", *(("forward", "reverse") if strands == "both" else ()))
    outcome = record_likelihoods(
        model,
        ((source_name(source), read(source, policy)) for source in fasta),
        open_values(output, columns),
        before=N,
        codes=BASES,
        every=every,
        device=where,
    )
    return bool(outcome.failures)


def _forward(source: str, policy: GapPolicy) -> Iterator[BothWays]:
    for record in stream_records(source, policy=policy):
        yield BothWays(record.name, record.code_pieces())


def _both_ways(source: str, policy: GapPolicy) -> Iterator[BothWays]:
    fasta = FastaFile(Path(source), policy=policy)
    for name, length in zip(fasta.names, fasta.lengths, strict=True):
        starts = range(0, length, _BLOCK)
        forward = (fasta.codes(name, start, min(start + _BLOCK, length)) for start in starts)
        reverse = (
            reverse_complement(fasta.codes(name, start, min(start + _BLOCK, length))) for start in reversed(starts)
        )
        yield BothWays(name, forward, reverse, length)
