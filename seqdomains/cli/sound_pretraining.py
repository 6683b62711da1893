"""What `audio pretrain` does, and `audio evaluate` with a model that it made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from seqdomains.audio.code_task import CodeTask, check_codes
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.front_end import SoundInput, input_of
from seqdomains.backbone import LoadedModel, MambaLM
from seqdomains.cli.config import resolve
from seqdomains.cli.models import choose_device
from seqdomains.cli.sound_config import SoundPretrainConfig
from seqdomains.cli.sound_data import check_scored, given_options, or_synthesized, refuse_without_data
from seqdomains.cli.summary import bits_as_text
from seqdomains.cli.training import made, pretrain_and_evaluate, print_pretraining_estimate
from seqdomains.errors import ConfigError
from seqdomains.pipelines.bits import evaluate_bits
from seqdomains.pipelines.ranks import own_device
from seqdomains.pipelines.run_folder import RunFolder

_as_text = partial(bits_as_text, units="clips", position="sample")


def run_pretrain(
    *,
    data: Sequence[Path],
    label_from: str | None,
    preset: str | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
    only_estimate: bool = False,
) -> None:
    """Train a language model, score it, and print the result; go on with the run in `out` if there is one."""
    where = choose_device(own_device(device))
    preset = preset or ("codes-small" if where.type == "cpu" else "codes")
    given = given_options(data, label_from, None)
    resolved = resolve(SoundPretrainConfig, preset=preset, settings=settings, given=given)
    config = resolved.config
    check_codes(config.input)
    if only_estimate:
        window = config.input.positions(round(config.data.seconds * config.input.rate))
        print_pretraining_estimate(config, window=window, device=where)
        return
    pretrain_and_evaluate(
        config,
        resolved,
        preset=preset,
        out=out,
        device=where,
        make_task=lambda: _code_task(config.data, config.input),
        as_text=_as_text,
    )


def score_pretrained(
    path: Path,
    loaded: LoadedModel,
    model: MambaLM,
    *,
    data: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    rate: int | None,
    settings: Sequence[str],
    out: Path | None,
    device: torch.device,
) -> None:
    """Score a language model on its run's held-out clips, or on other clips, and print the result."""
    if labels is not None or rate is not None:
        raise ConfigError("--labels, --rate: are for a classifier; this model predicts samples, at its own rate")
    if not data:
        refuse_without_data(path, out=out, label_from=label_from, set=settings)
        run = RunFolder(path)
        run.read_config()
        config = resolve(SoundPretrainConfig, preset=str(run.config)).config
        task = _code_task(config.data, config.input)
        result = evaluate_bits(model, task, config.evaluate, run, device=device)
    else:
        check_scored(settings, out)
        given = given_options(data, label_from, None) | {"data.split": ("none", "the command")}
        config = resolve(SoundPretrainConfig, settings=settings, given=given).config
        task = CodeTask(config.data, input_of(loaded.signature), scored_only=config.data.split == "none")
        target = RunFolder(made(out)) if out is not None else None
        result = evaluate_bits(model, task, config.evaluate, target, device=device)
    sys.stdout.write(_as_text(result))


def _code_task(data: ClipData, given: SoundInput) -> CodeTask:
    data, simulated = or_synthesized(data)
    return CodeTask(data, given, simulated=simulated)
