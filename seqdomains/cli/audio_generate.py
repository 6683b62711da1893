"""The command `seqdomains audio generate`: what it takes; what it does is in `sound_generation.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqdomains.cli.options import DEVICE


def generate(
    model: Annotated[
        Path, typer.Argument(help="A run folder or an artefact of a language model of codes.", metavar="MODEL")
    ],
    seconds: Annotated[float, typer.Option("--seconds", help="s to write, without the prompt.", metavar="S")],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help=".wav or .flac, numbered with --count; - is WAV on stdout.", metavar="FILE"
        ),
    ],
    prompt: Annotated[
        Path | None, typer.Option("--prompt", help="Sound to go on from; from silence if not given.", metavar="SOUND")
    ] = None,
    keep_prompt: Annotated[
        bool, typer.Option("--keep-prompt/--no-keep-prompt", help="Begin each file with the prompt, as it was heard.")
    ] = False,
    count: Annotated[int, typer.Option("--count", min=1, help="Sounds: FILE-0001, FILE-0002, ...")] = 1,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Below 1 likelier codes are preferred; 0 takes the likeliest.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Only the likeliest K codes.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Only the fewest codes whose probabilities are P together.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="The same seed gives the same bytes.")] = 0,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", help="Level, peak, entropy, clipping of each second: .tsv or .parquet.", metavar="FILE"
        ),
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Write sound sample by sample, each drawn from what the model says given all before it.

    The file gets sound while it is written; Ctrl-C or SIGTERM keeps what is there. A sound is a function of the seed,
    its number, the prompt and the settings, whatever others are written with it, on one kind of device. Warnings name
    sounds that ran away into noise, clipping or silence. What is written is no recording.
    """
    from seqdomains.cli.sound_generation import run_generate

    run_generate(
        model,
        prompt=prompt,
        keep_prompt=keep_prompt,
        seconds=seconds,
        count=count,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        output=output,
        table=table,
        device=device,
    )
