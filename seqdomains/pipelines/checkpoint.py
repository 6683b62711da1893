"""Training checkpoints: safetensors and JSON in a folder that is whole or absent, with a SHA-256 of every file.

A checkpoint is for resuming the run that wrote it; the artefact that people share is written by the backbone. The
hashes are needed: one flipped bit in a tensor file otherwise loads in silence and changes the result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from seqdomains.errors import InputError
from seqdomains.files import atomic_folder, parse_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"

_FILE = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_NAME = re.compile(r"step-(\d{8,})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Parameters
    ----------
    step : int
        Optimizer steps that were done when it was written.
    tensors : dict of str to dict of str to Tensor
        Named groups of CPU tensors, one safetensors file per group.
    state : dict
        JSON-ready facts.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint below `folder` and remove all but the newest `keep`.

    The files are written under a temporary name, flushed to the disk and renamed, so that a run killed at any moment
    leaves whole checkpoints alone.

    Parameters
    ----------
    folder : Path
        The run's folder of checkpoints.
    step : int
        Optimizer steps done; names the checkpoint.
    tensors : mapping of str to mapping of str to Tensor
        Groups such as ``model`` and ``optimizer``; each becomes ``<group>.safetensors``.
    state : mapping
        JSON-ready facts.
    keep : int
        Number of checkpoints that stay.

    Returns
    -------
    Path
        The checkpoint, such as ``checkpoints/step-00000123``.

    Raises
    ------
    InputError
        A floating-point tensor holds non-finite values, or the files cannot be written.

    Examples
    --------
    >>> import tempfile, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_checkpoint(folder, 7, {"model": {"weight": torch.ones(2)}}, {"seconds": 1.5}).name
    'step-00000007'
    >>> checkpoint = load_latest(folder)
    >>> checkpoint.step, checkpoint.tensors["model"]["weight"].tolist(), checkpoint.state
    (7, [1.0, 1.0], {'seconds': 1.5})
    """
    path = folder / f"step-{step:08d}"
    for group, named in tensors.items():
        _refuse_non_finite(named, f"step {step}: {group}")
    contents = {
        f"{group}.safetensors": safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        )
        for group, named in tensors.items()
    }
    contents[STATE] = _json_bytes({"step": step, "state": dict(state)})
    manifest = {
        "format_version": FORMAT_VERSION,
        "files": {name: {"size": len(data), "sha256": _digest(data)} for name, data in contents.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path) as partial:
            for name, data in {**contents, MANIFEST: _json_bytes(manifest)}.items():
                (partial / name).write_bytes(data)
        _prune(folder, keep)
    except OSError as error:
        raise InputError(
            f"cannot write the checkpoint {path}: {error.strerror or error}; free space or make the folder writable, "
            "then repeat the command: the run goes on from the checkpoint before"
        ) from error
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint after comparing every file with the manifest.

    Parameters
    ----------
    path : Path
        A folder that `save_checkpoint` wrote.

    Raises
    ------
    InputError
        A file is missing, has another size or SHA-256 than the manifest says, or a tensor is not finite.

    Examples
    --------
    >>> import tempfile
    >>> path = save_checkpoint(Path(tempfile.mkdtemp()), 7, {"model": {"weight": torch.ones(2)}}, {})
    >>> _ = (path / "model.safetensors").write_bytes(b"cut")
    >>> try:
    ...     load_checkpoint(path)
    ... except InputError as error:
    ...     print(str(error).rpartition(": ")[2])
    model.safetensors has 3 bytes, expected 80
    """
    manifest = _read_json(path, _read_bytes(path, MANIFEST), MANIFEST)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"checkpoint {path}: format_version {manifest.get('format_version')!r}, expected {FORMAT_VERSION}"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise InputError(f"checkpoint {path}: {MANIFEST} does not list {STATE}")
    contents = {name: _verified(path, name, expected) for name, expected in files.items()}
    facts = _read_json(path, contents.pop(STATE), STATE)
    step, state = facts.get("step"), facts.get("state")
    if type(step) is not int or step < 0 or not isinstance(state, dict):
        raise InputError(f"checkpoint {path}: {STATE} has no step and state")
    tensors = {}
    for name, data in contents.items():
        try:
            tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
        # The last two: types that safetensors has and torch has not.
        except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
            raise InputError(f"checkpoint {path}: {name} is not a safetensors file: {error}") from error
    for group, named in tensors.items():
        _refuse_non_finite(named, f"checkpoint {path}: {group}")
    return Checkpoint(step=step, tensors=tensors, state=state)


def load_latest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; None where there is none at all.

    A damaged one is named in a warning and renamed to ``*.damaged``, and the one before it is tried.

    Parameters
    ----------
    folder : Path
        The run's folder of checkpoints.

    Raises
    ------
    InputError
        There are checkpoints, and each is damaged.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for step in (1, 2, 3):
    ...     _ = save_checkpoint(folder, step, {}, {})
    >>> load_latest(folder).step, len(list(folder.iterdir()))
    (3, 2)
    """
    paths = _checkpoints(folder)
    problems = []
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except InputError as error:
            problems.append(str(error))
            _log.warning("refused a damaged checkpoint, trying the one before it: %s", error)
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    if problems:
        raise InputError(
            "none of the checkpoints is whole:\n  " + "\n  ".join(problems) + f"\nremove {folder} to start over"
        )
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _prune(folder: Path, keep: int) -> None:
    """Remove all but the newest; renamed first, so that a kill in between leaves nothing that looks damaged."""
    for path in _checkpoints(folder)[:-keep]:
        doomed = path.with_name(f".{path.name}.partial")
        path.rename(doomed)
        shutil.rmtree(doomed)


def _verified(path: Path, name: str, expected: Any) -> bytes:
    """Return a file's bytes if they are those that the manifest describes."""
    if not _FILE.fullmatch(name) or not isinstance(expected, dict):
        raise InputError(f"checkpoint {path}: {MANIFEST} has an illegal entry {name!r}")
    try:
        size = (path / name).stat().st_size
    except OSError as error:
        raise InputError(f"checkpoint {path}: cannot read {name}: {error.strerror or error}") from error
    if size != expected.get("size"):  # before it is read, for it may be anything
        raise InputError(f"checkpoint {path}: {name} has {size} bytes, expected {expected.get('size')}")
    data = _read_bytes(path, name)
    if len(data) != expected.get("size"):
        raise InputError(f"checkpoint {path}: {name} has {len(data)} bytes, expected {expected.get('size')}")
    if _digest(data) != expected.get("sha256"):
        raise InputError(f"checkpoint {path}: {name} has SHA-256 {_digest(data)}, expected {expected.get('sha256')}")
    return data


def _refuse_non_finite(named: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in named.items():
        # isfinite knows no floats of 8 bits
        values = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise InputError(f"{where}: tensor {name} holds non-finite values; it cannot be trained on")


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise InputError(f"checkpoint {path}: cannot read {name}: {error.strerror or error}") from error


def _read_json(path: Path, data: bytes, name: str) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise InputError(f"checkpoint {path}: {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"checkpoint {path}: {name} holds {type(value).__name__}, expected an object")
    return value


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
