"""The command `seqdomains genomics finetune`: what it takes; what it does is in `dna_finetuning.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqdomains.cli.genomics import DATA, LABEL_FROM, LABELS, SPECIES, SpeciesSet
from seqdomains.cli.options import DEVICE, DRY_RUN, PRESET, RUN_OUT, SET

TEST = typer.Option("--test", help="More of these, which are held out, and none of --data. Repeatable.", metavar="FILE")


def finetune(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact, such as of pretrain.", metavar="MODEL")],
    data: Annotated[list[Path] | None, DATA] = None,
    test: Annotated[list[Path] | None, TEST] = None,
    label_from: Annotated[str | None, LABEL_FROM] = None,
    labels: Annotated[Path | None, LABELS] = None,
    sequence_column: Annotated[
        str | None, typer.Option("--sequence-column", help="Of tables; sequence if not given.", metavar="NAME")
    ] = None,
    species: Annotated[SpeciesSet | None, SPECIES] = None,
    head_only: Annotated[bool, typer.Option("--head-only", help="Leave the backbone as it is.")] = False,
    preset: Annotated[str | None, PRESET] = None,
    settings: Annotated[list[str] | None, SET] = None,
    out: Annotated[Path | None, RUN_OUT] = None,
    device: Annotated[str | None, DEVICE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Train on labelled sequences as `train` does, from a model's weights and sizes, with a new head, and evaluate.

    Rows of tables are examples of any length; of FASTA, windows are drawn, or with --set data.unit=record each record
    is one example. --set train.backbone_lr_scale=0.1 lets the backbone learn ten times as slowly as the head. Held out
    are --test, or what a column `split` says, or whole groups (--set data.group=column:NAME), or a fifth of each class.
    """
    from seqdomains.cli.dna_finetuning import run_finetune

    run_finetune(
        model,
        great_apes=species is not None,
        data=data or [],
        test=test or [],
        label_from=label_from,
        labels=labels,
        sequence_column=sequence_column,
        head_only=head_only,
        preset=preset,
        settings=settings or [],
        out=out,
        device=device,
        only_estimate=dry_run,
    )
