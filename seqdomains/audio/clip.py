"""A clip: a sound file or a part of one, and what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqdomains.errors import InputError

_MOST_PROBLEMS = 8  # lines; an error has room for about 1600 characters


@dataclass(frozen=True)
class Clip:
    """A sound file, or a part of one, and what is said of it.

    Parameters
    ----------
    path : Path
    label : str or None
        Its class.
    fields : mapping of str to str
        What else is said of it: speaker, take, split.
    start : float
        Where it begins, s.
    seconds : float or None
        How long it is, s; None: to the end of the file.
    name : str
        Path relative to the manifest or folder that it was found by; of a part of a file, ``path:start-end``.
    """

    path: Path
    label: str | None
    fields: Mapping[str, str]
    start: float = 0.0
    seconds: float | None = None
    name: str = ""


def checked_label(said: object, *, several: bool = False) -> str:
    """Return a label, or raise ValueError; `several`: of a column where `,` and `|` part labels, as in AST.

    Examples
    --------
    >>> checked_label(" seven "), checked_label(7)
    ('seven', '7')
    """
    entries = (
        said if isinstance(said, list) else re.split("[,|]", said) if several and isinstance(said, str) else [said]
    )
    if len(entries) > 1:
        raise ValueError(f"label {said!r}: a clip with several labels cannot be learnt here; give one")
    label = entries[0] if entries else ""
    if isinstance(label, int | float):
        label = json.dumps(label)
    if not isinstance(label, str) or not label.isprintable() or not label.strip():
        raise ValueError(f"label {label!r}: expected a name without tabs and line ends, for it goes into tables")
    return label.strip()


def first_of(names: Sequence[str]) -> str:
    """Return up to three names as text."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def refuse(problems: Sequence[str]) -> None:
    """Raise one InputError of all problems, where there are any."""
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise InputError("\n".join([*problems[:_MOST_PROBLEMS], *more]))


def is_there(kind: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path is of a kind, such as `Path.is_file`; False where that cannot be told."""
    try:
        return kind(path)
    except OSError:  # a name that is too long, or a folder that may not be read
        return False
