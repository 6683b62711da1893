"""The folder of a batch: its plan, its shards, its table, and who works in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import atomic_file, parse_json, read_bounded, sha256
from seqdomains.pipelines.batch.plan import Plan

_LARGEST_NOTE = 64 << 20  # bytes: a reason for each of ten thousands of inputs


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
        path = self.path / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            try:
                fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
                raise ConfigError(
                    f"{holder or 'another process'} works in {self.path}; wait for it or choose another --out"
                ) from error
            except OSError as error:
                raise InputError(f"{self.path} cannot be locked ({error.strerror}); choose another --out") from error
            # On a full disk the lock holds all the same, without a name.
            with suppress(OSError):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    def clean(self) -> None:
        """Remove what killed processes left under temporary names; only the holder of the whole lock may."""
        for folder in (self.path, self.shards):
            for left in folder.glob(".*.partial"):
                left.unlink(missing_ok=True)

    def note(self, number: int) -> Path:
        """Return the file that says what a finished shard is, beside it."""
        return self.shards / f"{number:06}.json"

    def facts(self, number: int, plan: Plan) -> ShardFacts | None:
        """Return what is noted of a finished shard; None where there is none of this plan, or it was cut.

        Its bytes are looked at by `check` alone.

        Examples
        --------
        >>> BatchFolder(Path("/nowhere")).facts(0, Plan({}, (), (), ())) is None
        True
        """
        path, note = self.shard(number), self.note(number)
        try:
            # A link would lead out of the folder, and a pipe never ends.
            if path.is_symlink() or note.is_symlink() or not path.is_file() or not note.is_file():
                return None
            read = ShardFacts.read(parse_json(read_bounded(note, _LARGEST_NOTE)), plan)
            if read is None or read.size != path.stat().st_size:
                return None
            return read if read.failures or read.windows == plan.windows_of(number) else None
        except (OSError, KeyError, ValueError, TypeError):
            return None

    def check(self, number: int, facts: ShardFacts) -> None:
        """Compare a shard's bytes with what was written.

        Raises
        ------
        InputError
            They differ. The shard is removed then, so that it is computed again.
        OSError
            It cannot be read.
        """
        path = self.shard(number)
        if sha256(path) != facts.sha256:
            path.unlink(missing_ok=True)
            raise InputError(f"{path} was damaged and is removed; repeat the command, which computes it again")


@dataclass(frozen=True)
class ShardFacts:
    """What a shard's file says of itself.

    Parameters
    ----------
    size : int
        Bytes of the shard's file.
    sha256 : str
        Of them.
    process : int
        Who computed it.
    rows, windows, tokens, blank, halved : int
        See `merge.BatchOutcome`.
    failures : tuple of (int, str, bool)
        Inputs that were left out, the reason, and whether it may pass.
    """

    size: int
    sha256: str
    process: int
    rows: int
    windows: int
    tokens: int
    blank: int
    halved: int
    failures: tuple[tuple[int, str, bool], ...]

    def write(self, path: Path, plan: Plan) -> None:
        """Write them, with a hash of their own.

        Raises
        ------
        OSError
            They cannot be written.
        """
        facts = {**self.__dict__, "plan": plan.identity}
        with atomic_file(path) as partial:
            partial.write_text(json.dumps({"facts": facts, "sha256": _hash(facts)}) + "\n")

    @classmethod
    def read(cls, noted: Any, plan: Plan) -> ShardFacts | None:
        """Take facts from JSON that anybody may have written; None where they are not of this plan, or no facts."""
        if not isinstance(noted, dict) or not isinstance(facts := noted.get("facts"), dict):
            return None
        if noted.get("sha256") != _hash(facts) or facts.get("plan") != plan.identity:
            return None
        names = ("size", "process", "rows", "windows", "tokens", "blank", "halved")
        counts: dict[str, Any] = {name: facts.get(name) for name in names}
        failures = facts.get("failures")
        if not all(type(count) is int and count >= 0 for count in counts.values()) or not isinstance(failures, list):
            return None
        for failure in failures:
            if not isinstance(failure, list) or [type(part) for part in failure] != [int, str, bool]:
                return None
            if not 0 <= failure[0] < len(plan.inputs):
                return None
        found = tuple((number, reason, passing) for number, reason, passing in failures)
        return cls(**counts, sha256=str(facts.get("sha256")), failures=found)


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
