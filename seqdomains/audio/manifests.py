"""Lists of clips as others write them: JSON lines, CSV, TSV, fairseq's TSV, AST's JSON; and tables of labels."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from seqdomains.audio.clip import Clip, checked_labels, first_of, is_there, named, refuse
from seqdomains.errors import InputError
from seqdomains.files import parse_json, read_bounded

# NeMo, lists of our own, speechbrain, ESC-50 and Hugging Face; the first that is there is read.
FILE_COLUMNS = ("audio_filepath", "path", "wav", "file", "filename", "file_name")
_LABEL_COLUMNS = ("label", "labels", "category", "text")
# Of a column that is called `labels`, as in AST, AudioSet and a table of predictions, where no other is stated.
_SEPARATORS = ",|;"
_START_COLUMNS = ("offset", "start")
_EVENT_COLUMNS = ("segments", "events")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".json")  # NeMo's lists of JSON lines end in .json
_LARGEST_LIST = 256 << 20  # bytes; over a million clips
# A row is read when it is called, so that a bad one is a ValueError beside its place and the next can follow.
_Row = tuple[str, Callable[[], Mapping[str, object]]]


def is_manifest(path: Path) -> bool:
    """Tell by its name whether a file is a list of clips.

    Examples
    --------
    >>> is_manifest(Path("train.JSONL")), is_manifest(Path("a.wav"))
    (True, False)
    """
    return path.suffix.lower() in (*_DELIMITERS, *_JSON_LINES)


def read_manifest(path: Path, *, own_labels: bool, separator: str | None = None) -> list[Clip]:
    """Return the clips that a list names; their labels too where these are its `own_labels`.

    A list of JSON has several labels of a clip; in a text they stand between `separator`, or in a column `labels`
    between any of ``,``, ``|`` and ``;``.

    Raises
    ------
    InputError
        It cannot be read, a row of it is bad, or a file does not exist; names lines.
    """
    root, rows = _table_rows(path) if path.suffix.lower() in _DELIMITERS else (path.parent, _json_rows(path))
    clips: list[Clip] = []
    problems: list[str] = []
    missing: list[str] = []
    for place, row in rows:
        try:
            clips.append(_clip(root, row(), _LABEL_COLUMNS if own_labels else (), separator))
        except ValueError as error:
            problems.append(f"{path}, {place}: {error}")
        else:
            if not is_there(Path.is_file, clips[-1].path):
                missing.append(f"{place}: {clips[-1].path}")
    if missing:
        problems.append(
            f"{path}: {len(missing)} of {len(rows)} files do not exist, first {'; '.join(missing[:3])}; relative paths "
            f"start at {root}"
        )
    refuse(problems)
    if not clips:
        raise InputError(f"{path} lists no clip: expected one per line")
    return clips


def read_text(path: Path) -> str:
    """Return the text of a list.

    Raises
    ------
    InputError
        It cannot be read, is too large, or is not UTF-8.
    """
    try:
        data = read_bounded(path, _LARGEST_LIST).removeprefix(b"\xef\xbb\xbf")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: byte {data[error.start]:#x} is not UTF-8; save it as UTF-8") from error


def _json_rows(path: Path) -> list[_Row]:
    text = read_text(path)
    if path.suffix.lower() == ".json":
        with suppress(ValueError):  # lines of JSON are no JSON
            document = parse_json(text)
            if isinstance(document, dict) and isinstance(document.get("data"), list):
                return [(f"entry {n}", partial(_object, entry)) for n, entry in enumerate(document["data"], start=1)]
    lines = enumerate(text.split("\n"), start=1)  # not splitlines: strings of JSON may have its other line ends
    return [(f"line {n}", partial(_parsed, line)) for n, line in lines if line.strip()]


def _parsed(line: str) -> Mapping[str, object]:
    try:
        return _object(parse_json(line))
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON, {error.msg} at column {error.colno}: {line[:80]!r}") from None


def _object(entry: object) -> Mapping[str, object]:
    if not isinstance(entry, dict):
        raise ValueError(f'expected {{"audio_filepath": "a.wav", "label": "yes"}}, found {str(entry)[:80]!r}')
    return entry


def read_table(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a table with the numbers of their lines, without empty ones.

    Raises
    ------
    InputError
        As `read_text`, or a quote is not closed.
    """
    delimiter = _DELIMITERS.get(path.suffix.lower(), "\t")
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    try:
        return [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; is a quote open, or the separator another?"
        ) from error


