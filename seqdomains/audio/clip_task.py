"""Which class a sound is of: the task that pipelines train on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.augment import mixed, mixing_shares
from seqdomains.audio.baseline import NAME, MfccBaseline
from seqdomains.audio.clip import Clip, named
from seqdomains.audio.clip_windows import CLASS, CLIP, NOISE_STREAM, ClipWindows, clips_of
from seqdomains.audio.clips import classes_of
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.front_end import SoundInput
from seqdomains.errors import InputError
from seqdomains.sampling import below, counter_words, uniform
from seqdomains.task import Batch

_log = logging.getLogger(__name__)
_BASELINE_CLIPS = 5000
# Streams of random words of mixup: whether and how much, with whom, and the noise of that.
_MIX_STREAM = 18
_PARTNER_STREAM = 19
_PARTNER_NOISE_STREAM = 1 << 62


class ClipTask(ClipWindows):
    r"""Sounds labelled by class: a `seqdomains.task.ClassificationTask`, or a `TaggingTask` where `tagging` says so.

    A training sample takes a class uniformly (or a clip, where `balanced` is off), a clip of it, a part of that clip,
    and its speed, level and noise; all of it is a function of the seed and the sample's index. Test clips are whole.

    Parameters
    ----------
    data : ClipData
        What to read and how to draw; `paths` must be set.
    given : SoundInput
        What a model reads; its normalisation is measured on training clips where it is not set.
    simulated : bool
        Whether the clips are synthesized.
    least_classes : int
        1 where the data are only scored, else 2.

    Raises
    ------
    InputError
        Bad data.
    ConfigError
        No paths, or a split that the data cannot serve.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from seqdomains.audio.files import write_wav
    >>> folder = Path(tempfile.mkdtemp())
    >>> time = np.arange(4000, dtype=np.float32) / 8000
    >>> for pitch in (200, 400):
    ...     for take in range(5):
    ...         write_wav(folder / f"{pitch}_{take}.wav", np.sin(2 * np.pi * pitch * time + take) / 2, 8000)
    >>> data = ClipData(paths=(folder,), label_from="name:{label}_{take}", held={"take": ("0",)}, seconds=0.25)
    >>> task = ClipTask(data, SoundInput(rate=8000))
    >>> batch = task.training_batch(seed=1, first=0, count=4)
    >>> task.classes, batch.tokens.shape, [test.targets.tolist() for test in task.test_batches(4)]
    (('200', '400'), (4, 2000), [[0, 1]])
    """

    mixes = True

    def __init__(self, data: ClipData, given: SoundInput, *, simulated: bool = False, least_classes: int = 2) -> None:
        clips = clips_of(data)
        self.tagging = _several(clips, data)
        self.classes = classes_of(clips, data.classes)
        if len(self.classes) < least_classes:
            raise InputError(
                f"the data have one class, {self.classes[0]!r}, and nothing to tell it from; expected two or more"
            )
        super().__init__(clips, data, given, simulated=simulated)
        places = {name: number for number, name in enumerate(self.classes)}
        labels = np.zeros((len(self._sounds), len(self.classes)), bool)
        for row, sound in zip(labels, self._sounds, strict=True):
            row[[places[label] for label in sound.clip.labels]] = True
        self._targets: NDArray[Any] = labels.astype(np.float32) if self.tagging else labels.argmax(axis=1)
        self._of_class = [self._train[own[self._train]] for own in labels.T]
        for name, own in zip(self.classes, self._of_class, strict=True):
            if not len(own):
                raise InputError(
                    f"class {name!r} has no clip to train on (split by {self.split.kind}): give more clips or another "
                    "data.split"
                )

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """Draw samples `first` to `first + count` of the stream that `seed` names, in windows of `window` positions.

        Raises
        ------
        InputError
            A file is not as it was.
        """
        window = window or self.window
        draws = self._draws(seed, first, count)
        numbers = self._drawn(draws)
        if self.data.mixup:
            rows, targets = self._mixed(seed, first, draws, numbers, window)
        else:
            rows, targets = self._windows(seed, first, draws, numbers, window), self._targets[numbers]
        tokens, lengths = self._filled(rows, window)
        return Batch(tokens, targets, lengths)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out clips, whole, in their order."""
        for numbers in self._held_groups(batch_size):
            rows = self._whole(numbers)
            tokens, lengths = self._filled(rows, max(map(len, rows)))
            yield Batch(tokens, self._targets[numbers], lengths)

    def ceiling(self) -> float | None:
        """Return None: nobody knows the best that is possible."""
        return None

    def baseline(self) -> Mapping[str, Any] | None:
        """Fit a support vector machine on MFCC of the training clips and score it on the held-out ones."""
        train = self._fitted()
        if len(set(self._targets[train].tolist())) < 2:
            return None
        baseline = MfccBaseline(self.input.rate)
        baseline.fit(self._heard(train), self._targets[train])
        accuracy = float((baseline.predict(self._heard(self._held)) == self._targets[self._held]).mean())
        return {"name": NAME, "accuracy": accuracy, "training_windows": len(train)}

    def baseline_scores(self) -> tuple[str, NDArray[np.float64]] | None:
        """Fit a support vector machine for each class and return the name and what it says of the held-out clips."""
        train = self._fitted()
        told = np.ptp(self._targets[train], axis=0) > 0
        if not told.any():
            return None
        baseline = MfccBaseline(self.input.rate, several=True)
        baseline.fit(self._heard(train), self._targets[train][:, told])
        # A class that all or none of the training clips are of cannot be told.
        scores = np.zeros((len(self._held), len(self.classes)))
        scores[:, told] = baseline.scores(self._heard(self._held))
        return NAME, scores

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        told = ("A clip may have several labels: each class is judged by itself.",) if self.tagging else ()
        return (*told, *super().notes())

    def _fitted(self) -> NDArray[np.int64]:
        """Return the numbers of the training sounds that a baseline is fitted to."""
        return np.sort(self._shuffled(0)[:_BASELINE_CLIPS])

    def _heard(self, numbers: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        return [self._store.samples(number) for number in numbers.tolist()]

    def _mixed(
        self, seed: int, first: int, draws: NDArray[np.float64], numbers: NDArray[np.int64], window: int
    ) -> tuple[list[NDArray[Any]], NDArray[np.float32]]:
        """Return a window of each sample, some mixed with another one, and the shares of the classes."""
        count = len(numbers)
        whether, how = uniform(counter_words(seed, _MIX_STREAM, first, count, words=4))[:, :2].T
        shares = np.where(whether < self.data.mixup, mixing_shares(how, self.data.mixup_alpha), 1.0)
        partners = self._draws(seed, first, count, stream=_PARTNER_STREAM)
        others = self._drawn(partners)
        rows = []
        for place, share in enumerate(shares.tolist()):
            index = first + place
            heard = self._samples(int(numbers[place]), draws[place], window, key=(seed, NOISE_STREAM + index))
            if share < 1:
                key = (seed, _PARTNER_NOISE_STREAM + index)
                heard = mixed(heard, self._samples(int(others[place]), partners[place], window, key=key), share)
            rows.append(self._encoded(heard, draws[place], window))
        own, beside = (self._shares_of(drawn) for drawn in (numbers, others))
        weight = shares[:, None].astype(np.float32)
        return rows, weight * own + (1 - weight) * beside

    def _shares_of(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the share of each class in sounds."""
        targets = self._targets[numbers]
        return targets if self.tagging else np.eye(len(self.classes), dtype=np.float32)[targets]

    def _drawn(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of the sound of each sample."""
        if not self.data.balanced:
            return self._train[below(draws[:, CLIP], len(self._train))]
        classes = below(draws[:, CLASS], len(self.classes))
        counts = np.array([len(own) for own in self._of_class], np.int64)[classes]
        places = below(draws[:, CLIP], counts)
        return np.array([self._of_class[one][place] for one, place in zip(classes, places, strict=True)], np.int64)


def _several(clips: Sequence[Clip], data: ClipData) -> bool:
    """Whether a clip may have several labels: as the data are, where nobody says so."""
    tagged = [clip for clip in clips if clip.others]
    if data.tagging is False and tagged:
        raise InputError(
            f"{len(tagged)} of {len(clips)} clips have several labels, first {tagged[0].name!r} "
            f"({named(tagged[0].labels)}), where one is asked: by data.tagging=false, or by a model that gives one "
            "class. Give each clip one label"
        )
    if tagged and data.tagging is None:
        _log.info("%d of %d clips have several labels: each class is learnt by itself", len(tagged), len(clips))
    return bool(tagged) if data.tagging is None else data.tagging
