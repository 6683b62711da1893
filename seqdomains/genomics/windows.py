"""Windows over a contig, and BED files. All coordinates are 0-based half-open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seqdomains.errors import InputError, reason
from seqdomains.files import atomic_file

_HEADER_WORDS = (["track"], ["browser"])
_MOST_DIGITS = 18  # a coordinate fits 64 bits


@dataclass(frozen=True)
class Region:
    """A line of a BED file.

    Parameters
    ----------
    contig : str
    start, end : int
        0-based half-open, in bp.
    name : str
        The fourth column, empty where there is none.
    line : int
        1-based line in its file; 0 for a region that was not read.
    """

    contig: str
    start: int
    end: int
    name: str = ""
    line: int = 0


def least_tail(window: int) -> int:
    """Return the shortest last window of a contig, in bp: half a window, rounded up.

    Examples
    --------
    >>> least_tail(128), least_tail(5)
    (64, 3)
    """
    return (window + 1) // 2


def tile(length: int, *, window: int, stride: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the windows of a contig.

    Windows start at multiples of the stride. The last one may be shorter: it is there if it holds bases that no window
    before it has, and at least half a window of them all told. A contig shorter than the window has no window.

    Parameters
    ----------
    length, window : int
        In bp.
    stride : int or None
        Distance between starts in bp; None is the window, without overlap.

    Examples
    --------
    >>> list(tile(10, window=4)), list(tile(9, window=4)), list(tile(10, window=4, stride=3)), list(tile(3, window=4))
    ([(0, 4), (4, 8), (8, 10)], [(0, 4), (4, 8)], [(0, 4), (3, 7), (6, 10)], [])
    """
    step = stride or window
    if window < 1 or step < 1:
        raise ValueError("window and stride must be at least 1")
    if length < window:
        return
    last = (length - window) // step * step
    for start in range(0, last + 1, step):
        yield start, start + window
    if last + window < length and length - (last + step) >= least_tail(window):
        yield last + step, length


def count_windows(length: int, *, window: int, stride: int | None = None) -> int:
    """Return how many windows `tile` yields, without yielding them.

    Examples
    --------
    >>> count_windows(10, window=4), count_windows(3, window=4)
    (3, 0)
    """
    step = stride or window
    if length < window:
        return 0
    whole = (length - window) // step + 1
    last = (whole - 1) * step
    return whole + int(last + window < length and length - (last + step) >= least_tail(window))


def read_bed(path: Path) -> tuple[Region, ...]:
    r"""Read a BED file of 3 or more columns.

    Lines that begin with `#`, `track` or `browser` and blank lines are skipped; columns are separated by tabs, or by
    blanks where a line has no tab.

    Raises
    ------
    InputError
        The file cannot be read, holds no region, or a line is malformed; names the line.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.bed"
    >>> _ = path.write_text("track name=x\nchr1\t0\t10\tfirst\nchr2\t5\t9\n")
    >>> [(region.contig, region.start, region.end, region.name) for region in read_bed(path)]
    [('chr1', 0, 10, 'first'), ('chr2', 5, 9, '')]
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as BED: {reason(error)}") from error
    regions = []
    for number, line in enumerate(lines, start=1):
        words = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or line.startswith("#") or words[0].split(maxsplit=1)[:1] in _HEADER_WORDS:
            continue
        regions.append(_region(path, number, line, [word.strip() for word in words]))
    if not regions:
        raise InputError(f"{path} holds no region: expected lines of `contig<TAB>start<TAB>end`")
    return tuple(regions)


def _region(path: Path, number: int, line: str, words: list[str]) -> Region:
    if len(words) < 3 or not words[0]:
        raise InputError(f"{path}, line {number}: expected contig, start and end separated by tabs, found {line!r}")
    if not all(word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS for word in words[1:3]):
        raise InputError(f"{path}, line {number}: start {words[1]!r} and end {words[2]!r} must be whole numbers from 0")
    start, end = int(words[1]), int(words[2])
    if start >= end:
        raise InputError(
            f"{path}, line {number}: start {start} is not below end {end}; BED is 0-based half-open, so the first base "
            "of a contig is 0 to 1"
        )
    return Region(words[0], start, end, words[3] if len(words) > 3 else "", number)


def require_within(region: Region, length: int, path: Path | str) -> None:
    """Refuse a region that ends behind its contig of `length` bp in the file at `path`.

    Examples
    --------
    >>> require_within(Region("chr1", 0, 10, line=2), 9, "a.fa")
    Traceback (most recent call last):
    seqdomains.errors.InputError: region chr1:0-10 (line 2 of the BED) ends behind the contig, which has 9 bp in a.fa
    """
    if region.end > length:
        line = f" (line {region.line} of the BED)" if region.line else ""
        raise InputError(
            f"region {region.contig}:{region.start}-{region.end}{line} ends behind the contig, which has {length} bp "
            f"in {path}"
        )


def write_bed(path: Path, rows: Iterable[tuple[object, ...]], *, header: str = "") -> None:
    """Write rows of contig, start, end and further columns, whole or not at all.

    Parameters
    ----------
    path : Path
    rows : iterable of tuple
    header : str
        A first line, written behind `#`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "one.bed"
    >>> write_bed(path, [("chr1", 0, 10, "human")], header="contig start end class")
    >>> len(path.read_text().splitlines())
    2
    """
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as handle:
        if header:
            handle.write(f"#{header}\n")
        for row in rows:
            handle.write("\t".join(map(str, row)) + "\n")
