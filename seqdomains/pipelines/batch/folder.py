"""The folder of a batch: its plan, its shards, its table, and who works in it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import parse_json

# What a shard's file says of itself, beside its rows.
METADATA = b"seqdomains"


@dataclass(frozen=True)
class BatchFolder:
    """Where each piece of a batch lies. Constructing one touches no file.

    Examples
    --------
    >>> folder = BatchFolder(Path("out"))
    >>> folder.plan.as_posix(), folder.shard(12).as_posix()
    ('out/plan.parquet', 'out/shards/000012.parquet')
    """

    path: Path

    @property
    def plan(self) -> Path:
        """What is computed."""
        return self.path / "plan.parquet"

    @property
    def shards(self) -> Path:
        """Folder of the finished shards."""
        return self.path / "shards"

    @property
    def errors(self) -> Path:
        """One JSON object for each input, or record, that has no row."""
        return self.path / "errors.jsonl"

    @property
    def run(self) -> Path:
        """What was done, how fast and with which versions; it exists when all is done."""
        return self.path / "run.json"

    def shard(self, number: int) -> Path:
        """Return the file of a finished shard."""
        return self.shards / f"{number:06}.parquet"

    def make(self) -> None:
        """Make the folder, or refuse one that holds something else.

        Raises
        ------
        ConfigError
            It is not empty and has no plan.
        InputError
            It cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(
                entry.name for entry in self.path.iterdir() if not entry.name.startswith(".") and entry.name != "shards"
            )
            if strangers and not self.plan.exists():
                raise ConfigError(
                    f"--out {self.path}: is not empty and no batch's folder (it holds {strangers[0]}); choose another"
                )
            self.shards.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}; choose another --out") from error

    @contextmanager
    def lock(self, name: str = ".lock", *, shared: bool = False, wait: bool = False) -> Iterator[None]:
        """Keep other processes out of the folder, or with another name out of a part of its work.

        The system frees a lock when its process ends, however it ends.

        Parameters
        ----------
        name : str
            Of the lock's file.
        shared : bool
            Whether others may hold it so too.
        wait : bool
            Whether to wait for it.

        Raises
        ------
        ConfigError
            Another process holds it; the message says which.
        InputError
            The lock's file cannot be written.
        """
        try:
            handle = (self.path / name).open("a+")
        except OSError as error:
            raise InputError(f"cannot write {self.path / name}: {error.strerror or error}") from error
        with handle:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            try:
                fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise ConfigError(
                    f"{handle.read(200).strip() or 'another process'} works in {self.path}; wait for it or choose "
                    "another --out"
                ) from error
            except OSError as error:
                raise InputError(f"{self.path} cannot be locked ({error.strerror}); choose another --out") from error
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
            yield

    def clean(self) -> None:
        """Remove what killed processes left under temporary names; only the holder of the whole lock may."""
        for folder in (self.path, self.shards):
            for left in folder.glob(".*.partial"):
                left.unlink(missing_ok=True)

    def facts(self, number: int, identity: str) -> dict[str, Any] | None:
        """Return what a finished shard says of itself; None where there is none of this plan that can be read.

        Examples
        --------
        >>> BatchFolder(Path("/nowhere")).facts(0, "") is None
        True
        """
        try:
            with self.shard(number).open("rb") as handle:
                facts = parse_json(pq.ParquetFile(handle).metadata.metadata[METADATA])
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
            return None
        return facts if isinstance(facts, dict) and facts.get("plan") == identity else None
