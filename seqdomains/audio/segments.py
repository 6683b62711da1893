"""Labels by time: segments of a manifest, Audacity's label tracks and RTTM beside the clips, or one table of all."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqdomains.audio.clip import Clip, checked_label, first_of, is_there, refuse
from seqdomains.audio.manifests import FILE_COLUMNS, read_table, read_text
from seqdomains.errors import InputError

# Of files beside the clips.
_SIDES = (".txt", ".tsv", ".rttm")
_COLUMNS = ("start", "end", "label")
# Two segments may overlap so much, s: tables round.
_ROUNDED = 1e-3
_RTTM_FIELDS = 8


@dataclass(frozen=True)
class Segment:
    """A stretch of a sound, in s from its beginning, and what it is.

    Examples
    --------
    >>> Segment(0.5, 1.0, "speech").end
    1.0
    """

    start: float
    end: float
    label: str


def segments_of(
    clips: Sequence[Clip], *, table: Path | None, background: str, activity: str | None = None
) -> list[tuple[Segment, ...]]:
    r"""Return the segments of each clip, in order of time, none of which overlap.

    They are looked for in the `table` where there is one, else in the clip's row of its manifest (a column ``segments``
    or ``events``: a list of ``[start, end, label]``), else in the file of its name that ends in .txt or .tsv (a label
    track of Audacity, or columns ``start``, ``end`` and ``label``) or .rttm. All times are s from the beginning of the
    file.

    Parameters
    ----------
    clips : sequence of Clip
    table : Path, optional
        RTTM, or a TSV or CSV with a header that has ``file``, ``start``, ``end`` and ``label``. A clip that it does not
        name has no segment.
    background : str
        What segments of this label say, there is no need to say.
    activity : str, optional
        The label of all segments, which may then overlap.

    Raises
    ------
    InputError
        A clip has no segments in its manifest and no file of them, or a segment is bad: all problems, by file and line.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.txt").write_text("0.5\t1.0\tdog\n1.0\t1.5\train\n")
    >>> segments_of([Clip(folder / "a.wav", None, {})], table=None, background="background")
    [(Segment(start=0.5, end=1.0, label='dog'), Segment(start=1.0, end=1.5, label='rain'))]
    """
    raw = _of_table(clips, table) if table is not None else _of_clips(clips)
    found, problems = [], []
    for rows in raw:
        segments = []
        for where, start, end, label in rows:
            try:
                segments.append(_segment(start, end, label, background, activity))
            except ValueError as error:
                problems.append(f"{where}: {error}")
        try:
            found.append(_in_order(segments, background))
        except ValueError as error:
            problems.append(f"{rows[0][0].rpartition(', ')[0]}: {error}")
    refuse(problems)
    return found


# Where it is said, and start, end and label as they are said.
_Row = tuple[str, object, object, object]


def _of_clips(clips: Sequence[Clip]) -> list[list[_Row]]:
    found: list[list[_Row]] = []
    lacking = []
    for clip in clips:
        beside = [path for end in _SIDES if is_there(Path.is_file, path := clip.path.with_suffix(end))]
        if clip.events is not None:
            found.append(list(_of_manifest(clip)))
        elif len(beside) == 1:
            found.append([row for _, row in _read(beside[0])])
        elif beside:
            raise InputError(
                f"{clip.path} has {' and '.join(path.name for path in beside)} beside it: keep one of them"
            )
        else:
            lacking.append(clip.path.name)
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(clips)} clips have no segments, first {first_of(lacking)}: expected `segments` in "
            f"the manifest, a file beside each that ends in {', '.join(_SIDES)} (an empty one where nothing is heard), "
            "or a table of all with --labels"
        )
    return found


def _of_manifest(clip: Clip) -> Iterator[_Row]:
    if not isinstance(clip.events, list):
        raise InputError(
            f"{clip.path}: its segments are {str(clip.events)[:80]!r}, expected a list of [start, end, label]"
        )
    for number, one in enumerate(clip.events, start=1):
        where = f"{clip.path}, segment {number}"
        row = [one.get(key) for key in _COLUMNS] if isinstance(one, Mapping) else one
        if not isinstance(row, list) or len(row) != len(_COLUMNS):
            raise InputError(f"{where}: expected [start, end, label], found {str(one)[:80]}")
        yield (where, *row)


def _of_table(clips: Sequence[Clip], path: Path) -> list[list[_Row]]:
    rows: dict[str, list[_Row]] = defaultdict(list)
    for file, row in _read(path, named=True):
        rows[file].append(row)
    # By the path in the manifest or folder, or by the file's name with or without its suffix, as RTTM has it.
    places: dict[str, set[int]] = defaultdict(set)
    for place, clip in enumerate(clips):
        for name in (clip.name, clip.path.as_posix(), clip.path.name, clip.path.stem):
            places[name].add(place)
    found: list[list[_Row]] = [[] for _ in clips]
    problems = []
    if unknown := [file for file in rows if file not in places]:
        problems.append(f"{path} names {len(unknown)} files that are not there: {first_of(unknown)}; remove them")
    for file, own in rows.items():
        files = {clips[place].path for place in places.get(file, ())}
        if len(files) > 1:
            problems.append(f"{own[0][0]}: {file!r} is the name of {len(files)} clips: write the paths of the manifest")
        for place in places.get(file, ()):
            found[place] += own
    refuse(problems)
    return found


def _read(path: Path, *, named: bool = False) -> Iterator[tuple[str, _Row]]:
    """Yield the file that a row of a table names, where it is `named`, and the row."""
    if path.suffix.lower() == ".rttm":
        yield from _rttm(path)
        return
    # The second line of a label with a range of frequencies begins with a backslash.
    rows = [(line, cells) for line, cells in read_table(path) if not cells[0].startswith("\\")]
    wanted = ("file", *_COLUMNS) if named else _COLUMNS
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if named:
        header = ["file" if cell in FILE_COLUMNS else cell for cell in header]
    if set(_COLUMNS) <= set(header) or named:
        if rows and (lacking := [column for column in wanted if column not in header]):
            raise InputError(
                f"{path}, line {rows[0][0]}: found the columns {first_of(rows[0][1])}; expected a header with "
                f"{', '.join(wanted)} (lacking: {lacking[0]})"
            )
        rows = rows[1:]
    else:
        header = list(_COLUMNS)
    for line, cells in rows:
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise InputError(f"{where}: {len(cells)} cells, expected {len(header)}: {', '.join(header)}")
        row = dict(zip(header, cells, strict=True))
        yield (Path(row["file"]).as_posix() if named else ""), (where, row["start"], row["end"], row["label"])


def _rttm(path: Path) -> Iterator[tuple[str, _Row]]:
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        cells = text.split()
        if not cells or cells[0].startswith(";") or cells[0] == "SPKR-INFO":
            continue
        where = f"{path}, line {line}"
        if cells[0] != "SPEAKER" or len(cells) < _RTTM_FIELDS:
            raise InputError(
                f"{where}: expected `SPEAKER file channel start duration <NA> <NA> label`, found {text[:80]!r}"
            )
        start, duration = (_number(cell) for cell in cells[3:5])
        # What is no number stays as it is, for the error to quote.
        end = cells[4] if start is None or duration is None else start + duration
        yield cells[1], (where, cells[3], end, cells[7])


def _number(said: object) -> float | None:
    if not isinstance(said, str | int | float) or isinstance(said, bool):
        return None
    try:
        number = float(said)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _segment(start: object, end: object, label: object, background: str, activity: str | None) -> Segment:
    first, last = _number(start), _number(end)
    if first is None or last is None or not 0 <= first < last:
        raise ValueError(f"from {start!r} to {end!r}: expected times in s, 0 or more, the end after the start")
    if activity is not None and label != background:
        return Segment(first, last, activity)
    return Segment(first, last, checked_label(label))


def _in_order(segments: Iterable[Segment], background: str) -> tuple[Segment, ...]:
    """Sort segments, join those of one label that overlap, and drop the background."""
    done: list[Segment] = []
    for one in sorted(segments, key=lambda one: (one.start, one.end)):
        before = done[-1] if done else None
        if before is None or one.start >= before.end - _ROUNDED:
            done.append(one)
        elif one.label == before.label:
            done[-1] = Segment(before.start, max(before.end, one.end), one.label)
        else:
            raise ValueError(
                f"{before.label!r} lasts until {before.end:g} s and {one.label!r} begins at {one.start:g} s: a frame "
                "has one class; part them, or take all of them as one with data.activity"
            )
    return tuple(one for one in done if one.label != background)


def in_part(segments: Iterable[Segment], *, start: float, seconds: float) -> tuple[Segment, ...]:
    """Return what is heard in a part of a sound, in s from the part's beginning.

    Examples
    --------
    >>> in_part([Segment(0.0, 2.0, "dog"), Segment(5.0, 6.0, "dog")], start=1.5, seconds=2.0)
    (Segment(start=0.0, end=0.5, label='dog'),)
    """
    moved = ((max(0.0, one.start - start), min(seconds, one.end - start), one.label) for one in segments)
    return tuple(Segment(first, last, label) for first, last, label in moved if first < last)
