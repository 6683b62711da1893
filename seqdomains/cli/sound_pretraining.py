"""What `audio pretrain` does, and `audio evaluate` with a model that it made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from seqdomains.audio.code_task import CodeTask, check_codes
from seqdomains.audio.front_end import input_of
from seqdomains.audio.patch_task import PatchTask, check_patches
from seqdomains.backbone import LoadedModel, MambaLM, PatchReconstructor
from seqdomains.cli.config import check_preset, resolve
from seqdomains.cli.given_data import given_options
from seqdomains.cli.models import choose_device, trained_window
from seqdomains.cli.sound_config import SoundPretrainConfig
from seqdomains.cli.sound_data import check_scored, or_synthesized, refuse_without_data
from seqdomains.cli.summary import bits_as_text, errors_as_text
from seqdomains.cli.training import (
    made,
    pretrain_and_evaluate,
    pretrain_masked_and_evaluate,
    print_masked_estimate,
    print_pretraining_estimate,
)
from seqdomains.errors import ConfigError
from seqdomains.pipelines.bits import evaluate_bits
from seqdomains.pipelines.ranks import own_device
from seqdomains.pipelines.reconstruction import evaluate_reconstruction
from seqdomains.pipelines.run_folder import RunFolder

_bits_as_text = partial(bits_as_text, units="clips", position="sample")


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
    """Train a model without labels, score it, and print the result; go on with the run in `out` if there is one."""
    where = choose_device(own_device(device))
    preset = preset or ("codes-small" if where.type == "cpu" else "codes")
    check_preset(preset, "audio pretrain")
    given = given_options(data, label_from, None)
    resolved = resolve(SoundPretrainConfig, preset=preset, settings=settings, given=given)
    config = resolved.config
    masked = config.objective == "masked"
    (check_patches if masked else check_codes)(config.input)
    if only_estimate:
        window = config.input.positions(round(config.data.seconds * config.input.rate))
        (print_masked_estimate if masked else print_pretraining_estimate)(config, window=window, device=where)
        return
    if masked:
        pretrain_masked_and_evaluate(
            config,
            resolved,
            preset=preset,
            out=out,
            device=where,
            make_task=lambda: _patch_task(config),
            as_text=errors_as_text,
        )
        return
    pretrain_and_evaluate(
        config,
        resolved,
        preset=preset,
        out=out,
        device=where,
        make_task=lambda: _code_task(config),
        as_text=_bits_as_text,
    )


def score_pretrained(
    path: Path,
    loaded: LoadedModel,
    model: MambaLM | PatchReconstructor,
    *,
    data: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    rate: int | None,
    settings: Sequence[str],
    out: Path | None,
    device: torch.device,
) -> None:
    """Score a model on its run's held-out clips, or on other clips, and print the result."""
    if labels is not None or rate is not None:
        raise ConfigError("--labels, --rate: are for a classifier; this model has no classes, and a rate of its own")
    masked = isinstance(model, PatchReconstructor)
    if not data:
        refuse_without_data(path, out=out, label_from=label_from, set=settings)
        target: RunFolder | None = RunFolder(path)
        RunFolder(path).read_config()
        config = resolve(SoundPretrainConfig, preset=str(RunFolder(path).config)).config
        read, scored_only = config.input, False
    else:
        check_scored(settings, out, sections=("data", "mask", "evaluate") if masked else ("data", "evaluate"))
        read = input_of(loaded.signature)
        given = given_options(data, label_from, None) | {"data.split": ("none", "the command")}
        if masked:
            # Windows as long as those that it learned from, and as much hidden.
            seconds = read.frames(trained_window(loaded)) / read.rate
            given |= {"data.seconds": (seconds, "the artefact"), "mask": (loaded.signature.get("mask"), "the artefact")}
        config = resolve(SoundPretrainConfig, settings=settings, given=given).config
        scored_only = config.data.split == "none"
        target = RunFolder(made(out)) if out is not None else None
    clips, simulated = or_synthesized(config.data)
    if isinstance(model, PatchReconstructor):
        patches = PatchTask(clips, read, config.mask, simulated=simulated, scored_only=scored_only)
        text = errors_as_text(evaluate_reconstruction(model, patches, config.evaluate, target, device=device))
    else:
        codes = CodeTask(clips, read, simulated=simulated, scored_only=scored_only)
        text = _bits_as_text(evaluate_bits(model, codes, config.evaluate, target, device=device))
    sys.stdout.write(text)


def _code_task(config: SoundPretrainConfig) -> CodeTask:
    data, simulated = or_synthesized(config.data)
    return CodeTask(data, config.input, simulated=simulated)


def _patch_task(config: SoundPretrainConfig) -> PatchTask:
    data, simulated = or_synthesized(config.data)
    return PatchTask(data, config.input, config.mask, simulated=simulated)
