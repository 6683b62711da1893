"""What estimators take for DNA: texts in a list, an array, a Series or one column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import encode


def encoded(X: Any) -> list[NDArray[np.uint8]]:
    """Return the codes of each sequence.

    Parameters
    ----------
    X : list, array or Series of str, shape (n,), or one column, shape (n, 1)
        Sequences.

    Raises
    ------
    ValueError
        `X` is no list of sequences, or one of them is empty or no DNA; names its place.

    Examples
    --------
    >>> [codes.tolist() for codes in encoded(["ACGT", "nn"])]
    [[0, 1, 2, 3], [14, 14]]
    """
    if isinstance(X, str | bytes):
        raise ValueError("X is one text: expected a list of sequences")
    values = X.to_numpy(dtype=object) if hasattr(X, "to_numpy") else np.asarray(X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"X has the shape {values.shape}: expected sequences, shape (n,), or one column of them")
    if not len(values):
        raise ValueError("X has 0 sample(s): expected at least one sequence")
    codes = []
    for place, value in enumerate(values):
        if not isinstance(value, str | bytes):
            raise ValueError(f"X[{place}] is {value!r} of type {type(value).__name__}: expected DNA as text")
        if not value:
            raise ValueError(f"X[{place}] is empty: expected DNA")
        try:
            codes.append(encode(value, record=f"X[{place}]"))
        except InputError as error:
            raise ValueError(str(error)) from error
    return codes


def column_name(X: Any) -> str | None:
    """Return the name of a DataFrame's only column.

    Examples
    --------
    >>> column_name(["ACGT"]) is None
    True
    """
    columns: Sequence[Any] = getattr(X, "columns", ())
    return columns[0] if len(columns) == 1 and isinstance(columns[0], str) else None
