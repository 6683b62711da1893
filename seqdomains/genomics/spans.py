"""A user's files as windows for prediction, in input order.

Files are read twice: first they are surveyed as a whole, so that a bad file, a short record or an unknown contig is
known before anything is predicted; then they are streamed, so that a chromosome is never held. Stdin and
pipes are read once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import GapPolicy, N
from seqdomains.genomics.contigs import aliases_beside, read_aliases, resolve_contig, unknown_contig
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import Record, compression, source_name
from seqdomains.genomics.records import is_genbank, stream_records
from seqdomains.genomics.survey import none_of, survey
from seqdomains.genomics.windows import Region, count_windows, least_tail, require_within, tile
from seqdomains.task import Span

_log = logging.getLogger(__name__)
_LARGE = 1 << 24  # bytes


@dataclass(frozen=True)
class Skipped:
    """An input that gets no prediction, and why."""

    source: str
    record: str
    reason: str


@dataclass(frozen=True)
class FileSpans:
    """One input file and its windows.

    Parameters
    ----------
    source : str
        Its path, or ``stdin``.
    windows : int or None
        How many spans it yields; None for stdin and pipes, where that is not known before they are read.
    skipped : list of Skipped
        Records shorter than the window. For stdin and pipes the list fills while the spans are read.
    """

    source: str
    windows: int | None
    skipped: list[Skipped]
    _path: Path | str = field(repr=False)
    _window: int = field(repr=False)
    _stride: int = field(repr=False)
    _policy: GapPolicy = field(repr=False)
    _regions: tuple[Region, ...] | None = field(repr=False)
    _keep_short: bool = field(default=False, repr=False)

    def spans(self) -> Iterator[Span]:
        """Yield the windows in input order: records as they stand in the file, regions as they stand in the BED.

        Raises
        ------
        InputError
            The file is bad; for a file that was surveyed, only where it has changed since.
        """
        if self._regions is not None:
            yield from self._region_spans(self._regions)
            return
        found = False
        for record in stream_records(self._path, policy=self._policy):
            length = yield from _record_spans(record, self._window, self._stride, keep_short=self._keep_short)
            found = found or self._keep_short or length >= self._window
            if self.windows is None and length < self._window and not self._keep_short:
                self.skipped.append(_short(self.source, record.name, length, self._window))
        if not found:
            raise _all_short(self.source, self._window)

    def _region_spans(self, regions: tuple[Region, ...]) -> Iterator[Span]:
        path = Path(self._path)
        if is_genbank(path) or compression(path) == "gzip":
            codes = _regions_from_stream(path, regions, self._policy)
        else:
            fasta = FastaFile(path, policy=self._policy)
            codes = (fasta.codes(region.contig, region.start, region.end) for region in regions)
        for region, tokens in zip(regions, codes, strict=True):
            for start, end in _tile_region(region, self._window, self._stride):
                piece = tokens[start - region.start : end - region.start]
                yield Span(region.contig, start, end, piece)


@dataclass(frozen=True)
class SpanPlan:
    """What a prediction will read.

    Parameters
    ----------
    files : tuple of FileSpans
        The good files, in the order given.
    failures : tuple of (str, InputError)
        The bad ones: a prediction goes on without them and says so at its end.
    """

    files: tuple[FileSpans, ...]
    failures: tuple[tuple[str, InputError], ...]

    @property
    def windows(self) -> int | None:
        """How many spans there are in all; None where stdin or a pipe is among the files."""
        counts = [file.windows for file in self.files]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Records that get no prediction, in input order."""
        return tuple(record for file in self.files for record in file.skipped)


def mostly_unknown(span: Span) -> bool:
    """Tell whether a window is N or masked for more than half.

    Examples
    --------
    >>> mostly_unknown(Span("r", 0, 3, np.array([N, N, 0], np.uint8)))
    True
    """
    return bool(2 * np.count_nonzero(span.tokens >= N) > span.tokens.size)


