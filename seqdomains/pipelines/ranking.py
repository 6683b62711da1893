"""How well scores rank what is of a class before what is not: average precision, area under the ROC curve, d'."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def ranking(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, float | None]:
    """Return the means over classes that audio tagging is judged by.

    Parameters
    ----------
    labels : ndarray of bool, shape (n, n_classes)
        Whether a sample is of a class.
    scores : ndarray of float64, shape (n, n_classes)
        Higher where it is more likely.

    Returns
    -------
    dict
        ``mean_average_precision`` and ``mean_auc`` over the classes that some samples are of and some are not, and
        ``d_prime`` = sqrt(2) z(mean_auc), with the area held half a pair below 1 and above 0, where z is infinite; None
        where there is no such class.

    References
    ----------
    d' as in Gemmeke et al., Audio Set, ICASSP 2017, doi:10.1109/ICASSP.2017.7952261.

    Examples
    --------
    >>> labels = np.array([[True], [False], [True], [False]])
    >>> found = ranking(labels, np.array([[0.9], [0.8], [0.7], [0.1]]))
    >>> round(found["mean_average_precision"], 4), found["mean_auc"], round(found["d_prime"], 4)
    (0.8333, 0.75, 0.9539)
    """
    counts = labels.sum(axis=0)
    found = [one for one in rankings(labels, scores) if one is not None]
    if not found:
        return {"mean_average_precision": None, "mean_auc": None, "d_prime": None}
    told = counts[(counts > 0) & (counts < len(labels))]
    area = float(np.mean([auc for _, auc in found]))
    half = 0.5 / float((told * (len(labels) - told)).sum())
    return {
        "mean_average_precision": float(np.mean([precision for precision, _ in found])),
        "mean_auc": area,
        "d_prime": math.sqrt(2) * NormalDist().inv_cdf(min(max(area, half), 1 - half)),
    }


def rankings(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> list[tuple[float, float] | None]:
    """Return average precision and area under the ROC curve of each class; None where all or no samples are of it.

    Examples
    --------
    >>> rankings(np.array([[True, True], [False, True]]), np.array([[0.9, 0.5], [0.1, 0.5]]))
    [(1.0, 1.0), None]
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    return [
        (float(average_precision_score(own, score)), float(roc_auc_score(own, score)))
        if 0 < own.sum() < len(own)
        else None
        for own, score in zip(labels.T, scores.T, strict=True)
    ]
