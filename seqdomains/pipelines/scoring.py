"""What every evaluation does around its own scores: borrow the model, tell how far it is, and keep the result."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.progress import Show, progress_display
from seqdomains.pipelines.run_folder import RunFolder, write_json
from seqdomains.task import WindowTask

_log = logging.getLogger(__name__)


@contextmanager
def scoring(model: nn.Module, *, device: torch.device, progress: bool) -> Iterator[Show]:
    """Have a model on a device, in evaluation mode and with deterministic algorithms; give back all of it afterwards.

    Yields ``show(done, text, milestone)`` of `progress_display`.

    Examples
    --------
    >>> model = nn.Dropout()
    >>> with scoring(model, device=torch.device("cpu"), progress=False) as show:
    ...     show(1, "windows", False)
    ...     model.training
    False
    >>> model.training
    True
    """
    with (
        deterministic(),
        borrowed(model, device=device, training=False),
        progress_display("evaluate", total=None, enabled=progress) as show,
    ):
        yield show


def keep(result: Mapping[str, Any], task: WindowTask, run: RunFolder | None) -> None:
    """Write a result and the windows that it is of into a run's folder, where there is one.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    if run is None:
        return
    task.write_test_windows(run.path)
    write_json(run.evaluation, result)
    _log.info("wrote %s", run.evaluation)
