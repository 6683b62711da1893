"""Figures of a run as SVG, in colours that colour-blind readers tell apart."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILLION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

# A dollar in a class name is no mathematics; text stays text in the SVG, small and searchable.
_STYLE: Any = {"text.parse_math": False, "svg.fonttype": "none", "font.size": 10}


@mpl.rc_context(_STYLE)
def training_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw loss, learning rate and speed over the steps.

    Parameters
    ----------
    rows : sequence of mapping
        Lines of metrics.jsonl, at least one.

    Examples
    --------
    >>> figure = training_figure([{"step": 1, "loss": 2.0, "lr": 1e-3, "tokens_per_s": 10}])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss (nats)', 'learning rate', 'tokens/s']
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    steps = [row["step"] for row in rows]
    panels = (("loss", "loss (nats)", BLUE), ("lr", "learning rate", ORANGE), ("tokens_per_s", "tokens/s", GREEN))
    for number, (key, label, colour) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.plot(steps, [row[key] for row in rows], color=colour, marker="." if len(rows) < 30 else None)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        _tidy(axes)
    return figure


@mpl.rc_context(_STYLE)
def accuracy_figure(result: Mapping[str, Any]) -> Figure:
    """Draw the accuracy and its interval beside reference, chance and ceiling.

    Parameters
    ----------
    result : mapping
        What `seqdomains.pipelines.evaluate.evaluate` returns.

    Examples
    --------
    >>> figure = accuracy_figure({"accuracy": 0.8, "interval": [0.7, 0.9], "chance": 0.2, "ceiling": None,
    ...                           "baseline": None})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['this model']
    """
    scored = [("this model", result["accuracy"], result["interval"], BLUE)]
    if result["baseline"] is not None:
        baseline = result["baseline"]
        scored.append((baseline["name"], baseline["accuracy"], baseline["interval"], ORANGE))
    figure = Figure(figsize=(7, 1.4 + 0.45 * len(scored)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, accuracy, (low, high), colour) in enumerate(scored):
        axes.errorbar(accuracy, place, xerr=[[accuracy - low], [high - accuracy]], fmt="o", color=colour, capsize=4)
    axes.axvline(result["chance"], color=GREY, linestyle=":", label="chance")
    if result["ceiling"] is not None:
        axes.axvline(result["ceiling"], color=VERMILLION, linestyle="--", label="ceiling")
    axes.set_yticks(range(len(scored)), [name for name, *_ in scored])
    axes.set_ylim(len(scored) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("accuracy with its 95 % interval")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    _tidy(axes)
    return figure


@mpl.rc_context(_STYLE)
def confusion_figure(result: Mapping[str, Any]) -> Figure:
    """Draw the confusion matrix: colour is the share of the true class, the numbers are windows.

    Parameters
    ----------
    result : mapping
        What `seqdomains.pipelines.evaluate.evaluate` returns.

    Examples
    --------
    >>> figure = confusion_figure({"classes": ["a", "b"], "confusion": [[3, 1], [0, 4]]})
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['3', '1', '0', '4']
    """
    classes, counts = result["classes"], np.asarray(result["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.55 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        # cividis is dark below the middle
        axes.text(
            column, row, str(count), ha="center", va="center", color="white" if shares[row, column] < 0.5 else "black"
        )
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def as_svg(figure: Figure, name: str) -> str:
    """Render a figure as an SVG document; the same figure gives the same text.

    Parameters
    ----------
    figure : Figure
        A matplotlib figure.
    name : str
        Goes before every id, so that several figures live in one HTML file.

    Examples
    --------
    >>> text = as_svg(training_figure([{"step": 1, "loss": 2.0, "lr": 1e-3, "tokens_per_s": 10}]), "training")
    >>> text[:4], 'id="training-figure_1"' in text
    ('<svg', True)
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE), mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The SVG carries letters, not shapes: the reader's fonts draw a class named in Kana.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id=")', rf"\g<1>{name}-", text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
