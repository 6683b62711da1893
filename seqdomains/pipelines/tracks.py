"""Values along records, as genome browsers read them: bedGraph, bigWig, or Parquet."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import output_file
from seqdomains.pipelines.tables import PARQUET_SUFFIXES, STDOUT, TABLE_SUFFIXES, Table, TextRows, check_name

BIGWIG_SUFFIXES: Final = (".bw", ".bigwig")
TRACK_SUFFIXES: Final = (".bedgraph", ".bg", *BIGWIG_SUFFIXES)
_ROW_GROUP = 1 << 17


@dataclass(frozen=True)
class Stretches:
    """Neighbouring parts of one record, 0-based half-open."""

    record: str
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


def is_bigwig(output: Path | str) -> bool:
    """Tell by a file's suffix whether it is to be bigWig, which needs the records' lengths before their values.

    Examples
    --------
    >>> is_bigwig("likelihood.bw"), is_bigwig("-")
    (True, False)
    """
    return Path(output).suffix.lower() in BIGWIG_SUFFIXES


@contextmanager
def open_track(
    output: Path | str, *, value: str, lengths: Mapping[str, int] | None = None
) -> Iterator[Table[Stretches]]:
    r"""Open a track; a file stands under its name once all is written, and not at all on failure.

    Parameters
    ----------
    output : Path or str
        A file, or ``-`` for stdout: ``.parquet`` or ``.pq``, ``.bw`` or ``.bigwig``; ``.bedgraph``, ``.bg`` or
        ``.tsv`` for bedGraph with 6 digits, as stdout has it.
    value : str
        What the values are; the name of Parquet's column.
    lengths : mapping of str to int, optional
        Of all records in order, for bigWig.

    Raises
    ------
    ConfigError
        The name ends otherwise, or bigWig needs pyBigWig, which is not there.
    InputError
        The file cannot be written, or two records for bigWig have one name.

    Examples
    --------
    >>> with open_track("-", value="score") as track:  # doctest: +NORMALIZE_WHITESPACE
    ...     track.write(Stretches("chr1", np.array([0, 2]), np.array([2, 3])), np.array([[0.5], [1.0]]))
    chr1	0	2	0.5
    chr1	2	3	1
    """
    path = Path(output)
    check_name(output, suffixes=(*TRACK_SUFFIXES, *TABLE_SUFFIXES), stdout="bedGraph")
    if not is_bigwig(path):
        with _open_rows(path, (value,), pa.float32(), header="", digits=6) as rows:
            yield rows
        return
    try:
        with output_file(path) as partial, _bigwig(partial, lengths or {}) as track:
            yield track
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def open_values(output: Path | str, columns: Sequence[str]) -> Iterator[Table[Stretches]]:
    r"""Open a table of parts of records with several values of each: TSV with a header line, or Parquet by its suffix.

    Parameters
    ----------
    output : Path or str
        ``.tsv``, ``.parquet`` or ``.pq``, or ``-`` for stdout.
    columns : sequence of str
        Names of the values.

    Raises
    ------
    ConfigError
        The name ends otherwise.
    InputError
        The file cannot be written.

    Examples
    --------
    >>> with open_values("-", ("bases", "score")) as table:  # doctest: +NORMALIZE_WHITESPACE
    ...     table.write(Stretches("chr1", np.array([0]), np.array([2])), np.array([[2, 0.5]]))
    #record	start	end	bases	score
    chr1	0	2	2	0.5
    """
    check_name(output)
    header = "\t".join(["#record", "start", "end", *columns]) + "\n"
    with _open_rows(Path(output), tuple(columns), pa.float64(), header=header, digits=12) as rows:
        yield rows


@contextmanager
def _open_rows(
    path: Path, columns: tuple[str, ...], kind: Any, *, header: str, digits: int
) -> Iterator[Table[Stretches]]:
    output = str(path)
    try:
        if output == STDOUT:
            yield _Lines(sys.stdout, len(columns), header=header, digits=digits, rewindable=False)
        elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("w", encoding="utf-8", newline="\n") as pipe:
                yield _Lines(pipe, len(columns), header=header, digits=digits, rewindable=False)
        elif path.suffix.lower() in PARQUET_SUFFIXES:
            with output_file(path) as partial, partial.open("wb") as binary, _parquet(binary, columns, kind) as track:
                yield track
        else:
            with output_file(path) as partial, partial.open("w+", encoding="utf-8", newline="\n") as handle:
                yield _Lines(handle, len(columns), header=header, digits=digits, rewindable=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write {'stdout' if output == STDOUT else path}: {error.strerror or error}") from error


class _Lines(TextRows):
    """Rows of text; of the values that are given the first `width` are written, since tables of others have more."""

    def __init__(self, handle: IO[str], width: int, *, header: str, digits: int, rewindable: bool) -> None:
        super().__init__(handle, header=header, rewindable=rewindable)
        self._width = width
        self._digits = digits

    def write(self, spans: Stretches, values: NDArray[np.float64]) -> None:
        rows = zip(spans.starts.tolist(), spans.ends.tolist(), values[:, : self._width].tolist(), strict=True)
        self._handle.write(
            "".join(
                "\t".join([spans.record, str(start), str(end), *(f"{value:.{self._digits}g}" for value in row)]) + "\n"
                for start, end, row in rows
            )
        )
        self._handle.flush()


@contextmanager
def _parquet(handle: IO[bytes], names: tuple[str, ...], kind: Any) -> Iterator[_Parquet]:
    columns = [("record", pa.string()), ("start", pa.int64()), ("end", pa.int64()), *((name, kind) for name in names)]
    with pq.ParquetWriter(handle, pa.schema(columns), compression="zstd") as writer:
        track = _Parquet(writer, pa.schema(columns))
        yield track
        track.flush()


class _Parquet:
    """Rows wait for a row group; what is written cannot be taken back."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer = writer
        self._schema = schema
        self._waiting: list[Any] = []
        self._count = 0
        self._written = False

    def begin_input(self) -> None:
        self.flush()
        self._written = False

    def write(self, spans: Stretches, values: NDArray[np.float64]) -> None:
        record = pa.array([spans.record]).take(pa.array(np.zeros(len(spans), np.int32)))
        columns = [record, pa.array(spans.starts), pa.array(spans.ends)]
        columns += [pa.array(values[:, number], field.type) for number, field in enumerate(list(self._schema)[3:])]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._count += len(spans)
        if self._count >= _ROW_GROUP:
            self.flush()

    def drop_input(self) -> bool:
        self._waiting, self._count = [], 0
        return not self._written

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting, self._count, self._written = [], 0, True


