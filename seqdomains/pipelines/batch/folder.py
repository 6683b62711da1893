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
from seqdomains.pipelines.batch.plan import Plan

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
            if self.shards.is_symlink():
                raise ConfigError(
                    f"{self.shards} is a link, which may lead anywhere; remove it or choose another --out"
                )
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

    def facts(self, number: int, plan: Plan) -> ShardFacts | None:
        """Return what a finished shard says of itself; None where there is none of this plan that can be read.

        Examples
        --------
        >>> BatchFolder(Path("/nowhere")).facts(0, Plan({}, (), (), ())) is None
        True
        """
        path = self.shard(number)
        try:
            # A link would lead out of the folder, and a pipe never ends.
            if path.is_symlink() or not path.is_file():
                return None
            with path.open("rb") as handle:
                found = pq.ParquetFile(handle)
                facts = parse_json(found.metadata.metadata[METADATA])
                read = ShardFacts.read(facts, plan)
                if read is None or read.rows != found.metadata.num_rows:
                    return None
                return read if read.failures or read.windows == plan.windows_of(number) else None
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
            return None


@dataclass(frozen=True)
class ShardFacts:
    """What a shard's file says of itself.

    Parameters
    ----------
    rows, windows, tokens, blank, halved : int
        See `merge.BatchOutcome`.
    failures : tuple of (int, str, bool)
        Inputs that were left out, the reason, and whether it may pass.
    """

    rows: int
    windows: int
    tokens: int
    blank: int
    halved: int
    failures: tuple[tuple[int, str, bool], ...]

    @classmethod
    def read(cls, facts: Any, plan: Plan) -> ShardFacts | None:
        """Take facts from JSON that anybody may have written; None where they are not of this plan, or no facts."""
        if not isinstance(facts, dict) or facts.get("plan") != plan.identity:
            return None
        counts: dict[str, Any] = {name: facts.get(name) for name in ("rows", "windows", "tokens", "blank", "halved")}
        failures = facts.get("failures")
        if not all(type(count) is int and count >= 0 for count in counts.values()) or not isinstance(failures, list):
            return None
        for failure in failures:
            if not isinstance(failure, list) or [type(part) for part in failure] != [int, str, bool]:
                return None
            if not 0 <= failure[0] < len(plan.inputs):
                return None
        return cls(**counts, failures=tuple((number, reason, passing) for number, reason, passing in failures))
