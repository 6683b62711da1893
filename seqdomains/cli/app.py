"""The command `seqdomains`: its subcommands, exit codes and the form of its errors.

Modules that take long to import (torch, numba, scikit-learn) are imported inside the commands, so that `--help`
answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from seqdomains import __version__
from seqdomains.cli import audio, audio_generate, dna_language, explain, fetching, genomics, genomics_finetune, options
from seqdomains.errors import ConfigError, SeqdomainsError


class Commands(TyperGroup):
    """A command group whose user errors end with one clear line and their exit code; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand and turn its outcome into an exit code."""
        try:
            return super().invoke(ctx)
        except SeqdomainsError as error:
            sys.stderr.write(_message(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            sys.stderr.write("seqdomains: interrupted\n")
            raise typer.Exit(130) from None
        except SystemExit as end:
            # SIGTERM may meet a user's error on its way here: torchrun sends it to those that have lost another rank.
            met: BaseException | None = end
            while met is not None and not isinstance(met, SeqdomainsError):
                met = met.__context__
            if met is not None:
                sys.stderr.write(_message(met))
            raise


app = typer.Typer(
    name="seqdomains",
    cls=Commands,
    help="Genomics and audio on one Mamba backbone.",
    epilog="Exit codes: 0 done, 1 bad data, 2 bad command or configuration, 3 done with skipped inputs, "
    "130 interrupted, 143 terminated.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Boxes would break an error over lines.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")
genomics.app.command(short_help="Fetch real assemblies.")(fetching.fetch)
genomics.app.command(short_help="Tell which bases an answer rests on.")(explain.explain)
genomics.app.command(short_help="Train a classifier on the backbone of a model.")(genomics_finetune.finetune)
dna_language.register(genomics.app)
audio.app.command(short_help="Write sound with a language model.")(audio_generate.generate)
app.add_typer(genomics.app, name="genomics")
app.add_typer(audio.app, name="audio")


def main() -> NoReturn:
    """Run the command line; SIGTERM unwinds like an error, so that temporary files go, and exits with 143."""
    # Read once, when torch loads libgomp, whose threads otherwise spin for the cores that they wait for: beside other
    # work on 2 cores a step took 2 to 4 s instead of 0.2 s, and alone it takes as long either way (docs/lab-log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    signal.signal(signal.SIGTERM, _terminate)
    app(prog_name="seqdomains")
    raise SystemExit(0)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seqdomains {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.with_resource(LogToStderr())


@app.command()
def doctor() -> None:
    """Tell versions, devices and which kernels run here and why, and check each against its reference."""
    from seqdomains.cli.doctor import examine

    if not examine(sys.stdout):
        raise typer.Exit(1)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a run or of a batch.", metavar="FOLDER")]) -> None:
    """Write one self-contained HTML file about a run: curves, confusion, figures and the exact command.

    Of a batch, print what was done, how fast, and what was skipped.
    """
    from seqdomains.pipelines.batch.folder import BatchFolder
    from seqdomains.pipelines.batch.summary import summary
    from seqdomains.pipelines.report import write_report

    batch = BatchFolder(run)
    typer.echo(summary(batch), nl=False) if batch.plan.exists() else typer.echo(write_report(run))


@app.command("batch-worker", hidden=True)
def batch_worker(
    folder: Annotated[Path, typer.Argument()], device: Annotated[str, typer.Option("--device")] = "cpu"
) -> None:
    """Compute the shards that stdin names; what `--workers` starts."""
    from seqdomains.cli.batch import work

    work(folder, device)


@config_app.command("show")
def config_show(
    preset: Annotated[str, typer.Argument(help="Name or YAML file of a preset.", metavar="PRESET")],
    settings: Annotated[list[str] | None, options.SET] = None,
) -> None:
    """Print every value that a run with this preset would use and where it comes from."""
    from seqdomains.cli.config import resolve
    from seqdomains.cli.sound_config import schema_of

    typer.echo(resolve(schema_of(preset), preset=preset, settings=settings or ()).as_yaml(sources=True), nl=False)


class LogToStderr(logging.Handler):
    """Log of the package on stderr while a command runs; stdout is for results alone."""

    def __enter__(self) -> LogToStderr:
        """Begin to show the package's log from level INFO."""
        logger = logging.getLogger("seqdomains")
        self.level_before = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop, and put the level back."""
        logger = logging.getLogger("seqdomains")
        logger.removeHandler(self)
        logger.setLevel(self.level_before)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message to what sys.stderr is now; rich replaces it while a progress bar is shown."""
        stream: TextIO = sys.stderr
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        # Where nobody reads the log, the work goes on.
        with suppress(BrokenPipeError, AttributeError):
            stream.write(f"{prefix}{record.getMessage()}\n")
            stream.flush()


def _message(error: SeqdomainsError) -> str:
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        lines = "".join(f"  {problem}\n" for problem in error.problems)
        return f"seqdomains: {len(error.problems)} problems with the command or configuration:\n{lines}"
    return f"seqdomains: {error}\n"


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)
