"""What is heard when: the task of a class for each position of a sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.clip import Clip
from seqdomains.audio.clip_windows import ClipWindows, unlabelled_clips_of
from seqdomains.audio.clips import classes_of
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.energy_baseline import EnergyBaseline
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.segments import Segment, in_part, segments_of
from seqdomains.errors import InputError
from seqdomains.task import Batch

# A target of padding, which nothing is asked of.
_NOTHING = -100
# A segment may end so much after its file, s: tables round.
_LATE = 0.05
# Positions of training clips that the baseline is fitted on.
_FITTED = 1 << 20


class FrameTask(ClipWindows):
    r"""Sounds with segments of time: a `seqdomains.task.FrameTask`.

    A position is of the class of the segment that its middle lies in, or of the background, which is the first class. A
    training sample takes a clip in proportion to the windows that it fills, a part of that clip, and its speed, level
    and noise; all of it is a function of the seed and the sample's index. Test clips are whole. The labels of the clips
    are not read.

    Parameters
    ----------
    data : ClipData
        What to read and how to draw; `paths` must be set.
    given : SoundInput
        What a model reads.
    simulated : bool
        Whether the clips are synthesized.

    Raises
    ------
    InputError
        Bad data, or a class without a position to train on.
    ConfigError
        No paths, or a split that the data cannot serve.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from seqdomains.audio.files import write_wav
    >>> folder = Path(tempfile.mkdtemp())
    >>> for take in range(5):
    ...     write_wav(folder / f"{take}.wav", np.sin(np.arange(4000, dtype=np.float32)) / 2, 8000)
    ...     _ = (folder / f"{take}.txt").write_text("0.25\t0.5\tbeep\n")
    >>> task = FrameTask(ClipData(paths=(folder,), frames=True), SoundInput(rate=8000, codec="waveform", patch=800))
    >>> (test,) = task.test_batches(4)
    >>> task.classes, test.targets.tolist()
    (('background', 'beep'), [[0, 0, 1, 1, 1]])
    """

    def __init__(self, data: ClipData, given: SoundInput, *, simulated: bool = False) -> None:
        clips = unlabelled_clips_of(data.model_copy(update={"labels": None}))
        heard = segments_of(clips, table=data.labels, background=data.background, activity=data.activity)
        self.classes = (data.background, *_classes(clips, heard, data.classes))
        super().__init__(clips, data, given, simulated=simulated)
        self._heard = self._timelines({id(clip): own for clip, own in zip(clips, heard, strict=True)})
        self._number_of = {id(sound.clip): number for number, sound in enumerate(self._sounds)}
        self._silent = sum(not len(starts) for starts, _, _ in self._heard)
        trained = {int(place) for number in self._train for place in self._heard[number][2]}
        for name in self.classes[1:]:
            if self.classes.index(name) not in trained:
                raise InputError(
                    f"class {name!r} has no segment to train on (split by {self.split.kind}): give more clips or "
                    "another data.split"
                )

    def signature(self) -> Mapping[str, Any]:
        """Return what an artefact carries, with the one class of all segments where it is said."""
        return {**super().signature(), **({} if self.data.activity is None else {"activity": self.data.activity})}

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """Draw samples `first` to `first + count` of the stream that `seed` names, in windows of `window` positions.

        Raises
        ------
        InputError
            A file is not as it was.
        """
        window = window or self.window
        draws = self._draws(seed, first, count)
        numbers = self._drawn_by_length(draws)
        rows = self._windows(seed, first, draws, numbers, window)
        tokens, lengths = self._filled(rows, window)
        targets = np.full((count, window), _NOTHING, np.int64)
        for place, (number, draw, row) in enumerate(zip(numbers.tolist(), draws, rows, strict=True)):
            _, speed, start, _ = self._part(number, draw, window)
            at = start / self.input.rate + speed * self._middles(len(row))
            targets[place, : len(row)] = self._classes_at(number, at)
        return Batch(tokens, targets, lengths)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out clips, whole, in their order."""
        for numbers in self._held_groups(batch_size):
            rows = self._whole(numbers)
            tokens, lengths = self._filled(rows, max(map(len, rows)))
            targets = np.full(tokens.shape[:2], _NOTHING, np.int64)
            for place, (number, row) in enumerate(zip(numbers, rows, strict=True)):
                targets[place, : len(row)] = self._classes_at(number, self._middles(len(row)))
            yield Batch(tokens, targets, lengths)

    def baseline(self) -> Mapping[str, Any] | None:
        """Fit a threshold of energy to training clips and score it on the held-out ones."""
        baseline = EnergyBaseline(self.input, classes=len(self.classes))
        for number in self._shuffled(0):
            baseline.fit(*self._energies(number))
            if baseline.fitted >= _FITTED:
                break
        return baseline.score(self._energies(number) for number in self._held.tolist())

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        silent = (f"{self._silent} clips have no segment: they are {self.data.background} throughout.",)
        return (*super().notes(), *(silent if self._silent else ()))

    def described(self, clip: Clip) -> dict[str, Any]:
        """Return a clip's line of a manifest, with its segments; see `ClipWindows`."""
        rows = zip(*(part.tolist() for part in self._heard[self._number_of[id(clip)]]), strict=True)
        segments = [[start + clip.start, end + clip.start, self.classes[place]] for start, end, place in rows]
        return {**super().described(clip), "segments": segments}

    def _timelines(
        self, heard: Mapping[int, Sequence[Segment]]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
        """Return starts, ends (s from the clip's beginning) and classes of the segments of each sound."""
        found, late = [], []
        for sound in self._sounds:
            clip, own, seconds = sound.clip, heard[id(sound.clip)], sound.frames / self.input.rate
            if clip.seconds is None and own and own[-1].end > clip.start + seconds + _LATE:
                late.append(
                    f"{clip.path}: {own[-1].label!r} ends at {own[-1].end:g} s and the file at "
                    f"{clip.start + seconds:g} s; mend its segments"
                )
            inside = in_part(own, start=clip.start, seconds=seconds)
            found.append(
                (
                    np.array([one.start for one in inside], np.float64),
                    np.array([one.end for one in inside], np.float64),
                    np.array([self.classes.index(one.label) for one in inside], np.int64),
                )
            )
        if late:
            raise InputError("\n".join(late[:3]) + (f"\nand {len(late) - 3} more" if len(late) > 3 else ""))
        return found

    def _middles(self, count: int) -> NDArray[np.float64]:
        """Return where the middles of the first positions of a sound lie, s."""
        return (np.arange(count, dtype=np.float64) + 0.5) / self.input.per_second + self.input.lead

    def _classes_at(self, number: int, times: NDArray[np.float64]) -> NDArray[np.int64]:
        starts, ends, classes = self._heard[number]
        if not len(starts):
            return np.zeros(len(times), np.int64)
        place = np.maximum(np.searchsorted(starts, times, side="right") - 1, 0)
        return np.where((times >= starts[place]) & (times < ends[place]), classes[place], 0)

    def _energies(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
        """Return a sound, where the middles of its positions lie, and their classes."""
        middles = self._middles(self.input.positions(self._sounds[number].frames))
        return self._store.samples(number), middles, self._classes_at(number, middles)


def _classes(
    clips: Sequence[Clip], heard: Sequence[Sequence[Segment]], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    labelled = []
    for clip, own in zip(clips, heard, strict=True):
        labels = list(Counter(one.label for one in own))
        if labels:
            labelled.append(replace(clip, label=labels[0], others=tuple(labels[1:])))
    if not labelled:
        raise InputError(f"{len(clips)} clips have no segment at all: there is nothing to tell from the background")
    return classes_of(labelled, wanted)
