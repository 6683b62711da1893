"""Tables with a sequence in each row: CSV or TSV, plain or gzip, as published benchmarks come."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import GapPolicy, encode
from seqdomains.genomics.fasta import as_input_errors, open_text

_TABLE = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)
_NAME_COLUMNS = ("name", "id", "record")
# Python's csv refuses cells over 131,072 characters; longer sequences than this are better read by position, as FASTA.
_LONGEST_LINE = 1 << 24
_MOST_PROBLEMS = 8
_MOST_COLUMNS = 12


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Parameters
    ----------
    name : str
        The cell of the column name, id or record, or ``line7`` where there is none.
    line : int
        1-based line on which it ends.
    codes : ndarray of uint8, shape (length,)
        Its sequence.
    cells : mapping of str to str
        The columns that were asked for.
    """

    name: str
    line: int
    codes: NDArray[np.uint8] = field(repr=False)
    cells: Mapping[str, str]


def is_table(path: Path | str) -> bool:
    """Tell a table by its suffix.

    Examples
    --------
    >>> [is_table(name) for name in ("train.csv", "enhancers.tsv.gz", "refs.fasta")]
    [True, True, False]
    """
    return bool(_TABLE.search(str(path)))


def columns_of(path: Path) -> tuple[str, ...]:
    """Return the header of a table.

    Raises
    ------
    InputError
        It cannot be read, or is empty.
    """
    with _rows(path) as rows:
        return tuple(next(rows)[1])


def read_table(
    path: Path, *, sequence_column: str = "sequence", columns: Collection[str] = (), policy: GapPolicy = "reject"
) -> list[Row]:
    r"""Read all rows of a table; the first line names the columns.

    Parameters
    ----------
    path : Path
        ``.csv`` with commas or ``.tsv`` with tabs, as UTF-8, also with ``.gz``.
    sequence_column : str
        The column of the sequences: IUPAC letters in either case.
    columns : collection of str
        Other columns that are wanted, none of whose cells may be empty.
    policy : {"reject", "mask"}
        Whether gap characters are an error or become the mask code.

    Raises
    ------
    InputError
        The file cannot be read, lacks a column or has no row, or rows are bad: each is named by its line.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.csv"
    >>> _ = path.write_text("sequence,label\nACGT,promoter\nTTGACA,other\n")
    >>> [(row.name, row.codes.size, row.cells["label"]) for row in read_table(path, columns=["label"])]
    [('line2', 4, 'promoter'), ('line3', 6, 'other')]
    """
    found: list[Row] = []
    problems: list[str] = []
    bad = 0
    with _rows(path) as rows:
        line, header = next(rows)
        _check_header(path, line, header, (sequence_column, *columns))
        for line, cells in rows:
            try:
                found.append(_row(line, header, cells, sequence_column, columns, policy))
            except (InputError, ValueError) as error:
                bad += 1
                if bad <= _MOST_PROBLEMS:
                    problems.append(f"{path}, line {line}: {error}")
    if problems:
        more = [f"and {bad - _MOST_PROBLEMS} more"] if bad > _MOST_PROBLEMS else []
        raise InputError("\n".join([*problems, *more]))
    if not found:
        raise InputError(f"{path} has a header and no row: expected a sequence in each")
    return found


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Give line number and cells of each row that is not blank, the header first."""
    before = csv.field_size_limit(_LONGEST_LINE)
    try:
        with open_text(path) as handle, as_input_errors(str(path)):
            yield _parsed(path, handle)
    finally:
        csv.field_size_limit(before)


def _parsed(path: Path, handle: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    reader = csv.reader(_lines(path, handle), delimiter=delimiter, strict=True)
    empty = True
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                empty = False
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; is a quote open, or are line ends those of old Macs?"
        ) from error
    if empty:
        raise InputError(f"{path} is empty: expected a header such as sequence,label and a row for each sequence")


def _lines(path: Path, handle: BinaryIO) -> Iterator[str]:
    number = 0
    while raw := handle.readline(_LONGEST_LINE + 1):
        number += 1
        if len(raw) > _LONGEST_LINE:
            raise InputError(f"{path}, line {number}: over {_LONGEST_LINE} characters; give sequences as long as FASTA")
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number}: byte {raw[error.start]:#x} is not UTF-8; save it as UTF-8"
            ) from error


def _check_header(path: Path, line: int, header: Sequence[str], wanted: Collection[str]) -> None:
    if twice := [column for column, count in Counter(header).items() if count > 1 and column in wanted]:
        raise InputError(f"{path}, line {line}: column {twice[0]!r} is there twice; columns need names of their own")
    missing = [column for column in wanted if column not in header]
    if missing:
        more = f" and {len(header) - _MOST_COLUMNS} more" if len(header) > _MOST_COLUMNS else ""
        hint = "; is `;` the separator? save it with commas" if len(header) == 1 and ";" in header[0] else ""
        raise InputError(
            f"{path}, line {line}: no column {missing[0]!r}; the columns are "
            f"{', '.join(map(repr, header[:_MOST_COLUMNS]))}{more}: rename it, or name the one that is meant with "
            f"--sequence-column (data.sequence_column) or --label-from column:NAME{hint}"
        )


def _row(
    line: int,
    header: Sequence[str],
    cells: Sequence[str],
    sequence_column: str,
    columns: Collection[str],
    policy: GapPolicy,
) -> Row:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells, expected {len(header)}; quote cells that hold the separator")
    by_column = dict(zip(header, cells, strict=True))
    name = next((by_column[column] for column in _NAME_COLUMNS if by_column.get(column)), f"line{line}")
    if not by_column[sequence_column]:
        raise ValueError(f"the column {sequence_column!r} is empty: expected a sequence")
    if empty := [column for column in columns if not by_column[column]]:
        raise ValueError(f"the column {empty[0]!r} is empty: fill it or remove the row")
    if not name.isprintable():
        raise ValueError(f"name {name!r}: expected one without tabs and line ends, for it goes into tables")
    codes = encode(by_column[sequence_column], policy=policy, record=name)
    return Row(name, line, codes, {column: by_column[column] for column in columns})
