"""What loudness alone tells of when something is heard: a threshold of energy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.front_end import SoundInput

NAME = "energy threshold"
# Energy is taken over so much around the middle of a position, s, as is usual in voice activity detection.
_SPAN = 0.03
_LEAST = 1e-10  # of full scale, as for spectra


class EnergyBaseline:
    """A threshold of the energy of 30 ms, above which the commonest event is said, chosen for the most right positions.

    Parameters
    ----------
    given : SoundInput
        Reads the rate.
    classes : int
        The first is the background.

    Examples
    --------
    >>> baseline = EnergyBaseline(SoundInput(rate=8000), classes=2)
    >>> sound = np.concatenate([np.zeros(4000, np.float32), np.ones(4000, np.float32)])
    >>> middles = (np.arange(10) + 0.5) / 10
    >>> baseline.fit(sound, middles, np.array([0] * 5 + [1] * 5))
    >>> found = baseline.score([(sound, middles, np.array([0] * 4 + [1] * 6))])
    >>> found["confusion"].tolist(), round(found["auc"], 3)
    ([[4, 0], [1, 5]], 0.917)
    """

    def __init__(self, given: SoundInput, *, classes: int) -> None:
        self._rate = given.rate
        self._classes = classes
        self._levels: list[NDArray[np.float32]] = []
        self._truth: list[NDArray[np.int64]] = []

    @property
    def fitted(self) -> int:
        """How many positions it has seen."""
        return sum(map(len, self._levels))

    def fit(self, sound: NDArray[np.float32], middles: NDArray[np.float64], truth: NDArray[np.int64]) -> None:
        """Take a sound, shape (frames,), where the middles of its positions lie, s, and their classes."""
        self._levels.append(self._level(sound, middles))
        self._truth.append(truth)

    def score(
        self, sounds: Iterable[tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]]
    ) -> dict[str, Any]:
        """Score it on sounds; see `seqdomains.task.FrameTask.baseline`."""
        from sklearn.metrics import roc_auc_score

        threshold, event = self._threshold()
        confusion = np.zeros((self._classes, self._classes), np.int64)
        levels, heard = [], []
        for sound, middles, truth in sounds:
            level = self._level(sound, middles)
            np.add.at(confusion, (truth, np.where(level > threshold, event, 0)), 1)
            if self._classes == 2:
                levels.append(level)
                heard.append(truth == 1)
        area = None
        if levels and 0 < (all_heard := np.concatenate(heard)).mean() < 1:
            area = float(roc_auc_score(all_heard, np.concatenate(levels)))
        return {"name": NAME, "confusion": confusion, "auc": area, "threshold_dbfs": threshold}

    def _threshold(self) -> tuple[float, int]:
        """Return the level that parts background and events with the fewest mistakes, dB, and the commonest event."""
        levels, truth = np.concatenate(self._levels), np.concatenate(self._truth)
        order = np.argsort(levels, kind="stable")
        ordered, quiet = levels[order], truth[order] == 0
        # Right where the first n are called background.
        right = np.concatenate([[0], np.cumsum(quiet)]) + (~quiet).sum() - np.concatenate([[0], np.cumsum(~quiet)])
        best = int(right.argmax())
        threshold = float(ordered[best - 1]) if best else float(ordered[0]) - 1
        counts = np.bincount(truth[truth > 0], minlength=self._classes)
        return threshold, int(counts.argmax()) if counts.any() else 0

    def _level(self, sound: NDArray[np.float32], middles: NDArray[np.float64]) -> NDArray[np.float32]:
        total = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
        half = max(1, round(_SPAN / 2 * self._rate))
        centre = np.round(middles * self._rate).astype(np.int64)
        first, last = (np.clip(centre + side, 0, len(sound)) for side in (-half, half))
        power = (total[last] - total[first]) / np.maximum(last - first, 1)
        level: NDArray[np.float32] = (10 * np.log10(np.maximum(power, _LEAST))).astype(np.float32)
        return level
