"""What is hidden in a spectrogram: the task that models of sound are pretrained on without labels or codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.clip_windows import ClipWindows, unlabelled_clips_of
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.masking import MaskConfig, hidden_positions
from seqdomains.errors import ConfigError
from seqdomains.task import MaskedWindows

# Streams of what is hidden, one behind each sample's number; the noise of samples has those from 2^32 on.
_MASK_STREAM = 1 << 48
_TEST_MASK_STREAM = 1 << 49
# Training clips whose mean patch is a reference.
_MEASURED = 256


class PatchTask(ClipWindows):
    """Patches of sounds, of which some are hidden and asked for: a `seqdomains.task.MaskedTask`.

    A training sample takes a clip in proportion to the windows that it fills, a part of that clip, its speed, level and
    noise, and what is hidden of it; all of it is a function of the seed and the sample's index. Held-out clips are cut
    into windows of that length, in which as much is hidden, drawn from the data's seed. Errors are in variances of
    the training patches, as the input is normalised: not of each patch or window, since level is information and a
    silence has no deviation to divide by. The labels of the clips, `classes` and `balanced` are not read.

    Parameters
    ----------
    data : ClipData
        What to read and how to draw; `paths` must be set.
    given : SoundInput
        What a model reads; its normalisation is measured on training clips where it is not set.
    mask : MaskConfig
        How much is hidden.
    simulated : bool
        Whether the clips are synthesized.
    scored_only : bool
        Whether all clips are scored and none is trained on; the mean patch is then that of the other files.

    Raises
    ------
    InputError
        Bad data.
    ConfigError
        No paths, a split that the data cannot serve, an input of codes, or a mask of training clips beside this one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from seqdomains.audio.files import write_wav
    >>> folder = Path(tempfile.mkdtemp())
    >>> for take in range(5):
    ...     write_wav(folder / f"{take}.wav", np.sin(np.arange(4000, dtype=np.float32)) / 2, 8000)
    >>> given = SoundInput(rate=8000, codec="log-mel", patch=80, span=200, mels=8)
    >>> task = PatchTask(ClipData(paths=(folder,), seconds=0.25), given, MaskConfig(span=0.05))
    >>> batch = task.training_batch(seed=1, first=0, count=4)
    >>> batch.tokens.shape, batch.masked.sum(1).tolist()
    ((4, 23, 8), [12, 12, 12, 12])
    >>> [(test.tokens.shape, test.lengths.tolist()) for test in task.test_batches(4)]
    [((3, 23, 8), [23, 23, 2])]
    """

    def __init__(
        self,
        data: ClipData,
        given: SoundInput,
        mask: MaskConfig,
        *,
        simulated: bool = False,
        scored_only: bool = False,
    ) -> None:
        check_patches(given)
        if data.time_mask or data.frequency_mask:
            raise ConfigError(
                "data.time_mask, data.frequency_mask: would be asked of the model as if they were sound; mask.share "
                "and mask.span say what is hidden"
            )
        data = data.model_copy(update={"split": "none"}) if scored_only else data
        super().__init__(unlabelled_clips_of(data), data, given, simulated=simulated)
        self._scored_only = scored_only
        self._mask = mask

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> MaskedWindows:
        """Draw samples `first` to `first + count` of the stream that `seed` names, in windows of `window` positions.

        Raises
        ------
        InputError
            A file is not as it was.
        """
        window = window or self.window
        draws = self._draws(seed, first, count)
        rows = self._windows(seed, first, draws, self._drawn_by_length(draws), window)
        return self._hidden(rows, window, keys=[(seed, _MASK_STREAM + first + place) for place in range(count)])

    def test_batches(self, batch_size: int) -> Iterator[MaskedWindows]:
        """Yield windows of the held-out clips in their order."""
        places = list(self._test_windows())
        for first in range(0, len(places), batch_size):
            part = places[first : first + batch_size]
            rows = [self._patches(*place) for place in part]
            keys = [(self.data.seed, _TEST_MASK_STREAM + first + number) for number in range(len(part))]
            yield self._hidden(rows, max(map(len, rows)), keys=keys)

    def baselines(self) -> Sequence[Mapping[str, Any]]:
        """Return what three references miss: the mean patch, a line between neighbours, and the last patch before.

        The mean is over at most 256 training clips; clips of a single file that are only scored have none. Where no
        neighbour is visible on one side the line is that on the other, and where no patch comes before, the last one
        is the mean of all that was trained on.
        """
        misses: dict[str, float] = {}
        asked = 0
        means = self._mean_patches()
        files = (self._sounds[number].clip.path for number, _, _ in self._test_windows())
        for batch in self.test_batches(1):
            (patches,), (hidden,), mean = batch.tokens, batch.masked, means(next(files))
            filled = {} if mean is None else {"mean of the training patches": np.broadcast_to(mean, patches.shape)}
            filled["line between the visible neighbours"] = between_neighbours(patches, hidden)
            filled["last visible patch"] = last_before(patches, hidden)
            for name, found in filled.items():
                missed = np.square(found[hidden] - patches[hidden], dtype=np.float64).mean(-1).sum()
                misses[name] = misses.get(name, 0.0) + float(missed)
            asked += int(hidden.sum())
        return [{"name": name, "error": missed / asked} for name, missed in misses.items()]

    def signature(self) -> Mapping[str, Any]:
        """Return what an artefact carries: how its input is made, the window, and how much of it was hidden."""
        return {**super().signature(), "mask": self._mask.model_dump(mode="json")}

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        hidden = (
            f"{self._mask.share:.0%} of each window is hidden, in spans of {self._mask.span:g} s; errors are in "
            "variances of the training patches."
        )
        if not self._scored_only:
            return (hidden, *super().notes())
        files = len({sound.clip.path for sound in self._sounds})
        scored = f"Scored on {', '.join(map(str, self.data.paths))}"
        scored += "; the mean is that of the other files." if files > 1 else ", which has no other file for a mean."
        return (hidden, scored, *(note for note in super().notes() if note not in self.split.notes))

    def _hidden(self, rows: list[NDArray[Any]], length: int, *, keys: list[tuple[int, int]]) -> MaskedWindows:
        """Return rows in one array with what is hidden of each."""
        tokens, lengths = self._filled(rows, length)
        masked = np.zeros(tokens.shape[:2], bool)
        span = self._mask.positions(self.input.per_second)
        for row, own, key in zip(masked, lengths.tolist(), keys, strict=True):
            row[:own] = hidden_positions(own, share=self._mask.share, span=span, key=key)
        return MaskedWindows(tokens, masked, lengths)

    def _test_windows(self) -> Iterator[tuple[int, int, int]]:
        """Yield of each test window its sound, first position and length."""
        for number in self._held.tolist():
            length = self.input.positions(self._sounds[number].frames)
            for first in range(0, length, self.window):
                yield number, first, min(self.window, length - first)

    def _patches(self, number: int, first: int, count: int) -> NDArray[Any]:
        samples = self._store.samples(number, first * self.input.patch, self.input.frames(count))
        return self.input.encode(samples)[:count]

    def _mean_patches(self) -> Callable[[Path], NDArray[np.float64] | None]:
        """Return what gives the mean training patch for a window of a file; None where there is nothing to train on."""
        drawn = self._shuffled(1)[:_MEASURED]
        sums: dict[Path, tuple[NDArray[np.float64], int]] = {}
        for number in drawn:
            patches = self.input.encode(self._store.samples(number))
            total, count = sums.get(self._sounds[number].clip.path, (np.zeros(patches.shape[1]), 0))
            sums[self._sounds[number].clip.path] = total + patches.sum(0, dtype=np.float64), count + len(patches)

        def mean(path: Path) -> NDArray[np.float64] | None:
            if self._scored_only and len(sums) < 2:
                return None
            others = [own for file, own in sums.items() if not (self._scored_only and file == path)]
            totals, counts = zip(*others, strict=True)
            found: NDArray[np.float64] = np.sum(totals, axis=0) / sum(counts)
            return found

        return mean


def between_neighbours(patches: NDArray[Any], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fill hidden patches, shape (L, features), on a line from the visible one before to the one behind.

    Examples
    --------
    >>> hidden = np.array([False, True, True, False, True])
    >>> between_neighbours(np.array([[0.0], [9.0], [9.0], [3.0], [9.0]]), hidden)[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0, 3.0]
    """
    places = np.arange(len(patches))
    seen = places[~hidden]
    if not len(seen):
        return np.zeros(patches.shape)
    return np.stack([np.interp(places, seen, band[seen]) for band in patches.T.astype(np.float64)], axis=1)


def last_before(patches: NDArray[Any], hidden: NDArray[np.bool_]) -> NDArray[Any]:
    """Fill hidden patches, shape (L, features), with the visible one before; zeros where there is none.

    Examples
    --------
    >>> last_before(np.array([[9.0], [1.0], [9.0]]), np.array([True, False, True]))[:, 0].tolist()
    [0.0, 1.0, 1.0]
    """
    before = np.maximum.accumulate(np.where(hidden, -1, np.arange(len(patches))))
    return np.where(before[:, None] < 0, 0, patches[before])


def check_patches(given: SoundInput) -> None:
    """Refuse an input of codes.

    Raises
    ------
    ConfigError
        It is one.

    Examples
    --------
    >>> check_patches(SoundInput())
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: input.codec: mu-law gives codes, and what is hidden are patches of real numbers; ...
    """
    if given.codes:
        raise ConfigError(
            f"input.codec: {given.codec} gives codes, and what is hidden are patches of real numbers; choose log-mel, "
            "such as by --preset spectrogram-small"
        )