def _table_rows(path: Path) -> tuple[Path, list[_Row]]:
    table = read_table(path)
    if not table:
        raise InputError(f"{path} is empty: expected a header such as filename,label")
    root, (line, header) = path.parent, table[0]
    if len(header) == 1 and header[0] not in FILE_COLUMNS and is_there(Path.is_dir, root / header[0]):
        root, header = root / header[0], ["path", "frames"]
    elif twice := [column for column, count in Counter(header).items() if count > 1]:
        raise InputError(f"{path}, line {line}: column {twice[0]!r} is there twice; columns need names of their own")
    elif not set(header) & set(FILE_COLUMNS):
        raise InputError(
            f"{path}, line {line}: found the columns {first_of(header)}; expected a header with one of "
            f"{', '.join(FILE_COLUMNS)}, or the root folder of a fairseq manifest"
        )
    return root, [(f"line {line}", partial(_record, header, cells)) for line, cells in table[1:]]


def _record(header: Sequence[str], cells: Sequence[str]) -> Mapping[str, object]:
    if len(cells) != len(header):
        raise ValueError(
            f"{len(cells)} cells, expected {len(header)} ({', '.join(header)}); quote cells with separators"
        )
    return dict(zip(header, cells, strict=True))


def _clip(root: Path, row: Mapping[str, object], label_columns: Sequence[str], separator: str | None) -> Clip:
    file_column, file = _given(row, FILE_COLUMNS)
    label_column, label = _given(row, label_columns)
    start_column, start = _given(row, _START_COLUMNS)
    _, duration = _given(row, ("duration",))
    if not isinstance(file, str) or not file:
        raise ValueError(f"no file: expected a path as {file_column or ' or '.join(FILE_COLUMNS)}, found {file!r}")
    if start_column == "start" and (end := {"stop", "end"} & row.keys()):
        raise ValueError(f"`start` and `{min(end)}` may be samples or seconds: expected offset and duration in seconds")
    seconds = _seconds(duration, "duration")
    if seconds == 0:
        raise ValueError("duration: 0 s hold no sound; leave it empty for the whole file")
    path = root / file
    separators = separator or (_SEPARATORS if label_column == "labels" else "")
    labels = () if label is None else checked_labels(label, separators=separators)
    read = {file_column, label_column, start_column, "duration", ""}  # pandas writes its index under an empty name
    return Clip(
        path,
        labels[0] if labels else None,
        {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in row.items()
            if key not in read and (isinstance(value, str | int | float) or _is_names(value))
        },
        _seconds(start, start_column) or 0.0,
        seconds,
        (path.relative_to(root) if path.is_relative_to(root) else path).as_posix(),
        labels[1:],
        _given(row, _EVENT_COLUMNS)[1],
    )


def _is_names(value: object) -> bool:
    """Whether a value is a list that may be labels."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _given(row: Mapping[str, object], columns: Sequence[str]) -> tuple[str, object]:
    return next(((column, row[column]) for column in columns if column in row), ("", None))


def _seconds(value: object, column: str) -> float | None:
    if value is None or value == "":
        return None
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{column}: expected seconds, 0 or more, found {value!r}")
    return number


def read_labels(path: Path, *, separator: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return the labels of a table ``file<TAB>label``, or of a CSV; several of a file stand between `separator`.

    Raises
    ------
    InputError
        It cannot be read or a row is bad; names lines.
    """
    rows = read_table(path)
    separators = separator or ""
    if rows and rows[0][1][0] in FILE_COLUMNS and rows[0][1][-1] in _LABEL_COLUMNS:
        separators = separator or (_SEPARATORS if rows[0][1][-1] == "labels" else "")
        rows = rows[1:]
    labels: dict[str, tuple[str, ...]] = {}
    problems = []
    for line, cells in rows:
        try:
            if len(cells) != 2 or not cells[0]:
                raise ValueError(f"expected `file<TAB>label`, or file,label in a .csv, found {' | '.join(cells)!r}")
            own = checked_labels(cells[1], separators=separators)
            file = Path(cells[0]).as_posix()
            if labels.setdefault(file, own) != own:
                raise ValueError(f"{file!r} is labelled {named(labels[file])} and {named(own)}")
        except ValueError as error:
            problems.append(f"{path}, line {line}: {error}")
    refuse(problems)
    return labels
