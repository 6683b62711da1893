"""Tables of what is said of positions one by one: importance and the change of the score for every alternative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.files import output_file
from seqdomains.pipelines.explain import ExplainedStretch
from seqdomains.pipelines.tables import PARQUET_SUFFIXES, Table

_ROW_GROUP = 1 << 16


@contextmanager
def open_changes(path: Path, *, letters: Sequence[str]) -> Iterator[Table[ExplainedStretch]]:
    r"""Open a table of changes; the file stands under its name once all is written, and not at all on failure.

    Columns: record, start, end (0-based half-open), base, of (what was scored), importance, and the change of the score
    for each code. ``.parquet`` or ``.pq`` gives Parquet with float32, else TSV with 6 digits.

    Parameters
    ----------
    path : Path
    letters : sequence of str
        Of the codes 0, 1, ... that stand for each other, in the order of the changes.

    Raises
    ------
    InputError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "changes.tsv"
    >>> one = ExplainedStretch("chr1", np.array([7]), np.array([8]), np.array([1], np.uint8), "human")
    >>> with open_changes(path, letters="AC") as table:
    ...     table.write(one, np.array([[0.25, -0.5, 0.0]]))
    >>> path.read_text().splitlines()[1].split("\t")
    ['chr1', '7', '8', 'C', 'human', '0.25', '-0.5', '0']
    """
    names = ["record", "start", "end", "base", "of", "importance", *(f"to_{letter}" for letter in letters)]
    try:
        with output_file(path) as partial:
            if path.suffix.lower() in PARQUET_SUFFIXES:
                kinds = [
                    pa.string(),
                    pa.int64(),
                    pa.int64(),
                    pa.string(),
                    pa.string(),
                    *[pa.float32()] * len(names[5:]),
                ]
                schema = pa.schema(list(zip(names, kinds, strict=True)))
                with partial.open("wb") as binary, pq.ParquetWriter(binary, schema, compression="zstd") as writer:
                    rows = _Parquet(writer, schema, letters)
                    yield rows
                    rows.flush()
            else:
                with partial.open("w", encoding="utf-8", newline="\n") as text:
                    text.write("#" + "\t".join(names) + "\n")
                    yield _Tsv(text, letters)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


class _Tsv:
    def __init__(self, handle: IO[str], letters: Sequence[str]) -> None:
        self._handle = handle
        self._letters = letters

    def begin_input(self) -> None:
        return

    def write(self, spans: ExplainedStretch, values: NDArray[np.float64]) -> None:
        rows = zip(spans.starts.tolist(), spans.codes.tolist(), values.tolist(), strict=True)
        self._handle.write(
            "".join(
                f"{spans.record}\t{start}\t{start + 1}\t{self._letters[code]}\t{spans.of}\t"
                + "\t".join(f"{value:.6g}" for value in row)
                + "\n"
                for start, code, row in rows
            )
        )

    def drop_input(self) -> bool:
        return False


class _Parquet:
    """Rows wait for a row group."""

    def __init__(self, writer: Any, schema: Any, letters: Sequence[str]) -> None:
        self._writer = writer
        self._schema = schema
        self._letters = np.array(list(letters), dtype=object)
        self._waiting: list[Any] = []
        self._count = 0

    def begin_input(self) -> None:
        return

    def write(self, spans: ExplainedStretch, values: NDArray[np.float64]) -> None:
        alike = pa.array(np.zeros(len(spans), np.int32))
        columns = [
            pa.array([spans.record], pa.string()).take(alike),
            pa.array(spans.starts),
            pa.array(spans.ends),
            pa.array(self._letters[spans.codes], pa.string()),
            pa.array([spans.of], pa.string()).take(alike),
            *(pa.array(column) for column in values.T.astype(np.float32)),
        ]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._count += len(spans)
        if self._count >= _ROW_GROUP:
            self.flush()

    def drop_input(self) -> bool:
        return False

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting, self._count = [], 0
