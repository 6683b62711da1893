"""The columns of a table that say what a model says: of one class, of each class by itself, of a stretch of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Columns of text, and the least probability of what stands in the second.
PREDICTED: Final = "predicted"
LABELS: Final = "labels"
TAGGED: Final = 0.5
LABEL: Final = "label"
TEXTS: Final = (PREDICTED, LABELS, LABEL)


def class_fields(classes: Sequence[str]) -> list[pa.Field]:
    """Return the columns of class probabilities."""
    return [pa.field(PREDICTED, pa.string()), *(pa.field(f"p_{name}", pa.float32()) for name in classes)]


def class_columns(classes: Sequence[str], shares: NDArray[np.float64]) -> list[pa.Array]:
    """Turn probabilities of shape (rows, classes) into the columns of `class_fields`."""
    best = pa.array(np.array(classes, dtype=object)[shares.argmax(axis=1)], pa.string())
    return [best, *(pa.array(column, pa.float32()) for column in shares.T.astype(np.float32))]


def tag_fields(classes: Sequence[str]) -> list[pa.Field]:
    """Return the columns of classes that are each by itself, which ``labels`` in place of ``predicted`` says."""
    return [pa.field(LABELS, pa.string()), *class_fields(classes)[1:]]


def tag_columns(classes: Sequence[str], shares: NDArray[np.float64]) -> list[pa.Array]:
    """Turn probabilities of shape (rows, classes) into the columns of `tag_fields`; labels are those of 0.5 or more.

    Examples
    --------
    >>> tag_columns(("dog", "rain"), np.array([[0.5, 0.9], [0.4, 0.1]]))[0].to_pylist()
    ['dog;rain', '']
    """
    likely = [";".join(classes[place] for place in np.flatnonzero(row >= TAGGED).tolist()) for row in shares]
    return [pa.array(likely, pa.string()), *class_columns(classes, shares)[1:]]
