"""Files that are either whole or absent: atomic writes, atomic folders, hashes; and the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
