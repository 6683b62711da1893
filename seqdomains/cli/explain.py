"""The command `seqdomains genomics explain`: what it takes; what it does is in `explaining.py`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from seqdomains.cli.options import DEVICE, Strand


class MethodName(StrEnum):
    """How a position's importance is found."""

    ISM = "ism"
    SALIENCY = "saliency"
    INTEGRATED_GRADIENTS = "integrated-gradients"


def explain(
    model: Annotated[Path, typer.Argument(help="A run folder or an artefact.", metavar="MODEL")],
    reference: Annotated[
        Path, typer.Option("--reference", help="The sequences, plain or bgzip FASTA.", metavar="FASTA")
    ],
    region: Annotated[
        list[str] | None,
        typer.Option("--region", help="1-based, both ends inside. Repeatable.", metavar="CONTIG[:START[-END]]"),
    ] = None,
    regions: Annotated[Path | None, typer.Option("--regions", help="These intervals.", metavar="BED")] = None,
    method: Annotated[
        MethodName,
        typer.Option("--method", help="ism tries all alternatives; the others follow gradients, far quicker."),
    ] = MethodName.ISM,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Whose log-odds; each window's likeliest if not given.", metavar="NAME"),
    ] = None,
    strand: Annotated[
        Strand, typer.Option("--strand", help="Score the forward strand, or the mean of both.")
    ] = Strand.FORWARD,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of integrated gradients; 32 if not given.")
    ] = None,
    window: Annotated[int | None, typer.Option("--window", min=2, help="bp; the model's own if not given.")] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            "--output",
            help="Importance as .bedgraph or .bw; .tsv or .parquet adds all alternatives. Repeatable; - is stdout.",
            metavar="FILE",
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Logo of one region of at most 200 bp, .svg or .png.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="What really matters, such as the simulator's markers.", metavar="BED"),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Write how much each base of the regions matters to a class, or to the log-likelihood of a language model.

    The importance of a base is the score with it minus the mean over all four bases in its place.
    """
    from seqdomains.cli.explaining import run_explain

    run_explain(
        model,
        reference=reference,
        named=region or [],
        regions=regions,
        method=method.value,
        class_name=class_name,
        both_strands=strand is Strand.BOTH,
        steps=steps,
        window=window,
        outputs=output or ["-"],
        figure=figure,
        truth=truth,
        device=device,
    )