def require_bigwig() -> Any:
    """Import pyBigWig, which the extra `bigwig` installs.

    Raises
    ------
    ConfigError
        It is not there.
    """
    try:
        import pyBigWig
    except ImportError as error:
        raise ConfigError(
            f"bigWig needs pyBigWig, which cannot be imported ({error}): pip install 'seqdomains[bigwig]'"
        ) from error
    return pyBigWig


@contextmanager
def _bigwig(path: Path, lengths: Mapping[str, int]) -> Iterator[_BigWig]:
    bigwig = require_bigwig()
    try:
        file = bigwig.open(str(path), "w")
        file.addHeader(list(lengths.items()))
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from error
    try:
        yield _BigWig(file)
    finally:
        file.close()


class _BigWig:
    def __init__(self, file: Any) -> None:
        self._file = file

    def begin_input(self) -> None:
        return

    def write(self, spans: Stretches, values: NDArray[np.float64]) -> None:
        names = [spans.record] * len(spans)
        try:
            self._file.addEntries(names, spans.starts.tolist(), ends=spans.ends.tolist(), values=values[:, 0].tolist())
        except RuntimeError as error:
            raise InputError(
                f"bigWig takes no more of record {spans.record!r} ({error}); two records of one name? write bedGraph"
            ) from error

    def drop_input(self) -> bool:
        return False
