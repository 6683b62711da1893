"""Which clips are for training and which are held out: by a split column, by values, by group, or clip by clip."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.clip import Clip
from seqdomains.audio.clips import did_you_mean, natural
from seqdomains.errors import InputError
from seqdomains.sampling import counter_words
from seqdomains.task import side_of

SplitKind = Literal["auto", "field", "values", "group", "clip"]

_SPEAKER_FIELDS = ("speaker", "speaker_id")
_CLIP_STREAM = 2 << 32
_GROUP_STREAM = 3 << 32
_MOST_NAMES = 12


@dataclass(frozen=True)
class ClipSplit:
    """Clips of each side.

    Parameters
    ----------
    train, held : ndarray of bool, shape (clips,)
        No clip is on both sides; validation clips are on neither where there are test clips.
    kind : {"field", "values", "group", "clip"}
    notes : tuple of str
        What must stand beside a result.
    """

    train: NDArray[np.bool_]
    held: NDArray[np.bool_]
    kind: str
    notes: tuple[str, ...]


def split_clips(
    clips: Sequence[Clip],
    *,
    kind: SplitKind,
    group: str | None = None,
    held_values: Mapping[str, Sequence[str]] | None = None,
    fraction: float = 0.2,
    seed: int = 0,
) -> ClipSplit:
    """Hold out a part of the clips. What is drawn depends on names and seed, not on the order of the clips.

    Parameters
    ----------
    clips : sequence of Clip
    kind : {"auto", "field", "values", "group", "clip"}
        ``field``: as the field `split` says; test clips are held out, or validation clips where there are none.
        ``values``: clips whose fields have the values of `held_values`. ``group``: whole groups, such as speakers.
        ``clip``: files of each class, all parts of a file together. ``auto``: ``values`` where they are given,
        ``field`` where it says train or test, ``group`` where one is given, else ``clip``.
    group : str, optional
        The field that says a clip's group.
    held_values : mapping of str to sequence of str, optional
        Values of each field; a clip is held out when all the fields have one of theirs.
    fraction : float
        Share of the clips to hold out, of all for ``group`` and of each class for ``clip``; at least one group or file.
    seed : int
        Decides which.

    Raises
    ------
    InputError
        A field or value that is not there, a split without a side, or a class with one file.

    Examples
    --------
    >>> clips = [Clip(Path(f"{n}.wav"), "yes", {"speaker": "ab"[n % 2]}, name=f"{n}.wav") for n in range(4)]
    >>> split = split_clips(clips, kind="values", held_values={"speaker": ["b"]})
    >>> split.held.tolist(), split.notes
    ([False, True, False, True], ('Held out: speaker b.',))
    """
    if kind == "auto":
        kind = _fitting_kind(clips, group, held_values)
    if kind == "field":
        train, held, notes = _by_field(clips)
    elif kind == "values":
        held, notes = _by_values(clips, held_values or {})
        train = ~held
    elif kind == "group":
        held, notes = _by_group(clips, group, fraction, seed)
        train = ~held
    else:
        held, notes = _by_clip(clips, fraction, seed)
        train = ~held
    if not (train.any() and held.any()):
        raise InputError(
            f"the split by {kind} leaves {train.sum()} of {len(clips)} clips to train on and holds out {held.sum()}; "
            "both sides need some: split otherwise, or add clips"
        )
    return ClipSplit(train, held, kind, (*notes, *_warnings(clips, train, held)))


def _fitting_kind(
    clips: Sequence[Clip], group: str | None, held_values: Mapping[str, Sequence[str]] | None
) -> SplitKind:
    if held_values:
        return "values"
    if any(_side(clip) for clip in clips):
        return "field"
    return "group" if group else "clip"


def _side(clip: Clip) -> str | None:
    return side_of(clip.fields.get("split", ""))


def _by_field(clips: Sequence[Clip]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[str]]:
    said = _values_of(clips, "split")
    sides = np.array([_side(clip) or "" for clip in clips])
    if unknown := sorted({value for value, side in zip(said, sides.tolist(), strict=True) if not side}):
        raise InputError(
            f"the field split has the values {_listed(map(repr, unknown))}; expected train, valid and test, or another "
            "kind of split"
        )
    held_side = "test" if "test" in sides else "valid"
    held = sides == held_side
    notes = [f"Held out: split {_listed(sorted(set(compress(said, held))))}."]
    if beside := int((sides == "valid").sum()) * (held_side == "test"):
        notes.append(f"{beside} validation clips are on neither side.")
    return sides == "train", held, notes


def _by_values(clips: Sequence[Clip], held_values: Mapping[str, Sequence[str]]) -> tuple[NDArray[np.bool_], list[str]]:
    if not held_values:
        raise InputError("a split by values needs the values to hold out, such as speaker: [jackson]")
    held = np.ones(len(clips), dtype=bool)
    for field, values in held_values.items():
        said = _values_of(clips, field)
        present = sorted(set(said), key=natural)
        if unknown := [value for value in values if value not in present]:
            raise InputError(
                f"no clip has {field} {unknown[0]!r}{did_you_mean(unknown[0], present)}; the values are "
                f"{_listed(present)}"
            )
        held &= np.array([value in values for value in said])
    return held, [f"Held out: {' with '.join(f'{field} {_listed(values)}' for field, values in held_values.items())}."]


def _by_group(
    clips: Sequence[Clip], group: str | None, fraction: float, seed: int
) -> tuple[NDArray[np.bool_], list[str]]:
    if group is None:
        raise InputError("a split by group needs the field that says a clip's group, such as speaker")
    said = _values_of(clips, group)
    size = Counter(said)
    if len(size) < 2:
        raise InputError(f"all clips have {group} {said[0]!r}: at least two groups are needed to hold one out")
    names = sorted(size)
    drawn = [names[place] for place in _drawn(len(names), seed, _GROUP_STREAM)]
    reached = np.searchsorted(np.cumsum([size[name] for name in drawn]), fraction * len(clips)) + 1
    held = set(drawn[: min(int(reached), len(drawn) - 1)])
    return np.array([name in held for name in said]), [f"Held out: {group} {_listed(sorted(held, key=natural))}."]


def _by_clip(clips: Sequence[Clip], fraction: float, seed: int) -> tuple[NDArray[np.bool_], list[str]]:
    places = defaultdict(list)
    for place, clip in enumerate(clips):
        places[clip.path].append(place)
    names = {path: min(clips[place].name for place in inside) for path, inside in places.items()}
    size = Counter(label for clip in clips for label in _classes(clip))
    tagged = any(clip.others for clip in clips)
    held = np.zeros(len(clips), dtype=bool)
    held_of: Counter[str | None] = Counter()
    # Names first: absolute paths are others on another machine, and only part files of one name.
    files = sorted(places, key=lambda path: (names[path], str(path)))
    for draw in _drawn(len(files), seed, _CLIP_STREAM):
        inside = Counter(label for place in places[files[draw]] for label in _classes(clips[place]))
        wanted = any(held_of[label] < max(1, round(fraction * size[label])) for label in inside)
        if wanted and all(held_of[label] + count < size[label] for label, count in inside.items()):
            held[places[files[draw]]] = True
            held_of.update(inside)
    if set(size) == {None}:
        if not held.any():
            raise InputError(
                f"{len(clips)} clips of one file, {clips[0].path}: another file is needed, one to train on and one to "
                "hold out; add some"
            )
        return held, [f"Held out: {held.sum()} of {len(clips)} clips, drawn from all files."]
    # Of clips with several labels a rare one may be only where another may not be spared: notes name it.
    if not tagged and (single := sorted(str(label) for label in size if not held_of[label])):
        raise InputError(
            f"no clip can be held out of {_listed(map(repr, single))}: a class needs clips from two files, one to "
            "train on and one to hold out; add some, remove the class, or split by a field"
        )
    return held, [f"Held out: {held.sum()} of {len(clips)} clips, drawn from each class."]


def _classes(clip: Clip) -> tuple[str | None, ...]:
    """Return a clip's labels; those without one are a class by themselves."""
    return clip.labels or (None,)


