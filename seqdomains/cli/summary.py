"""An evaluation as a person reads it on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def as_text(
    result: Mapping[str, Any], *, units: str = "windows", baseline: str = "k-mer baseline", ranks: bool = False
) -> str:
    r"""Write an evaluation as text.

    Parameters
    ----------
    result : mapping
        What `seqdomains.pipelines.evaluate.evaluate` returns.
    units, baseline : str
        What was scored, and what the simple reference is called.
    ranks : bool
        Whether to say how scores rank.

    Returns
    -------
    str
        Lines that end with a newline.

    Examples
    --------
    >>> import numpy as np
    >>> from seqdomains.pipelines.evaluate import summarise
    >>> counts = np.array([[8, 2], [1, 9]])
    >>> result = summarise(
    ...     counts, ("a", "b"), ceiling=0.95, baseline=None, cross_entropy=0.4, simulated=True, notes=()
    ... )
    >>> print(as_text(result), end="")
    20 test windows, SIMULATED data
    accuracy          0.850   95 % interval 0.640 to 0.948
    chance            0.500
    marker oracle     0.950   best possible on these windows
    share of the way   78 %   (accuracy - chance) / (oracle - chance)
    <BLANKLINE>
    true \ predicted  a  b
    a                 8  2
    b                 1  9
    """
    low, high = result["interval"]
    lines = [
        f"{result['windows']} test {units}{', SIMULATED data' if result['simulated'] else ''}",
        f"accuracy          {result['accuracy']:.3f}   95 % interval {low:.3f} to {high:.3f}",
        f"chance            {result['chance']:.3f}",
    ]
    if result["baseline"]:
        low, high = result["baseline"]["interval"]
        name = f"{result['baseline']['name']}, {low:.3f} to {high:.3f}"
        lines.append(f"{baseline:16}  {result['baseline']['accuracy']:.3f}   {name}")
    lines += _beside(result)
    if ranks and result["d_prime"] is not None:
        scores = (result[key] for key in ("macro_f1", "mean_average_precision", "d_prime"))
        lines.append("macro F1 {:.3f}, mean average precision {:.3f}, d' {:.2f}".format(*scores))
    if result["ceiling"] is not None:
        lines.append(f"marker oracle     {result['ceiling']:.3f}   best possible on these windows")
    if result["share_of_the_way"] is not None:
        share = f"{100 * result['share_of_the_way']:.0f} %"
        lines.append(f"share of the way  {share:>5}   (accuracy - chance) / (oracle - chance)")
    lines += ["", *_confusion(result["classes"], result["confusion"])]
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines) + "\n"


def _beside(result: Mapping[str, Any]) -> list[str]:
    """Write the groups of test windows, and the controls, of which one above chance is told."""
    lines = []
    for name, part in result.get("groups", {}).items():
        low, high = part["interval"]
        lines.append(f"{name:16}  {part['accuracy']:.3f}   {low:.3f} to {high:.3f}, {part['windows']} windows")
    for control in result.get("controls", ()):
        low, high = control["interval"]
        verdict = (
            "as by chance" if low <= result["chance"] else "ABOVE CHANCE: the classes differ in more than sequence"
        )
        lines.append(f"{control['name']:16}  {control['accuracy']:.3f}   control, {low:.3f} to {high:.3f}: {verdict}")
    return lines


def bits_as_text(result: Mapping[str, Any], *, units: str = "windows", position: str = "position") -> str:
    """Write an evaluation of a language model as text.

    Parameters
    ----------
    result : mapping
        What `seqdomains.pipelines.bits.evaluate_bits` returns.
    units, position : str
        What was scored, and what one position of it is.

    Returns
    -------
    str
        Lines that end with a newline.

    Examples
    --------
    >>> import numpy as np
    >>> from seqdomains.pipelines.bits import summarise_bits
    >>> result = summarise_bits(
    ...     np.array([100.0, 220.0]), np.array([100, 100]), codes=256,
    ...     baselines=[{"name": "order-1 Markov chain", "bits": 5.54}], simulated=False, notes=(),
    ... )
    >>> print(bits_as_text(result, units="clips", position="sample"), end="")
    2 test clips, 200 samples
    bits per sample       2.308 ± 0.866
    order-1 Markov chain  5.540
    all codes alike       8.000
    """
    heading = f"{result['windows']} test {units}, {result['positions']:,} {position}s"
    rows = [
        (f"bits per {position}", result["bits"], result["standard_error"]),
        *((baseline["name"], baseline["bits"], None) for baseline in result["baselines"]),
        ("all codes alike", result["uniform"], None),
    ]
    return _beside_references(heading, rows, result)


def errors_as_text(result: Mapping[str, Any], *, units: str = "windows") -> str:
    """Write an evaluation of a reconstructor as text.

    Parameters
    ----------
    result : mapping
        What `seqdomains.pipelines.reconstruction.evaluate_reconstruction` returns.
    units : str
        What was scored.

    Returns
    -------
    str
        Lines that end with a newline.

    Examples
    --------
    >>> import numpy as np
    >>> from seqdomains.pipelines.reconstruction import summarise_errors
    >>> result = summarise_errors(
    ...     np.array([10.0, 30.0]), np.array([100, 100]), baselines=[{"name": "last visible patch", "error": 1.5}],
    ...     simulated=True, notes=("half is hidden",),
    ... )
    >>> print(errors_as_text(result), end="")
    2 test windows, 200 hidden patches, SIMULATED data
    squared error       0.200 ± 0.100
    last visible patch  1.500
    note: half is hidden
    """
    heading = f"{result['windows']} test {units}, {result['positions']:,} hidden patches"
    rows = [("squared error", result["error"], result["standard_error"])]
    rows += [(baseline["name"], baseline["error"], None) for baseline in result["baselines"]]
    return _beside_references(heading, rows, result)


def _beside_references(heading: str, rows: Sequence[tuple[str, float, float | None]], result: Mapping[str, Any]) -> str:
    """Write names with their figures, and standard errors where there are any."""
    width = max(len(name) for name, _, _ in rows)
    lines = [heading + (", SIMULATED data" if result["simulated"] else "")]
    lines += [
        f"{name.ljust(width)}  {figure:.3f}{'' if error is None else f' ± {error:.3f}'}" for name, figure, error in rows
    ]
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines) + "\n"


def _confusion(classes: list[str], counts: list[list[int]]) -> list[str]:
    corner = "true \\ predicted"
    first = max(len(corner), *(len(name) for name in classes))
    widths = [max(len(name), len(str(max(row[index] for row in counts)))) for index, name in enumerate(classes)]
    rows = [[corner, *classes], *([name, *map(str, row)] for name, row in zip(classes, counts, strict=True))]
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    ]
