"""A row of letters as tall as their importance, below the axis where it is negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.files import output_file
from seqdomains.pipelines.figures import GREY

FORMS: Final = (".svg", ".png", ".pdf")
_FONT = FontProperties(family="DejaVu Sans", weight="bold")  # comes with matplotlib
_GAP = 0.08  # of a letter's width


def logo_figure(
    letters: str,
    importance: NDArray[np.float64],
    *,
    start: int,
    colours: Mapping[str, str],
    title: str,
    marked: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Draw letters as tall as their importance.

    Parameters
    ----------
    letters : str
        Of neighbouring positions.
    importance : ndarray, shape (len(letters),)
        NaN draws none.
    start : int
        Position of the first letter, 1-based.
    colours : mapping of str to str
        Of the letters; others are grey.
    title : str
    marked : sequence of (int, int)
        Stretches to shade, 1-based, both ends inside.

    Examples
    --------
    >>> figure = logo_figure("ACG", np.array([1.0, -0.5, np.nan]), start=101, colours={"A": "green"}, title="human")
    >>> len(figure.axes[0].patches)
    2
    """
    with mpl.rc_context({"text.parse_math": False, "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(max(4.0, 0.16 * len(letters) + 1.2), 2.4), layout="constrained")
        axes = figure.add_subplot()
        for first, last in marked:
            axes.axvspan(first - 0.5, last + 0.5, color=GREY, alpha=0.15, linewidth=0)
        for place, (letter, height) in enumerate(zip(letters, importance.tolist(), strict=True), start=start):
            if not np.isfinite(height) or height == 0:
                continue
            path = TextPath((0, 0), letter, size=1, prop=_FONT)
            box = path.get_extents()
            width = 1 - _GAP
            shape = Affine2D().translate(-box.x0, -box.y0).scale(width / box.width, abs(height) / box.height)
            shape = shape.translate(place - width / 2, min(height, 0))
            axes.add_patch(PathPatch(shape.transform_path(path), color=colours.get(letter, GREY), linewidth=0))
        axes.axhline(0, color=GREY, linewidth=0.8)
        known = importance[np.isfinite(importance)]
        low, high = (min(0.0, float(known.min())), max(0.0, float(known.max()))) if known.size else (0.0, 1.0)
        room = 0.05 * (high - low or 1.0)
        axes.set_xlim(start - 1, start + len(letters))
        axes.set_ylim(low - room, high + room)
        axes.ticklabel_format(axis="x", useOffset=False, style="plain")
        axes.set_xlabel("position (1-based)")
        axes.set_ylabel("importance")
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, as its suffix says, one of `FORMS`; the same figure gives the same bytes.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    form = path.suffix.lower()
    # Dates would make the same figure another file.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(form, {})
    try:
        with (
            output_file(path) as partial,
            partial.open("wb") as handle,
            mpl.rc_context({"svg.hashsalt": "logo", "svg.fonttype": "none"}),
        ):
            figure.savefig(handle, format=form.removeprefix("."), metadata=metadata, dpi=150)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
