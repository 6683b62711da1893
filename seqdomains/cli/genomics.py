"""The commands `seqdomains genomics ...`."""

from __future__ import annotations

import typer

app = typer.Typer(help="Species from DNA.", no_args_is_help=True)
SET = typer.Option("--set", help="Change one value, e.g. train.steps=500. Repeatable.", metavar="KEY=VALUE")
