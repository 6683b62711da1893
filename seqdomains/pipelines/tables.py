"""Tables of predictions: TSV or Parquet, whole or absent, in the order in which rows are written."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, Protocol, TextIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import output_file
from seqdomains.task import Span

STDOUT = "-"
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (".tsv", *PARQUET_SUFFIXES)
_COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zst")
# Rows of a row group: about 1 MiB of probabilities for 5 classes, so memory stays flat and readers stay quick.
_ROW_GROUP = 1 << 16


Rows = TypeVar("Rows", contravariant=True)


class Table(Protocol[Rows]):
    """Takes the rows of one input after the other."""

    def begin_input(self) -> None:
        """Keep what was written so far, whatever comes."""

    def write(self, spans: Rows, values: NDArray[np.float64]) -> None:
        """Append rows; `values` has one row for each."""

    def drop_input(self) -> bool:
        """Take back the rows since `begin_input`; False where they are out already."""


def check_name(
    output: Path | str,
    *,
    suffixes: Sequence[str] = TABLE_SUFFIXES,
    option: str = "-o",
    stdout: str = "TSV",
) -> None:
    """Refuse a file whose name says none of the formats that are written: a .csv with tabs would be read wrongly.

    Parameters
    ----------
    output : Path or str
        ``-``, pipes and devices may have any name.
    suffixes : sequence of str
        Those of the formats, in lower case.
    option : str
        That the name was given with.
    stdout : str
        What ``-`` gives.

    Raises
    ------
    ConfigError
        The name ends otherwise.

    Examples
    --------
    >>> check_name("classes.tsv"), check_name("-")
    (None, None)
    >>> check_name("classes.csv")
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: -o classes.csv: expected a name that ends in .tsv, .parquet or .pq, or - for TSV ...
    """
    path = Path(output)
    if str(output) == STDOUT or _is_stream(path):
        return
    refuse_compressed(path, option=option)
    if path.suffix.lower() not in suffixes:
        *most, last = suffixes
        named = f"{', '.join(most)} or {last}" if most else last
        raise ConfigError(f"{option} {output}: expected a name that ends in {named}, or - for {stdout} on stdout")


def _is_stream(path: Path) -> bool:
    try:
        return path.exists() and not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # said where it is written
        return False


def refuse_compressed(output: Path | str, *, option: str = "-o") -> None:
    """Refuse a name that promises what is not written: tables and sequences are plain text.

    Raises
    ------
    ConfigError
        The name ends as that of a compressed file.

    Examples
    --------
    >>> refuse_compressed("bits.tsv")
    """
    suffix = Path(output).suffix.lower()
    if suffix in _COMPRESSED:
        raise ConfigError(
            f"{option} {output}: plain text is written; leave out {suffix}, and compress the file afterwards"
        )


@contextmanager
def open_table(output: Path | str, classes: Sequence[str]) -> Iterator[Table[Sequence[Span]]]:
    r"""Open a table of predictions; a file stands under its name once all is written, and not at all on failure.

    Columns: record, start, end (0-based half-open), predicted, and ``p_<class>`` for each class. TSV begins with the
    line ``#record start end predicted p_...`` and gives 6 digits; ``.parquet`` or ``.pq`` gives Parquet with float32.

    Parameters
    ----------
    output : Path or str
        A file, or ``-`` for stdout. Pipes and devices are written as they come.
    classes : sequence of str
        Names in the order of the probabilities.

    Raises
    ------
    ConfigError
        The name ends neither so nor in ``.tsv``.
    InputError
        The file cannot be written.

    Examples
    --------
    >>> with open_table("-", ("low", "high")) as table:  # doctest: +NORMALIZE_WHITESPACE
    ...     table.write([Span("chr1", 0, 4, np.zeros(4))], np.array([[0.25, 0.75]]))
    #record	start	end	predicted	p_low	p_high
    chr1	0	4	high	0.250000	0.750000
    """
    path = Path(output)
    check_name(output)
    try:
        if str(output) == STDOUT:
            yield _Tsv(sys.stdout, classes, rewindable=False)
        elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("w", encoding="utf-8", newline="\n") as pipe:
                yield _Tsv(pipe, classes, rewindable=False)
        elif path.suffix.lower() in PARQUET_SUFFIXES:
            with output_file(path) as partial, _open_parquet(partial, classes) as table:
                yield table
        else:
            with output_file(path) as partial, partial.open("w+", encoding="utf-8", newline="\n") as handle:
                yield _Tsv(handle, classes, rewindable=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot write {'stdout' if str(output) == STDOUT else path}: {error.strerror or error}"
        ) from error


class TextRows:
    """A table as lines of text; those of the running input can be taken back where the handle is of a file.

    Parameters
    ----------
    handle : text file
    header : str
        Its first lines, with their line ends.
    rewindable : bool
        Whether what was written can be taken back.
    """

    def __init__(self, handle: TextIO | IO[str], *, header: str, rewindable: bool) -> None:
        self._handle = handle
        self._rewindable = rewindable
        handle.write(header)
        self.begin_input()

    def begin_input(self) -> None:
        """See `Table`."""
        self._handle.flush()
        self._mark = self._handle.tell() if self._rewindable else 0

    def drop_input(self) -> bool:
        """See `Table`."""
        if self._rewindable:
            self._handle.flush()
            self._handle.seek(self._mark)
            self._handle.truncate()
        return self._rewindable


class _Tsv(TextRows):
    def __init__(self, handle: TextIO | IO[str], classes: Sequence[str], *, rewindable: bool) -> None:
        header = "\t".join(["#record", "start", "end", "predicted", *(f"p_{name}" for name in classes)]) + "\n"
        super().__init__(handle, header=header, rewindable=rewindable)
        self._classes = classes

    def write(self, spans: Sequence[Span], values: NDArray[np.float64]) -> None:
        for span, best, row in zip(spans, values.argmax(axis=1), values.tolist(), strict=True):
            shares = "\t".join(f"{share:.6f}" for share in row)
            self._handle.write(f"{span.record}\t{span.start}\t{span.end}\t{self._classes[best]}\t{shares}\n")
        self._handle.flush()


@contextmanager
def _open_parquet(path: Path, classes: Sequence[str]) -> Iterator[_Parquet]:
    # begins with a dot and ends like every partial file, so that whoever clears those clears it too
    spool = path.with_name(f"{path.name.removesuffix('.partial')}.spool.partial")
    # Python's own files, since their errors carry the system's words alone
    with path.open("wb") as handle:
        table = _Parquet(handle, spool, classes)
        try:
            yield table
            table.close()
        except BaseException:
            table.abandon()
            raise
        finally:
            spool.unlink(missing_ok=True)


class _Parquet:
    """Rows of the running input wait in an Arrow stream on the disk: written row groups cannot be taken back."""

    def __init__(self, handle: BinaryIO, spool: Path, classes: Sequence[str]) -> None:
        self._classes = np.array(classes, dtype=object)
        columns = [("record", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("predicted", pa.string())]
        self._schema = pa.schema(columns + [(f"p_{name}", pa.float32()) for name in classes])
        self._writer = pq.ParquetWriter(handle, self._schema, compression="zstd")
        self._spool = spool
        self._file: BinaryIO | None = None
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None

    def begin_input(self) -> None:
        if self._stream is None:
            return
        self._end_stream()
        waiting: list[pa.RecordBatch] = []
        with self._spool.open("rb") as source:
            for batch in pa.ipc.open_stream(source):
                waiting.append(batch)
                if sum(len(one) for one in waiting) >= _ROW_GROUP:
                    self._writer.write_table(pa.Table.from_batches(waiting))
                    waiting = []
        if waiting:
            self._writer.write_table(pa.Table.from_batches(waiting))

    def write(self, spans: Sequence[Span], values: NDArray[np.float64]) -> None:
        if self._stream is None:
            self._file = self._spool.open("wb")
            self._stream = pa.ipc.new_stream(self._file, self._schema)
        columns = [
            pa.array([span.record for span in spans], pa.string()),
            pa.array([span.start for span in spans], pa.int64()),
            pa.array([span.end for span in spans], pa.int64()),
            pa.array(self._classes[values.argmax(axis=1)], pa.string()),
            *(pa.array(column, pa.float32()) for column in values.T.astype(np.float32)),
        ]
        self._stream.write_batch(pa.record_batch(columns, schema=self._schema))

    def drop_input(self) -> bool:
        self._end_stream()
        return True

    def close(self) -> None:
        self.begin_input()
        self._writer.close()

    def abandon(self) -> None:
        # a writer that failed would try again when it is collected, and complain where nobody can catch it
        self._writer.is_open = False
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _end_stream(self) -> None:
        if self._stream is not None and self._file is not None:
            with self._file:
                self._stream.close()
            self._stream = None
