"""Files that are either whole or absent: atomic writes, atomic folders, hashes; and the cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return where files that can be made again are kept: ``$SEQDOMAINS_CACHE``, else seqdomains/ in the XDG cache.

    Examples
    --------
    >>> before = os.environ.get("SEQDOMAINS_CACHE")
    >>> os.environ["SEQDOMAINS_CACHE"] = "somewhere"
    >>> cache_folder().name
    'somewhere'
    >>> _ = os.environ.pop("SEQDOMAINS_CACHE") if before is None else os.environ.update(SEQDOMAINS_CACHE=before)
    """
    own = os.environ.get("SEQDOMAINS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqdomains"


def read_bounded(path: Path, most: int) -> bytes:
    """Return a file's bytes, or refuse one that is larger than a file of its kind has reason to be.

    Raises
    ------
    ValueError
        It has more than `most` bytes.
    OSError
        It cannot be read.
    """
    with path.open("rb") as handle:
        data = handle.read(most + 1)
    if len(data) > most:
        raise ValueError(f"over {most} bytes; expected less")
    return data


def parse_json(data: bytes | str) -> Any:
    """Read JSON that anybody may have written.

    Raises
    ------
    ValueError
        It is no JSON, is nested too deep, or has a number of over 4300 digits.

    Examples
    --------
    >>> parse_json(b'{"a": 1}')
    {'a': 1}
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def sync(path: Path) -> None:
    """Flush a file or a folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success rename it to `path`, on failure remove it.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_file(folder / "a.txt") as partial:
    ...     _ = partial.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    # Random beside the process, whose number another machine or container may have too.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Do as `atomic_file` does, for a file that a user names: what killed commands left of it is removed first.

    A temporary file is locked as long as its command lives, so that of two that write one file neither removes the
    other's.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / ".a.tsv.123-0123abcd.partial").write_text("of a command that was killed")
    >>> with output_file(folder / "a.tsv") as partial:
    ...     _ = partial.write_text("whole")
    >>> [path.name for path in folder.iterdir()]
    ['a.tsv']
    """
    _remove_abandoned(path)
    # The lock goes last: what is about to get its name is not abandoned.
    with ExitStack() as held, atomic_file(path) as partial:
        held.enter_context(_locked(partial))
        yield partial


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    while True:
        with path.open("wb") as handle:
            # Where the system has no locks nothing is ever taken for abandoned either.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another command may have met it before it was locked.
            if os.fstat(handle.fileno()).st_nlink:
                yield
                return


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that no process holds, and what those kept beside theirs."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"\d+-[0-9a-f]{8}\.partial")
    # Who cannot list or remove them can write all the same; if not, that is told where it is tried.
    with suppress(OSError):
        names = [one.name for one in path.parent.iterdir()]
        for left in filter(pattern.fullmatch, names):
            with suppress(OSError), path.with_name(left).open("r+b") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                beside = [one for one in names if one.startswith(left.removesuffix("partial"))]
                for one in (one for one in beside if one.endswith(".partial")):
                    path.with_name(one).unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it to `path`, on failure remove it.

    An existing folder at `path` is replaced.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for entry in sorted(partial.rglob("*")):
            sync(entry)
        sync(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
