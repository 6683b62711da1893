"""Parts of contigs that a user names: region strings as samtools reads them, and what is done with regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.spans import resolve_in
from seqdomains.genomics.windows import Region, require_within

_REGION = re.compile(r"(?:\{(?P<braced>[^{}]+)\}|(?P<name>.+?))(?::(?P<first>[0-9,]+)(?:-(?P<last>[0-9,]*))?)?")


def parse_region(text: str, lengths: Mapping[str, int], path: Path) -> Region:
    """Read ``CONTIG``, ``CONTIG:START`` (to the end) or ``CONTIG:START-END``, 1-based, both ends inside.

    Commas in numbers are skipped; a name with colons stands in braces, ``{HLA:1}:5-9``, or alone.

    Parameters
    ----------
    text : str
    lengths : mapping of str to int
        Of the contigs of the file.
    path : Path
        The file; an alias table beside it is read.

    Raises
    ------
    InputError
        The text is no region, the contig is unknown, or the region is not within it.

    Examples
    --------
    >>> region = parse_region("chr1:1,001-2,000", {"chr1": 5000}, Path("a.fa"))
    >>> region.start, region.end
    (1000, 2000)
    """
    if text in lengths:
        return Region(text, 0, lengths[text])
    found = _REGION.fullmatch(text)
    if found is None:
        raise InputError(
            f"region {text!r}: expected CONTIG, CONTIG:START or CONTIG:START-END, 1-based, such as chr2:1,001-2,000"
        )
    contig = resolve_in(found["braced"] or found["name"], lengths, path)
    length = lengths[contig]
    first = int(found["first"].replace(",", "") or 0) if found["first"] else 1
    last = int(found["last"].replace(",", "") or 0) if found["last"] else length
    if first < 1:
        raise InputError(f"region {text!r}: positions are 1-based, and the first base of a contig is 1")
    if first > last and found["last"]:
        raise InputError(f"region {text!r}: its start is behind its end; give the smaller position first")
    if max(first, last) > length:
        raise InputError(f"region {text!r} ends behind the contig, which has {length} bp in {path}")
    return Region(contig, first - 1, last)


def within_file(regions: Iterable[Region], lengths: Mapping[str, int], path: Path) -> list[Region]:
    """Return regions under a file's own names of their contigs.

    Raises
    ------
    InputError
        A contig is unknown, or a region ends behind it; names the line of the BED.

    Examples
    --------
    >>> within_file([Region("2", 0, 10)], {"chr2": 20}, Path("a.fa"))[0].contig
    'chr2'
    """
    found = []
    for region in regions:
        contig = resolve_in(region.contig, lengths, path)
        require_within(region, lengths[contig], path)
        found.append(Region(contig, region.start, region.end, region.name, region.line))
    return found


def merged(regions: Iterable[Region]) -> list[Region]:
    """Return what regions cover, each base once, sorted by name and position as bedGraph wants it.

    Examples
    --------
    >>> [(one.contig, one.start, one.end) for one in merged([Region("b", 0, 5), Region("a", 4, 9), Region("a", 1, 4)])]
    [('a', 1, 9), ('b', 0, 5)]
    """
    found: list[Region] = []
    for region in sorted(regions, key=lambda one: (one.contig.encode(), one.start, one.end)):
        last = found[-1] if found else None
        if last is not None and last.contig == region.contig and region.start <= last.end:
            found[-1] = Region(last.contig, last.start, max(last.end, region.end))
        else:
            found.append(Region(region.contig, region.start, region.end))
    return found


@dataclass(frozen=True)
class PlacedWindow:
    """A window around a part of a region; all positions are 0-based half-open within the contig."""

    contig: str
    start: int
    end: int
    first: int
    last: int


def place_windows(region: Region, *, window: int, length: int) -> Iterator[PlacedWindow]:
    """Cut a region into parts of at most a window, each in the middle of its window.

    A window that would go over an end of the contig is moved inwards; a contig shorter than the window is the window.

    Examples
    --------
    >>> [(w.start, w.end, w.first, w.last) for w in place_windows(Region("c", 2, 12), window=8, length=100)]
    [(2, 10, 2, 10), (7, 15, 10, 12)]
    """
    for first in range(region.start, region.end, window):
        last = min(region.end, first + window)
        start = max(0, min((first + last - window) // 2, length - window))
        yield PlacedWindow(region.contig, start, min(length, start + window), first, last)


def overlap(region: Region, regions: Sequence[Region]) -> int:
    """Return how many positions of a region lie in others, which `merged` gave.

    Examples
    --------
    >>> overlap(Region("c", 2, 9), [Region("c", 0, 4), Region("c", 8, 20), Region("d", 2, 9)])
    3
    """
    own = (one for one in regions if one.contig == region.contig)
    return sum(max(0, min(region.end, one.end) - max(region.start, one.start)) for one in own)


def covered(contig: str, positions: NDArray[np.int64], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Tell which positions of a contig lie in one of the regions, which `merged` gave.

    Examples
    --------
    >>> covered("c", np.array([1, 2, 5]), [Region("c", 2, 5)]).tolist()
    [False, True, False]
    """
    own = [region for region in regions if region.contig == contig]
    if not own:
        return np.zeros(len(positions), dtype=bool)
    starts, ends = (np.array([getattr(one, side) for one in own]) for side in ("start", "end"))
    at = np.searchsorted(starts, positions, side="right") - 1
    inside: NDArray[np.bool_] = (at >= 0) & (positions < ends[at])
    return inside
