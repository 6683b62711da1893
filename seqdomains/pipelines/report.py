"""One self-contained HTML file about a run, made from what lies in its folder."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

from seqdomains.errors import InputError
from seqdomains.files import atomic_file
from seqdomains.pipelines.figures import accuracy_figure, as_svg, confusion_figure, training_figure
from seqdomains.pipelines.metrics import read_metrics
from seqdomains.pipelines.progress import duration
from seqdomains.pipelines.run_folder import RunFolder

_TEMPLATE = "report.html.jinja"


def write_report(run: RunFolder | Path) -> Path:
    """Write ``report.html`` and the figures of a run; what the run has not reached yet is left out.

    The file needs nothing from elsewhere: no script, no font, no image. The same run gives the same file.

    Parameters
    ----------
    run : RunFolder or Path
        A run folder, finished or not.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    InputError
        The path is no run folder, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> run = RunFolder.prepare(Path(tempfile.mkdtemp()) / "run", {"train": {"steps": 3}})
    >>> write_report(run).name
    'report.html'
    """
    if isinstance(run, Path):
        run = RunFolder(run)
    config, result, sessions = run.read_config(), run.read_evaluation(), run.sessions()
    metrics = read_metrics(run.metrics)
    figures = {}
    if metrics:
        figures["training"] = as_svg(training_figure(metrics), "training")
    kind = "classes" if result is None else result.get("kind", "classes")
    if result and kind == "classes":
        figures["accuracy"] = as_svg(accuracy_figure(result), "accuracy")
    if result and kind in ("classes", "frames"):
        figures["confusion"] = as_svg(confusion_figure(result), "confusion")
    text = _render(
        name=run.path.resolve().name,
        result=result,
        kind=kind,
        last=metrics[-1] if metrics else None,
        complete=run.complete,
        sessions=sessions,
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        changed=(result or {}).get("changed", {}),
        figures={name: _inline(svg) for name, svg in figures.items()},
    )
    try:
        run.figures.mkdir(exist_ok=True)
        for name, svg in figures.items():
            with atomic_file(run.figures / f"{name}.svg") as partial:
                partial.write_text(svg, encoding="utf-8")
        with atomic_file(run.report) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report into {run.path}: {error.strerror or error}") from error
    return run.report


def _render(**facts: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["duration"] = duration
    template = resources.files("seqdomains.pipelines").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(**facts)


def _inline(svg: str) -> str:
    """Drop the namespace declarations, which HTML does not need: what looks like an address is none."""
    return re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
