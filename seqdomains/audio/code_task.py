"""What the next sample is: the task that language models of sound are pretrained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.clip_windows import ClipWindows, unlabelled_clips_of
from seqdomains.audio.code_baselines import CodeModel, Codes, LinearPrediction, MarkovChain
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.front_end import LEVELS, SoundInput
from seqdomains.errors import ConfigError
from seqdomains.task import Windows

# Samples of training clips that the baselines are fitted on, and of a piece of a clip that they are given at once.
_FITTED = 1 << 22
_PIECE = 1 << 20
# Parts of clips that are only scored: the baselines of each are fitted on the others.
_FOLDS = 5


class CodeTask(ClipWindows):
    """Codes of sounds, each asked given those before it: a `seqdomains.task.PretrainingTask`.

    The code of silence (128) is put in front of each training window and each test clip, wherever in its sound a window
    begins, so that the first sample is predicted too and all samples count, as in the experiments of arXiv:2312.00752,
    section 4.4.1. A training sample takes a clip in proportion to the windows that it fills, a part of that clip, and
    its speed, level and noise; all of it is a function of the seed and the sample's index. Test clips are whole. The
    labels of the clips, `classes` and `balanced` are not read.

    Parameters
    ----------
    data : ClipData
        What to read and how to draw; `paths` must be set.
    given : SoundInput
        Rate and codec, mu-law or linear.
    simulated : bool
        Whether the clips are synthesized.
    scored_only : bool
        Whether all clips are scored and none is trained on; the baselines of a clip are then fitted on other files.

    Raises
    ------
    InputError
        Bad data.
    ConfigError
        No paths, a split that the data cannot serve, or an input that is no code.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from seqdomains.audio.files import write_wav
    >>> folder = Path(tempfile.mkdtemp())
    >>> for take in range(5):
    ...     write_wav(folder / f"{take}.wav", np.sin(np.arange(4000, dtype=np.float32)) / 2, 8000)
    >>> task = CodeTask(ClipData(paths=(folder,), seconds=0.25), SoundInput(rate=8000))
    >>> batch = task.training_batch(seed=1, first=0, count=4)
    >>> task.window, batch.tokens.shape, batch.tokens[:, 0].tolist()
    (2000, (4, 2001), [128, 128, 128, 128])
    >>> [(test.tokens.shape, test.lengths.tolist()) for test in task.test_batches(4)]
    [((1, 4001), [4001])]
    """

    ignored, codes = None, LEVELS

    def __init__(
        self, data: ClipData, given: SoundInput, *, simulated: bool = False, scored_only: bool = False
    ) -> None:
        check_codes(given)
        data = data.model_copy(update={"split": "none"}) if scored_only else data
        # Samples that are not changed are never needed: codes are held and cut.
        self._as_played = not (data.speed or data.gain or data.noise)
        clips = unlabelled_clips_of(data)
        super().__init__(clips, data, given, simulated=simulated, as_codes=self._as_played)
        self._scored_only = scored_only

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Windows:
        """Draw samples `first` to `first + count` of the stream that `seed` names, of `window` samples and a silence.

        Raises
        ------
        InputError
            A file is not as it was.
        """
        window = window or self.window
        draws = self._draws(seed, first, count)
        rows = self._windows(seed, first, draws, self._drawn_by_length(draws), window)
        return Windows(*self._filled(rows, window, before=1))

    def test_batches(self, batch_size: int) -> Iterator[Windows]:
        """Yield the held-out clips, whole, in their order."""
        for numbers in self._held_groups(batch_size):
            rows = self._whole(numbers)
            yield Windows(*self._filled(rows, max(map(len, rows)), before=1))

    def baselines(self) -> Sequence[Mapping[str, Any]]:
        """Fit an order-1 Markov chain and linear prediction to training clips and score them on the held-out ones.

        They are fitted to at most 2^22 samples, and a clip of more than 2^20 is given to them in pieces. There are none
        where clips of a single file are only scored.
        """
        names: list[str] = []
        bits, positions = np.zeros(2), 0
        for fitted_on, asked in self._folds():
            fitted = list(self._pieces(fitted_on, most=_FITTED))
            models: tuple[CodeModel, ...] = (MarkovChain(self.input), LinearPrediction(self.input))
            for model in models:
                model.fit(fitted)
            for codes in self._pieces(asked):
                bits += [model.bits(codes) for model in models]
                positions += len(codes)
            names = [model.name for model in models]
        return [{"name": name, "bits": float(own) / positions} for name, own in zip(names, bits, strict=False)]

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        if not self._scored_only:
            return (*super().notes(), *self._padded())
        files = len({sound.clip.path for sound in self._sounds})
        said = f"fitted on clips of other files than those they are scored on, in {min(files, _FOLDS)} parts"
        return (
            f"Scored on {', '.join(map(str, self.data.paths))}.",
            f"The references are {said}." if files > 1 else "One file alone has no other to fit references on.",
            *(note for note in super().notes() if note not in self.split.notes),
        )

    def _padded(self) -> tuple[str, ...]:
        """Say how much of the training windows is padding, which costs time and teaches nothing."""
        if self.data.shorter == "skip" or not self._shorter.any():
            return ()
        lengths = self._lengths(self._train, self.input)
        windows = -(-lengths // self.window)
        real = (windows * np.minimum(lengths, self.window)).sum() / (windows.sum() * self.window)
        return (
            f"{self._shorter.sum()} of {len(lengths)} training clips are shorter than a window of "
            f"{self.data.seconds:g} s and padded: {real:.0%} of what is read counts.",
        )

    def _window(self, number: int, draw: NDArray[np.float64], window: int, *, key: tuple[int, int]) -> Codes:
        if not self._as_played:
            codes: Codes = super()._window(number, draw, window, key=key)
            return codes
        _, _, start, taken = self._part(number, draw, window)
        return self._store.codes(number, start, taken)

    def _whole(self, numbers: list[int]) -> list[Codes]:
        return [self._store.codes(number) for number in numbers]

    def _folds(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield what baselines are fitted on and what they are then asked, until all held-out sounds were asked."""
        if not self._scored_only:
            yield self._shuffled(0), self._held.tolist()
            return
        drawn = self._shuffled(0)
        files = list(dict.fromkeys(self._sounds[number].clip.path for number in drawn))
        for part in range(min(len(files), _FOLDS) if len(files) > 1 else 0):
            asked = set(files[part::_FOLDS])
            fitted = [number for number in drawn if self._sounds[number].clip.path not in asked]
            yield fitted, [number for number in drawn if self._sounds[number].clip.path in asked]

    def _pieces(self, numbers: Iterable[int], *, most: int | None = None) -> Iterator[Codes]:
        """Yield the codes of sounds, `most` of them in all."""
        for number in numbers:
            for start in range(0, self._sounds[number].frames, _PIECE):
                codes = self._store.codes(number, start, _PIECE)[:most]
                if not len(codes):
                    return
                yield codes
                most = None if most is None else most - len(codes)


def check_codes(given: SoundInput) -> None:
    """Refuse an input that is no code.

    Raises
    ------
    ConfigError
        It is real numbers.

    Examples
    --------
    >>> check_codes(SoundInput(codec="waveform", patch=8))
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: input.codec: waveform gives real numbers, and what is predicted are codes; choose ...
    """
    if not given.codes:
        raise ConfigError(
            f"input.codec: {given.codec} gives real numbers, and what is predicted are codes; choose mu-law or linear"
        )
