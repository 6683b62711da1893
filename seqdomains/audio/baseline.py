"""What spectra alone tell: the mean MFCC of five parts of a clip, and a support vector machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "MFCC + SVM"
_COEFFICIENTS = 13
# Of spoken digits by known speakers 0.99 are right with five parts, 0.955 with one (docs/lab-log.md).
_PARTS = 5
# 32 ms every 8 ms, as is usual for speech.
_SPAN = 0.032
_HOP = 0.008


class MfccBaseline:
    """A support vector machine (RBF kernel, C = 10) on 13 MFCC, averaged over each fifth of a clip.

    Parameters
    ----------
    rate : int
        Of the sounds, Hz.
    several : bool
        Whether a sound may be of several classes; then there is a machine for each of them.

    Examples
    --------
    >>> time = np.arange(8000, dtype=np.float32) / 8000
    >>> low, high = (np.sin(2 * np.pi * pitch * time) for pitch in (200, 2000))
    >>> baseline = MfccBaseline(8000)
    >>> baseline.fit([low, low / 2, high, high / 2], np.array([0, 0, 1, 1]))
    >>> baseline.predict([low / 3, high / 3]).tolist()
    [0, 1]
    """

    def __init__(self, rate: int, *, several: bool = False) -> None:
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        self._rate = rate
        machine = SVC(C=10)
        self._model = make_pipeline(StandardScaler(), OneVsRestClassifier(machine) if several else machine)

    def fit(self, sounds: Sequence[NDArray[np.float32]], targets: NDArray[Any]) -> None:
        """Learn from sounds, each of shape (frames,), and their classes; of several, a column of 0 and 1 for each."""
        self._model.fit(self._features(sounds), targets)

    def predict(self, sounds: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
        """Return the class of each sound."""
        found: NDArray[np.int64] = self._model.predict(self._features(sounds))
        return found

    def scores(self, sounds: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return how far each sound is on the side of each class, above 0 for yes; shape (sounds, classes)."""
        found: NDArray[np.float64] = self._model.decision_function(self._features(sounds))
        return found.reshape(len(sounds), -1)

    def _features(self, sounds: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        from librosa.feature import mfcc

        span = 1 << round(np.log2(max(32, _SPAN * self._rate)))
        hop = max(1, round(_HOP * self._rate))
        rows = []
        for sound in sounds:
            filled = np.pad(sound, (0, max(0, span - len(sound))))
            found = mfcc(
                y=filled, sr=self._rate, n_mfcc=_COEFFICIENTS, n_fft=span, hop_length=hop, n_mels=min(40, span // 8)
            )
            parts = np.array_split(found, min(_PARTS, found.shape[1]), axis=1)
            means = [part.mean(axis=1) for part in parts]
            rows.append(np.concatenate(means + means[-1:] * (_PARTS - len(parts))))
        return np.stack(rows)
