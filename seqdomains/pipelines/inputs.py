"""Which files a batch works on: names, folders, patterns and lists of them, in a fixed order."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from seqdomains.errors import InputError

_log = logging.getLogger(__name__)

# What stands for a stream, which is passed on as it is.
STDIN = "-"


def find_inputs(
    given: Sequence[str | Path],
    *,
    listed_in: Path | None = None,
    wanted: Callable[[Path], bool],
    kinds: str,
) -> list[str]:
    """Turn names, folders and patterns into files, each once, where it came first.

    A folder stands for the wanted files in it and below it, in the order of their paths; hidden ones are left out. A
    name that is no file but holds `*`, `?` or `[` is a pattern, in which `**` goes through folders. Any other name is
    passed on as it is, for its reader to open or to refuse.

    Parameters
    ----------
    given : sequence of str or Path
        Files, folders, patterns, or ``-`` for stdin.
    listed_in : Path, optional
        A UTF-8 file with one more of these on each line; blank lines and those that begin with ``#`` are left out.
        Names are relative to the working folder, as on the command line.
    wanted : callable
        Which files of a folder are meant.
    kinds : str
        How to say that, for an error.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        Nothing was given, the list cannot be read, a folder has no wanted file, or a pattern matches nothing.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.fa", "a.fa", "notes.txt"):
    ...     (folder / name).touch()
    >>> found = find_inputs([folder / "b.fa", folder], wanted=lambda path: path.suffix == ".fa", kinds=".fa")
    >>> [Path(path).name for path in found]
    ['b.fa', 'a.fa']
    """
    names = [(str(name), "") for name in given]
    if listed_in is not None:
        names += _listed(listed_in)
    if not names:
        raise InputError("no input: give files, folders, patterns, or a list of them with --from-file")
    found: list[str] = []
    seen: set[Path] = set()
    again = 0
    for name, where in names:
        for path in _files_of(name, where, wanted, kinds):
            # Two streams are the reader's to refuse.
            place = Path(path).absolute()
            if path == STDIN or place not in seen:
                found.append(path)
                seen.add(place)
            else:
                again += 1
    if again:
        _log.warning("%d files were given more than once and are taken once", again)
    return found


def _listed(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_bytes().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, byte {error.start}: not UTF-8; expected one path on each line") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}); expected one path on each line") from error
    rows = ((line.strip(), f"{path}, line {number}: ") for number, line in enumerate(lines, 1))
    return [(name, where) for name, where in rows if name and not name.startswith("#")]


def _files_of(name: str, where: str, wanted: Callable[[Path], bool], kinds: str) -> Iterator[str]:
    path = Path(name)
    if name == STDIN or path.is_file():
        yield name
    elif path.is_dir():
        below = sorted(file for file in path.rglob("*") if _meant(file, path) and wanted(file))
        if not below:
            raise InputError(f"{where}folder {name} holds no {kinds} file; name the files, or give another folder")
        yield from map(str, below)
    elif glob.has_magic(name) and not path.exists():
        # Path.glob takes no absolute pattern.
        matches = sorted(match for match in glob.glob(name, recursive=True) if Path(match).is_file())  # noqa: PTH207
        if not matches:
            raise InputError(f"{where}pattern {name} matches no file")
        yield from matches
    else:
        yield name


def _meant(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
