"""What tells the data of a run from others, so that one is not gone on with on changed data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Final

from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.task import WindowTask

# Windows that are looked at, each drawn from anywhere in the data, and their tokens in all at most.
_LOOKED_AT: Final = (64, 1 << 26)


def data_digest(task: WindowTask, config: TrainConfig) -> str:
    """Fingerprint the data by its classes, its signature and its first windows: a resumed run must read the same.

    Windows come from all over the data; a change that none of them meets is not seen.

    Parameters
    ----------
    task : WindowTask
    config : TrainConfig
        Reads the seed, by which the windows are drawn.

    Returns
    -------
    str
        A SHA-256 in hexadecimal.
    """
    facts = [list(getattr(task, "classes", ())), dict(task.signature())]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    windows, tokens = _LOOKED_AT
    batch = task.training_batch(config.seed, 0, max(1, min(windows, tokens // task.window)))
    for array in (getattr(batch, field.name) for field in fields(batch)):
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()
