"""Which class a sound is of: the task that pipelines train on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.augment import louder, played_faster, with_noise
from seqdomains.audio.baseline import NAME, MfccBaseline
from seqdomains.audio.clips import classes_of, read_clips
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import is_sound_file
from seqdomains.audio.front_end import LEVELS, SoundInput
from seqdomains.audio.splits import ClipSplit, split_clips
from seqdomains.audio.store import Sound, SoundStore
from seqdomains.errors import ConfigError, InputError
from seqdomains.files import atomic_file
from seqdomains.sampling import below, counter_words, uniform
from seqdomains.task import Batch

# Streams of random words under one seed; the noise of a sample has a stream of its own behind the last.
_DRAW_STREAM = 16
_MEASURE_STREAM = 17
_NOISE_STREAM = 1 << 32
_WORDS = 8
_CLASS, _CLIP, _START, _SPEED, _GAIN, _SNR = range(6)
# Enough for a mean and a deviation to three digits.
_MEASURED = 256
# Positions of a batch of whole test clips; a longer clip is a batch of its own.
_TEST_POSITIONS = 1 << 20
_BASELINE_CLIPS = 5000


class ClipTask:
    r"""Sounds labelled by class: a `seqdomains.task.ClassificationTask`.

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

    def __init__(self, data: ClipData, given: SoundInput, *, simulated: bool = False, least_classes: int = 2) -> None:
        if not data.paths:
            raise ConfigError("data.paths: no data; give folders, manifests or sound files")
        clips = read_clips(data.paths, label_from=data.label_from, labels=data.labels, is_sound=is_sound_file)
        self.data = data
        self.classes = classes_of(clips, data.classes)
        if len(self.classes) < least_classes:
            raise InputError(
                f"the data have one class, {self.classes[0]!r}, and nothing to tell it from; expected two or more"
            )
        self.simulated = simulated
        self._store = SoundStore(clips, given, memory_mb=data.memory_mb, on_error=data.on_error)
        self._sounds = self._store.sounds
        self.split = _split(self._sounds, data)
        self._targets = np.array([self.classes.index(sound.clip.label or "") for sound in self._sounds], np.int64)
        self._train, self._held = (np.flatnonzero(side) for side in (self.split.train, self.split.held))
        self._check_sides()
        self._of_class = [self._train[self._targets[self._train] == number] for number in range(len(self.classes))]
        self.input = given.measured([self._store.samples(number) for number in self._measured()])

    @property
    def vocab_size(self) -> int:
        """Number of sample codes."""
        return LEVELS

    @property
    def window(self) -> int:
        """Length of a training window in positions."""
        return self.input.positions(round(self.data.seconds * self.input.rate))

    def signature(self) -> Mapping[str, Any]:
        """Return what an artefact carries: how its input is made, and the window."""
        return {**self.input.signature(), "window": self.window}

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """Draw samples `first` to `first + count` of the stream that `seed` names, in windows of `window` positions.

        Raises
        ------
        InputError
            A file is not as it was.
        """
        window = window or self.window
        draws = uniform(counter_words(seed, _DRAW_STREAM, first, count, words=_WORDS))
        numbers = self._drawn(draws)
        rows = [
            self._window(number, draw, window, key=(seed, _NOISE_STREAM + first + place))
            for place, (number, draw) in enumerate(zip(numbers, draws, strict=True))
        ]
        return self._batch(rows, self._targets[numbers], window)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out clips, whole, in their order."""
        held: list[int] = []
        longest = 0
        for number in self._held.tolist():
            length = self.input.positions(self._sounds[number].frames)
            longest = max(longest, length)
            if held and (len(held) == batch_size or longest * (len(held) + 1) > _TEST_POSITIONS):
                yield self._whole(held)
                held, longest = [], length
            held.append(number)
        if held:
            yield self._whole(held)

    def write_test_windows(self, folder: Path) -> None:
        """Write ``test_clips.jsonl``, a manifest of the held-out clips."""
        with atomic_file(folder / "test_clips.jsonl") as partial, partial.open("w", encoding="utf-8") as handle:
            # Once, however many channels it has.
            clips = {id(self._sounds[number].clip): self._sounds[number].clip for number in self._held.tolist()}
            for clip in clips.values():
                part = {} if clip.seconds is None else {"duration": clip.seconds}
                row = {"audio_filepath": str(clip.path.absolute()), "offset": clip.start, **part, "label": clip.label}
                handle.write(json.dumps(row) + "\n")

    def ceiling(self) -> float | None:
        """Return None: nobody knows the best that is possible."""
        return None

    def baseline(self) -> Mapping[str, Any] | None:
        """Fit a support vector machine on MFCC of the training clips and score it on the held-out ones."""
        train = self._train
        if len(train) > _BASELINE_CLIPS:
            words = counter_words(self.data.seed, _MEASURE_STREAM, 0, len(train), words=4)[:, 0]
            train = np.sort(train[np.argsort(words)[:_BASELINE_CLIPS]])
        if len(set(self._targets[train].tolist())) < 2:
            return None
        baseline = MfccBaseline(self.input.rate)
        baseline.fit([self._store.samples(number) for number in train.tolist()], self._targets[train])
        found = baseline.predict([self._store.samples(number) for number in self._held.tolist()])
        accuracy = float((found == self._targets[self._held]).mean())
        return {"name": NAME, "accuracy": accuracy, "training_windows": len(train)}

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        notes = list(self.split.notes)
        if self._store.failures:
            notes.append(f"{len(self._store.failures)} clips could not be read and are left out.")
        if self._store.upsampled:
            notes.append(
                f"{self._store.upsampled} clips have a lower rate than the model's {self.input.rate} Hz: resampling "
                "adds no band."
            )
        return tuple(notes)

    def _drawn(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of the sound of each sample."""
        if not self.data.balanced:
            return self._train[below(draws[:, _CLIP], len(self._train))]
        classes = below(draws[:, _CLASS], len(self.classes))
        counts = np.array([len(own) for own in self._of_class], np.int64)[classes]
        places = below(draws[:, _CLIP], counts)
        return np.array([self._of_class[one][place] for one, place in zip(classes, places, strict=True)], np.int64)

    def _window(self, number: int, draw: NDArray[np.float64], window: int, *, key: tuple[int, int]) -> NDArray[Any]:
        data, given = self.data, self.input
        frames = window * given.patch if given.codec != "log-mel" else (window - 1) * given.patch + given.span
        speed = 1 + data.speed * (2 * draw[_SPEED] - 1)
        taken = min(int(np.ceil(frames * speed)), self._sounds[number].frames)
        start = int(below(draw[_START : _START + 1], self._sounds[number].frames - taken + 1)[0])
        samples = played_faster(self._store.samples(number, start, taken), speed)[:frames]
        samples = louder(samples, data.gain * (2 * draw[_GAIN] - 1)) if data.gain else samples
        if data.noise is not None:
            low, high = data.noise
            samples = with_noise(samples, low + (high - low) * draw[_SNR], key=key)
        return given.encode(samples)[:window]

    def _whole(self, numbers: list[int]) -> Batch:
        rows = [self.input.encode(self._store.samples(number)) for number in numbers]
        return self._batch(rows, self._targets[numbers], max(map(len, rows)))

    def _batch(self, rows: list[NDArray[Any]], targets: NDArray[np.int64], length: int) -> Batch:
        tokens = np.full((len(rows), length, *rows[0].shape[1:]), self.input.pad, rows[0].dtype)
        for row, found in zip(tokens, rows, strict=True):
            row[: len(found)] = found
        return Batch(tokens, targets, np.array([len(row) for row in rows], np.int64))

    def _check_sides(self) -> None:
        for side, numbers in (("train on", self._train), ("test on", self._held)):
            if not len(numbers):
                raise InputError(f"there is no clip to {side} (split by {self.split.kind}): choose another data.split")
        lacking = sorted(set(range(len(self.classes))) - set(self._targets[self._train].tolist()))
        if lacking:
            raise InputError(
                f"class {self.classes[lacking[0]]!r} has no clip to train on (split by {self.split.kind}): give more "
                "clips or another data.split"
            )

    def _measured(self) -> list[int]:
        words = counter_words(self.data.seed, _MEASURE_STREAM, 0, len(self._train), words=4)[:, 1]
        return [int(number) for number in self._train[np.argsort(words)[:_MEASURED]]]


def _split(sounds: tuple[Sound, ...], data: ClipData) -> ClipSplit:
    clips = [sound.clip for sound in sounds]
    if data.split == "none":
        everything = np.ones(len(clips), bool)
        return ClipSplit(everything, everything, "none", ("The test clips are those that were trained on.",))
    return split_clips(
        clips,
        kind=data.split,
        group=data.group,
        held_values=data.held or None,
        fraction=data.test_fraction,
        seed=data.seed,
    )
