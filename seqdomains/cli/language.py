"""What `genomics pretrain` does: resolve the configuration, build data and model, hand them to the pipelines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seqdomains.cli.config import resolve
from seqdomains.cli.language_config import LanguageConfig
from seqdomains.cli.models import choose_device
from seqdomains.cli.simulated import simulated_genomes
from seqdomains.cli.summary import bits_as_text
from seqdomains.cli.training import pretrain_and_evaluate, print_pretraining_estimate
from seqdomains.genomics.language_data import LanguageData
from seqdomains.genomics.language_task import LanguageTask
from seqdomains.genomics.simulate import SimulationConfig
from seqdomains.pipelines.objectives import MaskedTokens, NextToken, Objective
from seqdomains.pipelines.ranks import own_device

logger = logging.getLogger(__name__)


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
    given: dict[str, tuple[Any, str]] = {}
    if data:
        given["data.paths"] = ([str(path.absolute()) for path in data], "--data")
    if regions is not None:
        given["data.regions"] = (str(regions.absolute()), "--regions")
    resolved = resolve(LanguageConfig, preset=preset, settings=settings, given=given)
    config = resolved.config
    masked = config.objective == "masked"
    objective: Objective = MaskedTokens() if masked else NextToken()
    if only_estimate:
        print_pretraining_estimate(config, window=config.data.window, device=where, objective=objective)
        return
    pretrain_and_evaluate(
        config,
        resolved,
        preset=preset,
        out=out,
        device=where,
        make_task=lambda: LanguageTask(_with_genomes(config.data), config.objective),
        as_text=partial(bits_as_text, position="masked base" if masked else "base"),
        objective=objective,
    )


def _with_genomes(data: LanguageData) -> LanguageData:
    """Point the data at simulated genomes where no real ones are given."""
    if data.paths:
        return data
    logger.info("no data given: working on SIMULATED great apes; for real sequences give --data FASTA")
    return data.model_copy(update={"paths": (simulated_genomes(data.simulation or SimulationConfig()),)})
