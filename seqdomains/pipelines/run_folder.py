"""The folder of one run: resolved configuration, environment, metrics, checkpoints, artefact, evaluation, figures."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdomains.errors import ConfigError, InputError
from seqdomains.files import atomic_file, parse_json, read_bounded
from seqdomains.strict_yaml import LARGEST, dump_yaml, load_yaml

# Keys (or whole sections) that leave the trained weights as they are, so a resumed run may change them.
_LARGEST_JSON = 4 << 20  # bytes
MAY_CHANGE = ("train.checkpoint_every", "train.keep", "train.log_every", "evaluate")


@dataclass(frozen=True)
class RunFolder:
    """Where each piece of a run lies. Constructing one touches no file.

    Parameters
    ----------
    path : Path
        The folder itself.

    Examples
    --------
    >>> run = RunFolder(Path("runs/apes"))
    >>> run.artefact.as_posix(), run.metrics.name
    ('runs/apes/model', 'metrics.jsonl')
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, device, threads and command line of each session that worked on the run."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints that a resumed run begins with."""
        return self.path / "checkpoints"

    @property
    def artefact(self) -> Path:
        """Folder of the trained model, the piece to share; it exists when the training is complete."""
        return self.path / "model"

    @property
    def evaluation(self) -> Path:
        """Result of the evaluation."""
        return self.path / "evaluation.json"

    @property
    def figures(self) -> Path:
        """Folder of the report's figures."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.path / "report.html"

    @property
    def complete(self) -> bool:
        """Whether the training is done and the artefact written."""
        return (self.artefact / "model.safetensors").is_file()

    @classmethod
    def prepare(cls, path: Path, config: Mapping[str, Any], *, may_change: Iterable[str] = MAY_CHANGE) -> RunFolder:
        """Begin a run, or go on with the one that lies at `path` if it has the same configuration.

        Parameters
        ----------
        path : Path
            New, empty, or the folder of a run.
        config : mapping
            The resolved configuration, JSON-ready, as a tree.
        may_change : iterable of str
            Dotted keys, or whole sections, that may differ from those of the run that lies there.

        Raises
        ------
        ConfigError
            The run that lies there has another configuration (each key that differs is listed), the folder holds
            something else, or another process works in it.
        InputError
            The folder cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> _ = RunFolder.prepare(folder, {"train": {"steps": 10, "log_every": 1}})
        >>> _ = RunFolder.prepare(folder, {"train": {"steps": 10, "log_every": 5}})
        >>> try:
        ...     RunFolder.prepare(folder, {"train": {"steps": 20, "log_every": 5}})
        ... except ConfigError as error:
        ...     print(str(error).replace(str(folder), "RUN"))
        train.steps: 20 differs from 10 of the run in RUN; choose another folder, or the configuration it began with
        """
        run = cls(path)
        text = dump_yaml(dict(config))
        if len(text.encode()) > LARGEST:
            # It could not be read again, and the run not be resumed.
            raise ConfigError(
                f"the configuration takes {len(text)} characters, and at most {LARGEST} can be read again: name "
                "folders in place of so many files"
            )
        # before the lock, which would leave its file among a stranger's
        run.refuse_strangers()
        try:
            path.mkdir(parents=True, exist_ok=True)
            with run.lock():
                run._clean()
                if run.config.exists():
                    run._refuse_changes(config, tuple(may_change))
                with atomic_file(run.config) as partial:
                    partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write the run folder {path}: {error.strerror or error}") from error
        return run

    def refuse_strangers(self) -> None:
        """Refuse a folder that holds something and is no run folder.

        Raises
        ------
        ConfigError
            It holds something else.
        InputError
            It cannot be looked into.
        """
        try:
            if self.config.exists() or not self.path.is_dir():
                return
            strangers = sorted(
                entry.name
                for entry in self.path.iterdir()
                if entry.name != ".lock" and not (entry.name.startswith(".") and entry.name.endswith(".partial"))
            )
        except OSError as error:
            raise InputError(f"cannot read the run folder {self.path}: {error.strerror or error}") from error
        if strangers:
            raise ConfigError(
                f"{self.path} is not empty and no run folder (it holds {strangers[0]}); choose another folder"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out; the system frees the lock when the process ends, however it ends.

        Raises
        ------
        ConfigError
            Another process holds it.
        """
        with (self.path / ".lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise ConfigError(
                    f"another process (id {handle.read().strip() or 'unknown'}) works in {self.path}; "
                    "wait for it or choose another folder"
                ) from error
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            yield

    def read_config(self) -> dict[str, Any]:
        """Return the resolved configuration.

        Raises
        ------
        InputError
            There is none, or it is not YAML.
        """
        try:
            value = load_yaml(read_bounded(self.config, LARGEST).decode("utf-8"), origin=str(self.config))
        except OSError as error:
            raise InputError(f"{self.path} is no run folder: cannot read config.yaml: {error.strerror}") from error
        except (ValueError, ConfigError) as error:
            raise InputError(f"{self.config} is not YAML: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"{self.config} holds {type(value).__name__}, expected a mapping")
        return value

    def sessions(self) -> list[dict[str, Any]]:
        """Return what `record_session` wrote, oldest first; empty where nothing was written."""
        if not self.environment.exists():
            return []
        sessions = _read_json(self.environment).get("sessions")
        if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
            raise InputError(f"{self.environment} lists no sessions; remove it, the next session writes it again")
        return sessions

    def record_session(self, facts: Mapping[str, Any]) -> None:
        """Append the facts of one session (versions, device, command line) to environment.json."""
        write_json(self.environment, {"sessions": [*self.sessions(), dict(facts)]})

    def read_evaluation(self) -> dict[str, Any] | None:
        """Return the result of the evaluation; None before there is one."""
        return _read_json(self.evaluation) if self.evaluation.exists() else None

    def _clean(self) -> None:
        """Remove what a killed process left under temporary names; only the lock's holder may."""
        for folder in (self.path, self.checkpoints, self.figures):
            for left in folder.glob(".*.partial") if folder.is_dir() else ():
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()

    def _refuse_changes(self, config: Mapping[str, Any], may_change: tuple[str, ...]) -> None:
        before, now = flatten(self.read_config()), flatten(config)
        # compared as JSON: tuples and lists are one thing in a configuration
        problems = [
            f"{key}: {_shown(now, key)} differs from {_shown(before, key)} of the run in {self.path}; "
            "choose another folder, or the configuration it began with"
            for key in sorted(before.keys() | now.keys())
            # What is null is not set: earlier versions had no such key.
            if (before.get(key) is not None or now.get(key) is not None)
            and _shown(before, key) != _shown(now, key)
            and not any(key == free or key.startswith(f"{free}.") for free in may_change)
        ]
        if problems:
            raise ConfigError(problems)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping's leaves under dotted keys.

    Examples
    --------
    >>> flatten({"train": {"steps": 3, "betas": [0.9, 0.95]}, "name": "a"})
    {'train.steps': 3, 'train.betas': [0.9, 0.95], 'name': 'a'}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; NaN and infinity are refused, since JSON has no word for them.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    try:
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], default=str) if key in leaves else "(unset)"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_bounded(path, _LARGEST_JSON))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, expected an object")
    return value
