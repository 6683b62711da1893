"""A clip: a sound file or a part of one, and what is said of it."""

from __future__ import annotations

import json
import re
from collections import Counter
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
        Its class, or the first of several.
    fields : mapping of str to str
        What else is said of it: speaker, take, split.
    start : float
        Where it begins, s.
    seconds : float or None
        How long it is, s; None: to the end of the file.
    name : str
        Path relative to the manifest or folder that it was found by; of a part of a file, ``path:start-end``.
    others : tuple of str
        Its classes beside `label`.
    events : object
        What a manifest says of when what is heard, as it says it; see `seqdomains.audio.segments`.

    Examples
    --------
    >>> Clip(Path("street.wav"), "dog", {}, others=("rain",)).labels
    ('dog', 'rain')
    """

    path: Path
    label: str | None
    fields: Mapping[str, str]
    start: float = 0.0
    seconds: float | None = None
    name: str = ""
    others: tuple[str, ...] = ()
    events: object = None

    @property
    def labels(self) -> tuple[str, ...]:
        """All that is said of its class."""
        return () if self.label is None else (self.label, *self.others)


def checked_label(said: object) -> str:
    """Return a label, or raise ValueError.

    Examples
    --------
    >>> checked_label(" seven "), checked_label(7)
    ('seven', '7')
    """
    label = json.dumps(said) if isinstance(said, int | float) else said
    if not isinstance(label, str) or not label.isprintable() or not label.strip():
        raise ValueError(f"label {label!r}: expected a name without tabs and line ends, for it goes into tables")
    return label.strip()


def checked_labels(said: object, *, separators: str = "") -> tuple[str, ...]:
    """Return the labels of a list, or of a text that has one of `separators` between them; or raise ValueError.

    Examples
    --------
    >>> checked_labels(["dog", "rain"]), checked_labels("dog; rain", separators=";"), checked_labels("dog; rain")
    (('dog', 'rain'), ('dog', 'rain'), ('dog; rain',))
    """
    if isinstance(said, str) and separators:
        entries: list[object] = [*re.split(f"[{re.escape(separators)}]", said)]
    else:
        entries = said if isinstance(said, list) else [said]
    if not entries:
        raise ValueError("an empty list of labels: name one at least, or leave the clip out")
    if len(entries) > 1 and (empty := [one for one in entries if isinstance(one, str) and not one.strip()]):
        raise ValueError(f"an empty label ({empty[0]!r}) among those of {said!r}: remove it or its separator")
    labels = tuple(checked_label(one) for one in entries)
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise ValueError(f"label {twice[0]!r} stands twice in {said!r}: name each once")
    return labels


def first_of(names: Sequence[str]) -> str:
    """Return up to three names as text."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def named(labels: Sequence[str]) -> str:
    """Return labels as text.

    Examples
    --------
    >>> named(("dog",)), named(("dog", "rain"))
    ("'dog'", "'dog' with 'rain'")
    """
    return " with ".join(map(repr, labels)) or "nothing"


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
