"""Evaluations of sound with several answers a clip, as a person reads them on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def tags_as_text(result: Mapping[str, Any]) -> str:
    r"""Write an evaluation of tags as text.

    Parameters
    ----------
    result : mapping
        What `seqdomains.pipelines.tags.evaluate_tags` returns.

    Returns
    -------
    str
        Lines that end with a newline.

    Examples
    --------
    >>> import numpy as np
    >>> from seqdomains.pipelines.tags import summarise_tags
    >>> labels = np.array([[True, True], [False, True], [True, False], [False, False]])
    >>> shares = np.array([[0.9, 0.6], [0.2, 0.4], [0.6, 0.5], [0.4, 0.2]])
    >>> result = summarise_tags(
    ...     labels, shares, ("dog", "rain"), baseline=("MFCC + SVM", shares - 0.5), simulated=True, notes=("So.",)
    ... )
    >>> print(tags_as_text(result), end="")
    4 test clips of several labels, SIMULATED data
                mean average precision    d'  macro F1  micro F1
    this model                   0.917  1.63     0.750     0.750
    MFCC + SVM                   0.917  1.63     0.833     0.857
    chance                       0.500     -         -         -
    <BLANKLINE>
    class  clips  average precision  MFCC + SVM  chance     F1
    dog        2              1.000       1.000   0.500  1.000
    rain       2              0.833       0.833   0.500  0.500
    note: So.
    """
    beside = result["baseline"]
    keys = ("mean_average_precision", "d_prime", "macro_f1", "micro_f1")
    table = [["", "mean average precision", "d'", "macro F1", "micro F1"]]
    for name, scores in (("this model", result), *([(beside["name"], beside)] if beside else [])):
        table.append([name, *(shown(scores[key], digits=2 if key == "d_prime" else 3) for key in keys)])
    table.append(["chance", shown(result["chance"]), "-", "-", "-"])
    rows = [["class", "clips", "average precision", *([beside["name"]] if beside else []), "chance", "F1"]]
    for name in result["classes"]:
        own = result["per_class"][name]
        values = [own["average_precision"], *([own["baseline"]] if beside else []), own["chance"], own["f1"]]
        rows.append([name, str(own["windows"]), *map(shown, values)])
    heading = f"{result['windows']} test clips of several labels{', SIMULATED data' if result['simulated'] else ''}"
    lines = [heading, *aligned(table), "", *aligned(rows), *(f"note: {note}" for note in result["notes"])]
    return "\n".join(lines) + "\n"


def frames_as_text(result: Mapping[str, Any]) -> str:
    r"""Write an evaluation of frames as text.

    Parameters
    ----------
    result : mapping
        What `seqdomains.pipelines.frames.evaluate_frames` returns.

    Returns
    -------
    str
        Lines that end with a newline.

    Examples
    --------
    >>> import numpy as np
    >>> from seqdomains.pipelines.frames import summarise_frames
    >>> counts = np.array([[8, 2], [1, 9]])
    >>> beside = {"name": "energy threshold", "confusion": np.array([[5, 5], [1, 9]]), "auc": 0.8}
    >>> result = summarise_frames(
    ...     counts, ("background", "speech"), error=0.01, auc=0.9, baseline=beside, simulated=True, notes=()
    ... ) | {"windows": 2}
    >>> print(frames_as_text(result), end="")
    2 test clips, 20 frames, SIMULATED data
                      accuracy  macro F1    AUC
    this model           0.850     0.850  0.900
    energy threshold     0.700     0.688  0.800
    commonest class      0.500         -      -
    standard error of the accuracy, over clips: 0.010
    <BLANKLINE>
    class       frames  recall  precision     F1
    background      10   0.800      0.889  0.842
    speech          10   0.900      0.818  0.857
    """
    table = [["", "accuracy", "macro F1", "AUC"]]
    beside = result["baseline"]
    for name, scores in (("this model", result), *([(beside["name"], beside)] if beside else [])):
        table.append([name, *(shown(scores[key]) for key in ("accuracy", "macro_f1", "auc"))])
    table.append(["commonest class", shown(result["majority"]), "-", "-"])
    rows = [["class", "frames", "recall", "precision", "F1"]]
    for name in result["classes"]:
        own = result["per_class"][name]
        rows.append([name, str(own["frames"]), *(shown(own[key]) for key in ("recall", "precision", "f1"))])
    simulated = ", SIMULATED data" if result["simulated"] else ""
    lines = [f"{result['windows']} test clips, {result['frames']:,} frames{simulated}", *aligned(table)]
    lines += [f"standard error of the accuracy, over clips: {shown(result['standard_error'])}", "", *aligned(rows)]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])]) + "\n"


def shown(value: float | None, *, digits: int = 3) -> str:
    """Write a score, or a dash where there is none.

    Examples
    --------
    >>> shown(0.5), shown(None)
    ('0.500', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its first column to the left and the others to the right.

    Examples
    --------
    >>> aligned([["a", "bb"], ["aa", "b"]])
    ['a   bb', 'aa   b']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
