"""Data that a user gives: as keys of the configuration, and with the classes of a model that did not choose them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.task import Batch, ClassificationTask, FrameTask, TaggingTask


def given_options(data: Sequence[Path], label_from: str | None, labels: Path | None) -> dict[str, tuple[Any, str]]:
    """Return what --data, --label-from and --labels say, by dotted key with the option's name.

    Examples
    --------
    >>> given_options([], "folder", None)
    {'data.label_from': ('folder', '--label-from')}
    """
    given: dict[str, tuple[Any, str]] = {}
    if data:
        given["data.paths"] = ([str(path.absolute()) for path in data], "--data")
    if label_from is not None:
        given["data.label_from"] = (label_from, "--label-from")
    if labels is not None:
        given["data.labels"] = (str(labels.absolute()), "--labels")
    return given


class GivenData:
    """A task seen with the classes of a model, for scoring alone.

    Parameters
    ----------
    task : ClassificationTask, TaggingTask or FrameTask
        The data with its own classes.
    classes : tuple of str
        Those of the model.
    notes : tuple of str
        What must stand beside the result, such as what was scored.

    Raises
    ------
    InputError
        The data has a class that the model doesn't know.
    """

    def __init__(
        self, task: ClassificationTask | TaggingTask | FrameTask, *, classes: tuple[str, ...], notes: tuple[str, ...]
    ) -> None:
        unknown = [name for name in task.classes if name not in classes]
        if unknown:
            raise InputError(
                f"the data has the class {unknown[0]!r}, the model knows {', '.join(classes)}: "
                "relabel or remove what is of it"
            )
        self._task = task
        self._notes = notes
        self._index = np.array([classes.index(name) for name in task.classes], dtype=np.int64)
        self.classes = classes
        self.vocab_size = task.vocab_size
        self.window = task.window
        self.simulated = task.simulated

    def signature(self) -> Mapping[str, Any]:
        """Return the task's signature."""
        return self._task.signature()

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """Draw training windows, their targets in the model's order."""
        return self._relabelled(self._task.training_batch(seed, first, count, window=window))

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the windows with their targets in the model's order."""
        for batch in self._task.test_batches(batch_size):
            yield self._relabelled(batch)

    def write_test_windows(self, folder: Path) -> None:
        """Write the windows as the task does."""
        self._task.write_test_windows(folder)

    def ceiling(self) -> float | None:
        """Return the oracle's accuracy where the data is simulated."""
        return cast(ClassificationTask, self._task).ceiling()

    def baseline(self) -> Mapping[str, Any] | None:
        """Return None: a reference fitted on the windows that it is scored on would say nothing."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Return the notes that were given."""
        return self._notes

    def baseline_scores(self) -> tuple[str, NDArray[np.float64]] | None:
        """Return None, as `baseline`."""
        return None

    def _relabelled(self, batch: Batch) -> Batch:
        if batch.targets.dtype == np.int64:
            # Below 0 nothing is asked, such as of padding.
            targets = np.where(batch.targets < 0, batch.targets, self._index[np.maximum(batch.targets, 0)])
            return Batch(batch.tokens, targets, batch.lengths)
        targets = np.zeros((len(batch.targets), len(self.classes)), batch.targets.dtype)
        targets[:, self._index] = batch.targets
        return Batch(batch.tokens, targets, batch.lengths)