def _values_of(clips: Sequence[Clip], field: str) -> list[str]:
    values = [clip.fields[field] for clip in clips if field in clip.fields]
    known = sorted({key for clip in clips for key in clip.fields})
    if not values:
        raise InputError(
            f"no clip has the field {field!r}{did_you_mean(field, known)}; the fields are {_listed(known)}"
        )
    if lacking := [clip.name for clip in clips if field not in clip.fields]:
        raise InputError(f"{len(lacking)} of {len(clips)} clips do not have the field {field!r}, first {lacking[0]!r}")
    return values


def _drawn(count: int, seed: int, stream: int) -> list[int]:
    words = counter_words(seed, stream, 0, count, words=4)[:, 0]
    return [int(place) for place in np.argsort(words, kind="stable")]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(names[:_MOST_NAMES]) or "none") + more


def _warnings(clips: Sequence[Clip], train: NDArray[np.bool_], held: NDArray[np.bool_]) -> list[str]:
    def shared(values: Sequence[str | Path | None]) -> set[str | Path | None]:
        return set(compress(values, train)) & set(compress(values, held)) - {None}

    notes = []
    if any(shared([clip.fields.get(field) for clip in clips]) for field in _SPEAKER_FIELDS):
        notes.append("The same speakers are on both sides.")
    if files := shared([clip.path for clip in clips]):
        notes.append(f"Parts of {len(files)} files are on both sides, first {min(map(str, files))}.")
    labels = [_classes(clip) for clip in clips]
    trained, tested = ({str(label) for own in compress(labels, side) for label in own} for side in (train, held))
    for absent, what in ((tested - trained, "to train on"), (trained - tested, "held out")):
        if absent:
            notes.append(f"No clip {what}: {_listed(sorted(absent, key=natural))}.")
    return notes
