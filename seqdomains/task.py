"""The protocol between domains and pipelines: what a domain must say of its data for a pipeline to train on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Side = Literal["train", "valid", "test"]

# As Hugging Face, Speech Commands, speechbrain and AudioSet write them.
_SIDES: Mapping[str, Side] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
}


def side_of(word: str) -> Side | None:
    """Return the side of a split that a user's word means, or None.

    Examples
    --------
    >>> side_of("Validation"), side_of("fold3")
    ('valid', None)
    """
    return _SIDES.get(word.strip().lower())


@dataclass(frozen=True)
class Batch:
    """Windows of one shape with their classes.

    Parameters
    ----------
    tokens : ndarray of uint8 or int64, shape (B, L)
        Codes; positions at and after `lengths` hold the domain's pad code.
    targets : ndarray of int64, shape (B,) or (B, L), or of float32, shape (B, n_classes)
        Index into the task's `classes`, or the share of each class: of a mixture these sum to 1, of a `TaggingTask`
        each is by itself. Of a `FrameTask` an index for each position, or -100 where nothing is asked.
    lengths : ndarray of int64, shape (B,)
        Number of real positions of each window.
    """

    tokens: NDArray[Any]
    targets: NDArray[Any]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Windows of one shape, of which each token is asked given those before it.

    Parameters
    ----------
    tokens : ndarray of uint8 or int64, shape (B, L)
        Codes; the first of each window is given. Positions at and after `lengths` hold the domain's pad code.
    lengths : ndarray of int64, shape (B,)
        Number of real positions of each window, the first one included.
    weights : ndarray of float32, shape (B, L), or None
        How much each position counts in training; one of weight 0 is not asked, in training or in the test. None: all
        count alike.
    """

    tokens: NDArray[Any]
    lengths: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class HiddenTokens(Windows):
    """Windows of one shape of which some tokens are hidden, and asked given all others.

    Parameters
    ----------
    targets : ndarray of int8 or int64, shape (B, L)
        The true code where one is asked, -1 elsewhere. `tokens` are what the model reads.
    """

    targets: NDArray[Any] = field(kw_only=True)


@dataclass(frozen=True)
class MaskedWindows:
    """Windows of one shape, of which some positions are hidden and asked for.

    Parameters
    ----------
    tokens : ndarray of float32, shape (B, L, features)
        Real numbers of each position, the hidden ones too; zeros at and after `lengths`.
    masked : ndarray of bool, shape (B, L)
        Which are hidden; none at or after `lengths`.
    lengths : ndarray of int64, shape (B,)
        Number of real positions of each window.
    """

    tokens: NDArray[Any]
    masked: NDArray[np.bool_]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """A window of a user's record on its way through prediction; `start` and `end` are 0-based half-open."""

    record: str
    start: int
    end: int
    tokens: NDArray[Any]


class WindowTask(Protocol):
    """Windows to learn from: training windows at random by counter, test windows fixed."""

    @property
    def vocab_size(self) -> int:
        """Number of codes that a token may take."""

    @property
    def window(self) -> int:
        """Length of a window in tokens."""

    @property
    def simulated(self) -> bool:
        """Whether any of the data is simulated: reports must say so."""

    def signature(self) -> Mapping[str, Any]:
        """JSON-ready facts that an artefact carries and that an input must match (domain, alphabet, unit)."""

    def training_batch(
        self, seed: int, first: int, count: int, *, window: int | None = None
    ) -> Batch | Windows | MaskedWindows:
        """Draw samples `first` to `first + count` of the stream that `seed` names; a pure function of its arguments.

        `window` is their length in tokens: the task's own by default, or shorter.
        """

    def write_test_windows(self, folder: Path) -> None:
        """Write the test windows in the domain's own format, so that anybody can score them again."""

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results, such as "evaluated on the training loci"."""


class ClassificationTask(WindowTask, Protocol):
    """Labelled windows."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the targets."""

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """See `WindowTask`."""

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the fixed test windows in order."""

    def ceiling(self) -> float | None:
        """Best accuracy reachable on the test windows where the truth behind the data is known, else None."""

    def baseline(self) -> Mapping[str, Any] | None:
        """Fit a simple reference and score it on the test windows: {"name": ..., "accuracy": ..., ...}, or None."""


class TaggingTask(WindowTask, Protocol):
    """Windows that may be of several classes, each a yes or no by itself."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the targets."""

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """See `WindowTask`; targets are of float32, shape (B, n_classes)."""

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the fixed test windows in order; their targets are 0 or 1."""

    def baseline_scores(self) -> tuple[str, NDArray[np.float64]] | None:
        """Fit a simple reference: its name, and scores of the test windows, (windows, n_classes), above 0 for yes."""


class FrameTask(WindowTask, Protocol):
    """Windows each position of which is of one class, the first of `classes` being none of the others."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the targets, the background first."""

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """See `WindowTask`; targets are of int64, shape (B, L)."""

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the fixed test windows in order, of whatever lengths."""

    def baseline(self) -> Mapping[str, Any] | None:
        """Fit a simple reference and score it on the test windows: {"name": ..., "confusion": ..., ...}, or None.

        ``confusion`` has the positions by true class (row) and predicted class (column), ``auc`` the area under the ROC
        curve where there are two classes.
        """


class PretrainingTask(WindowTask, Protocol):
    """Windows of which each token is asked; their rows are one token longer than `window`, the first being given.

    Where they are `HiddenTokens`, some of their tokens are, and rows are as long as `window`.
    """

    @property
    def ignored(self) -> int | None:
        """A code whose positions are not asked, such as an unknown base; None where all are."""

    @property
    def codes(self) -> int:
        """Number of codes that a position which is asked may have."""

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Windows:
        """See `WindowTask`."""

    def test_batches(self, batch_size: int) -> Iterator[Windows]:
        """Yield the fixed test windows in order, of whatever lengths."""

    def baselines(self) -> Sequence[Mapping[str, Any]]:
        """Fit simple references and score them on the test windows: {"name": ..., "bits": per position, ...} each."""


@runtime_checkable
class ControlledTask(Protocol):
    """What a `ClassificationTask` may say besides: parts of its test windows, and what should not be able to tell."""

    def test_groups(self) -> Sequence[str] | None:
        """Name the group of each test window, in order; accuracies are told group by group."""

    def controls(self) -> Sequence[Mapping[str, Any]]:
        """Fit and score references that see only what should not matter: like `baseline`, and expected near chance."""


class MaskedTask(WindowTask, Protocol):
    """Windows of real numbers of which some positions are hidden and asked for."""

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> MaskedWindows:
        """See `WindowTask`."""

    def test_batches(self, batch_size: int) -> Iterator[MaskedWindows]:
        """Yield the fixed test windows in order, of whatever lengths; what is hidden in them is fixed too."""

    def baselines(self) -> Sequence[Mapping[str, Any]]:
        """Return what simple references miss there: {"name": ..., "error": mean squared error, ...} each."""
