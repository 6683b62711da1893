"""A batch's pieces of sequence files by their number: windows, or whole records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import GapPolicy
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import compression
from seqdomains.genomics.records import is_genbank, stream_records
from seqdomains.genomics.spans import FileSpans, mostly_unknown, resolve_in
from seqdomains.genomics.survey import record_lengths
from seqdomains.genomics.windows import Region, count_windows
from seqdomains.task import Span

# Bases that are read by position at once.
_BLOCK = 1 << 20


def divisible(path: str, policy: GapPolicy) -> bool:
    """Tell whether a file that `survey.survey` found good can be read from its middle.

    That is FASTA, plain or bgzip, whose index can be made.
    """
    if is_genbank(path):
        return False
    try:
        FastaFile(Path(path), policy=policy, validated=True)
    except InputError:
        return False
    return True


@dataclass(frozen=True)
class SequenceWindows:
    """Windows of sequence files by their number, for a batch whose shards begin anywhere in a file.

    Parameters
    ----------
    window, stride : int
        In bp; see `windows.tile`.
    policy : {"reject", "mask"}
        Whether gap characters are an error or become the mask code.
    regions : tuple of Region or None
        Only these parts, in this order.
    keep_short : bool
        Whether a record shorter than the window is a window of its own.
    """

    window: int
    stride: int
    policy: GapPolicy = "reject"
    regions: tuple[Region, ...] | None = None
    keep_short: bool = False

    def spans(self, path: str, first: int, windows: int) -> Iterator[Span]:
        r"""Yield `windows` windows of a file from its window `first` on, in the order of `FileSpans.spans`.

        Raises
        ------
        InputError
            The file is bad.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.fa"
        >>> _ = path.write_text(">a\nACGTACGTAC\n>b\nACGTAC\n")
        >>> source = SequenceWindows(window=4, stride=4)
        >>> [(span.record, span.start, span.end) for span in source.spans(str(path), 2, 2)]
        [('a', 8, 10), ('b', 0, 4)]
        """
        file = Path(path)
        by_position = not is_genbank(file) and compression(file) != "gzip"
        if self.regions is not None:
            regions = self._own_regions(file, by_position=by_position)
            if by_position:
                yield from _indexed(FastaFile(file, policy=self.policy), self._tiles(regions, first), windows)
            else:
                whole = FileSpans(path, None, [], file, self.window, self.stride, self.policy, regions)
                yield from islice(whole.spans(), first, first + windows)
        elif first and by_position:
            fasta = FastaFile(file, policy=self.policy)
            contigs = (Region(name, 0, length) for name, length in zip(fasta.names, fasta.lengths, strict=True))
            yield from _indexed(fasta, self._tiles(contigs, first, whole=True), windows)
        else:
            whole = FileSpans(path, None, [], file, self.window, self.stride, self.policy, None, self.keep_short)
            yield from islice(whole.spans(), first, first + windows)

    def blank(self, span: Span) -> bool:
        """Tell whether a window is N or masked for more than half: a model is sure of those too."""
        return mostly_unknown(span)

    def _own_regions(self, path: Path, *, by_position: bool) -> tuple[Region, ...]:
        """Return the regions whose contig the file has, under its own name for it."""
        if by_position:
            fasta = FastaFile(path, policy=self.policy)
            lengths = dict(zip(fasta.names, fasta.lengths, strict=True))
        else:
            lengths = record_lengths(path, self.policy)
        own = []
        for region in self.regions or ():
            try:
                contig = resolve_in(region.contig, lengths, path)
            except InputError:
                continue
            own.append(Region(contig, region.start, region.end, region.name, region.line))
        return tuple(own)

    def _tiles(self, parts: Iterable[Region], first: int, *, whole: bool = False) -> Iterator[tuple[str, int, int]]:
        """Yield contig, start and end of each window from `first` on; of whole contigs those too short have none."""
        for part in parts:
            length = part.end - part.start
            short = length <= self.window and (self.keep_short or not whole)
            count = 1 if short else count_windows(length, window=self.window, stride=self.stride)
            for number in range(first, count):
                start = number * self.stride
                yield part.contig, part.start + start, part.start + min(start + self.window, length)
            first = max(0, first - count)


@dataclass(frozen=True)
class SequenceRecords:
    r"""Whole records of sequence files by their number, for a batch whose shards begin at any of them.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.fa"
    >>> _ = path.write_text(">a\nACGT\n>b\nACGTAC\n")
    >>> [(name, sum(map(len, pieces))) for name, pieces in SequenceRecords().records(str(path), 1, 1)]
    [('b', 6)]
    """

    policy: GapPolicy = "reject"

    def records(self, path: str, first: int, count: int) -> Iterator[tuple[str, Iterator[NDArray[np.uint8]]]]:
        """Yield `count` records of a file from its record `first` on, each a name and its codes in pieces.

        Raises
        ------
        InputError
            The file is bad.
        """
        if not first:
            for record in islice(stream_records(path, policy=self.policy), count):
                yield record.name, record.code_pieces()
            return
        fasta = FastaFile(Path(path), policy=self.policy)
        for name, length in islice(zip(fasta.names, fasta.lengths, strict=True), first, first + count):
            starts = range(0, length, _BLOCK)
            yield name, (fasta.codes(name, start, min(start + _BLOCK, length)) for start in starts)


def _indexed(fasta: FastaFile, tiles: Iterator[tuple[str, int, int]], windows: int) -> Iterator[Span]:
    """Read windows by position; neighbours are read together, a megabyte at once."""
    held: list[tuple[str, int, int]] = []
    for tile_ in islice(tiles, windows):
        if held and (tile_[0] != held[0][0] or tile_[1] < held[0][1] or tile_[2] - held[0][1] > _BLOCK):
            yield from _read_together(fasta, held)
            held = []
        held.append(tile_)
    if held:
        yield from _read_together(fasta, held)


def _read_together(fasta: FastaFile, tiles: list[tuple[str, int, int]]) -> Iterator[Span]:
    contig, first, _ = tiles[0]
    codes = fasta.codes(contig, first, max(end for _, _, end in tiles))
    for _, start, end in tiles:
        yield Span(contig, start, end, codes[start - first : end - first])