def plan_spans(
    paths: Sequence[Path | str],
    *,
    window: int,
    stride: int | None = None,
    regions: Sequence[Region] | None = None,
    policy: GapPolicy = "reject",
    keep_short: bool = False,
    processes: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> SpanPlan:
    r"""Survey files and plan their windows.

    A record shorter than the window is skipped and listed, and a file without any longer record is a failure; with
    `keep_short`, for models that were trained on whole records, it is one short span. A region is
    read from each file that has its contig, under any of its names; one longer than the window is tiled like a contig,
    one shorter is one short span.

    Parameters
    ----------
    paths : sequence of Path or str
        FASTA or GenBank files; `-` is FASTA on stdin.
    window, stride : int
        In bp; see `windows.tile`. Without a stride, windows do not overlap.
    regions : sequence of Region or None
        Only these parts, in this order.
    policy : {"reject", "mask"}
        Whether gap characters are an error or become the mask code.
    keep_short : bool
        Whether a record shorter than the window is a span of its own.
    processes : int
        That survey files at the same time.
    progress : callable
        Is told how many files were surveyed.

    Raises
    ------
    InputError
        No file can be used (for one file, the error of that file), or no file has a region's contig.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.fa"
    >>> _ = path.write_text(">a\nACGTACGTAC\n>b\nACG\n")
    >>> plan = plan_spans([path], window=4)
    >>> [(span.record, span.start, span.end) for file in plan.files for span in file.spans()]
    [('a', 0, 4), ('a', 4, 8), ('a', 8, 10)]
    >>> plan.windows, [skipped.record for skipped in plan.skipped]
    (3, ['b'])
    """
    surveys, failures = survey(paths, policy=policy, processes=processes, progress=progress)
    parts: list[tuple[Region, ...] | None] = (
        [None] * len(surveys) if regions is None else _regions_of_files(surveys, regions)
    )
    files: list[FileSpans] = []
    for (path, lengths), part in zip(surveys, parts, strict=True):
        if part == ():
            continue
        try:
            files.append(_plan_file(path, lengths, window, stride or window, part, policy, keep_short))
        except InputError as error:
            failures.append((source_name(path), error))
    if not files:
        raise none_of(failures)
    return SpanPlan(tuple(files), tuple(failures))


def _plan_file(
    path: Path | str,
    lengths: Mapping[str, int] | None,
    window: int,
    stride: int,
    regions: tuple[Region, ...] | None,
    policy: GapPolicy,
    keep_short: bool,
) -> FileSpans:
    source = source_name(path)
    if regions is not None:
        count: int | None = sum(1 for region in regions for _ in _tile_region(region, window, stride))
        return FileSpans(source, count, [], path, window, stride, policy, regions)
    if lengths is None:
        return FileSpans(source, None, [], path, window, stride, policy, None, keep_short)
    if max(lengths.values()) < window and not keep_short:
        raise _all_short(source, window, longest=max(lengths.values()))
    short = [_short(source, name, length, window) for name, length in lengths.items() if length < window]
    count = sum(count_windows(length, window=window, stride=stride) for length in lengths.values())
    if keep_short:
        return FileSpans(source, count + len(short), [], path, window, stride, policy, None, keep_short)
    return FileSpans(source, count, short, path, window, stride, policy, None)


def _short(source: str, record: str, length: int, window: int) -> Skipped:
    return Skipped(source, record, f"{source}: record {record!r} has {length} bp, less than the window of {window} bp")


def _all_short(source: str, window: int, *, longest: int | None = None) -> InputError:
    known = (
        f" (the longest has {longest} bp): give --window {longest} or less" if longest else ": give a smaller --window"
    )
    return InputError(f"{source}: the window of {window} bp is longer than every contig{known}")


def _record_spans(record: Record, window: int, stride: int, *, keep_short: bool) -> Generator[Span, None, int]:
    """Yield a record's windows as its pieces arrive, keeping no more than a window and a piece; return its length."""
    held: list[NDArray[np.uint8]] = []
    first = start = end = 0  # position of the first base held, of the next window, and behind the last base read
    for piece in record.code_pieces():
        held.append(piece)
        end += piece.size
        if end < start + window:
            continue
        codes = np.concatenate(held)
        while start + window <= end:
            yield Span(record.name, start, start + window, codes[start - first : start - first + window])
            start += stride
        held, first = [codes[start - first :]] if start < end else [], min(start, end)
    covered = start - stride + window
    if start and covered < end and end - start >= least_tail(window):
        yield Span(record.name, start, end, np.concatenate(held)[start - first :])
    if keep_short and end < window:
        yield Span(record.name, 0, end, np.concatenate(held))
    return end


def _tile_region(region: Region, window: int, stride: int) -> Iterator[tuple[int, int]]:
    if region.end - region.start <= window:
        yield region.start, region.end
        return
    for start, end in tile(region.end - region.start, window=window, stride=stride):
        yield region.start + start, region.start + end


def _regions_of_files(
    surveys: Sequence[tuple[Path | str, dict[str, int] | None]], regions: Sequence[Region]
) -> list[tuple[Region, ...] | None]:
    """Give each file the regions whose contig it has, under the file's own name for it."""
    found: list[list[Region]] = [[] for _ in surveys]
    for region in regions:
        errors = []
        for (path, lengths), own in zip(surveys, found, strict=True):
            if lengths is None:
                raise InputError(
                    f"regions cannot be read from {source_name(path)}, which has no positions: give a file"
                )
            try:
                contig = resolve_in(region.contig, lengths, Path(path))
            except InputError as error:
                errors.append(error)
                continue
            require_within(region, lengths[contig], path)
            own.append(Region(contig, region.start, region.end, region.name, region.line))
        if surveys and len(errors) == len(surveys):
            names = list(dict.fromkeys(name for _, lengths in surveys for name in lengths or ()))
            raise errors[0] if len(errors) == 1 else unknown_contig(region.contig, names, where=None)
    return [tuple(own) for own in found]


def resolve_in(contig: str, lengths: Mapping[str, int], path: Path) -> str:
    """Return a file's own name for a contig; see `contigs.resolve_contig`."""
    if contig in lengths:
        return contig
    beside = aliases_beside(path)
    return resolve_contig(contig, lengths, where=str(path), aliases=read_aliases(beside) if beside else None)


def _regions_from_stream(path: Path, regions: tuple[Region, ...], policy: GapPolicy) -> Iterator[NDArray[np.uint8]]:
    """Read a file that has no positions once, keep what the regions cover, and give it in their order."""
    wanted: dict[str, list[int]] = {}
    for index, region in enumerate(regions):
        wanted.setdefault(region.contig, []).append(index)
    kept: dict[int, NDArray[np.uint8]] = {}
    for record in stream_records(path, policy=policy):
        if record.name not in wanted:
            continue
        codes = record.codes()
        for index in wanted[record.name]:
            kept[index] = codes[regions[index].start : regions[index].end].copy()
    return (kept[index] for index in range(len(regions)))
