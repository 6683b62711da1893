"""Commands: parse, build, run. The only place where domains and pipelines meet."""

from __future__ import annotations

from seqdomains.cli.app import main

__all__ = ["main"]
