"""Clips and the windows that are drawn from them: what every task on sound shares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.augment import louder, masked, played_faster, with_noise
from seqdomains.audio.clip import Clip
from seqdomains.audio.clips import read_clips
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import is_sound_file
from seqdomains.audio.front_end import LEVELS, SoundInput
from seqdomains.audio.splits import ClipSplit, split_clips
from seqdomains.audio.store import SoundStore
from seqdomains.audio.synthesis.write import RECORD
from seqdomains.errors import ConfigError, InputError
from seqdomains.files import atomic_file
from seqdomains.sampling import below, counter_words, uniform

# Streams of random words under one seed; the noise of a sample has a stream of its own behind the last.
_DRAW_STREAM = 16
_MEASURE_STREAM = 17
NOISE_STREAM = 1 << 32
_WORDS = 12
CLASS, CLIP, START, SPEED, GAIN, SNR, TIME, TIME_AT, BAND, BAND_AT = range(10)
# Enough for a mean and a deviation to three digits.
_MEASURED = 256
# Positions of a batch of whole test clips; a longer clip is a batch of its own.
_TEST_POSITIONS = 1 << 20


def clips_of(data: ClipData) -> tuple[Clip, ...]:
    """List the clips that a configuration names.

    Raises
    ------
    ConfigError
        It names none.
    InputError
        See `seqdomains.audio.clips.read_clips`.

    Examples
    --------
    >>> clips_of(ClipData())
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: data.paths: no data; give folders, manifests or sound files
    """
    if not data.paths:
        raise ConfigError("data.paths: no data; give folders, manifests or sound files")
    return read_clips(
        data.paths,
        label_from=data.label_from,
        labels=data.labels,
        separator=data.label_separator,
        is_sound=is_sound_file,
    )


def unlabelled_clips_of(data: ClipData) -> list[Clip]:
    """List the clips as `clips_of` does, without their labels: a class of a single file is a file like any other.

    Raises
    ------
    ConfigError, InputError
        As `clips_of`.

    Examples
    --------
    >>> import tempfile
    >>> from seqdomains.audio.files import write_wav
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a").mkdir()
    >>> write_wav(folder / "a" / "0.wav", np.zeros(4000, np.float32), 8000)
    >>> [(clip.name, clip.label) for clip in unlabelled_clips_of(ClipData(paths=(folder,)))]
    [('a/0.wav', None)]
    """
    return [replace(clip, label=None, others=()) for clip in clips_of(data)]


def _synthesized(clips: Sequence[Clip]) -> bool:
    if any(clip.fields.get("simulated", "").lower() == "true" for clip in clips):
        return True
    folders = {clip.path.parent for clip in clips}
    return any((folder / RECORD).is_file() for folder in folders | {folder.parent for folder in folders})


class ClipWindows:
    """Sounds on two sides, windows drawn from the one and the whole clips of the other.

    Parameters
    ----------
    clips : sequence of Clip
    data : ClipData
        How to split and draw.
    given : SoundInput
        What a model reads; its normalisation is measured on training clips where it is not set.
    simulated : bool
        Whether the clips are synthesized; they are too where their manifest says so, or the record of a synthesis lies
        beside them.
    as_codes : bool
        Whether the sounds are held as codes; nothing may then be done to samples.

    Raises
    ------
    InputError
        Bad data, or a side without clips.

    Examples
    --------
    >>> import tempfile
    >>> from seqdomains.audio.files import write_wav
    >>> folder = Path(tempfile.mkdtemp())
    >>> for take in range(3):
    ...     write_wav(folder / f"{take}.wav", np.zeros(4000, np.float32), 8000)
    >>> data = ClipData(paths=(folder,), seconds=0.25)
    >>> ClipWindows(clips_of(data), data, SoundInput(rate=8000), simulated=True).window
    2000
    """

    mixes = False  # whether windows are mixed: their classes are then, too

    def __init__(
        self, clips: Sequence[Clip], data: ClipData, given: SoundInput, *, simulated: bool, as_codes: bool = False
    ) -> None:
        if given.codec != "log-mel" and (data.time_mask or data.frequency_mask):
            raise ConfigError(
                f"data.time_mask, data.frequency_mask: are of log-mel spectra; input.codec is {given.codec}"
            )
        if data.mixup and not self.mixes:
            raise ConfigError("data.mixup: mixes clips and their classes, which are not asked for here; leave it out")
        self.data = data
        self.simulated = simulated or _synthesized(clips)
        self._store = SoundStore(clips, given, memory_mb=data.memory_mb, on_error=data.on_error, as_codes=as_codes)
        self._sounds = self._store.sounds
        self.split = _split([sound.clip for sound in self._sounds], data)
        self._train, self._held = (np.flatnonzero(side) for side in (self.split.train, self.split.held))
        for side, numbers in (("train on", self._train), ("test on", self._held)):
            if not len(numbers):
                raise InputError(f"there is no clip to {side} (split by {self.split.kind}): choose another data.split")
        self._shorter = self._lengths(self._train, given) < given.positions(round(data.seconds * given.rate))
        if data.shorter == "skip":
            if self._shorter.all():
                raise InputError(
                    f"all {len(self._train)} training clips are shorter than a window of {data.seconds:g} s: lower "
                    "data.seconds, or set data.shorter=pad"
                )
            self._train = self._train[~self._shorter]
        self.input = given.measured(self._store.samples(number) for number in self._shuffled(1)[:_MEASURED])

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

    def write_test_windows(self, folder: Path) -> None:
        """Write ``test_clips.jsonl``, a manifest of the held-out clips."""
        with atomic_file(folder / "test_clips.jsonl") as partial, partial.open("w", encoding="utf-8") as handle:
            # Once, however many channels it has.
            clips = {id(self._sounds[number].clip): self._sounds[number].clip for number in self._held.tolist()}
            for clip in clips.values():
                handle.write(json.dumps(self.described(clip)) + "\n")

    def described(self, clip: Clip) -> dict[str, Any]:
        """Return the line of a manifest that says what a clip is."""
        part = {} if clip.seconds is None else {"duration": clip.seconds}
        labels = {} if clip.label is None else {"label": list(clip.labels) if clip.others else clip.label}
        return {"audio_filepath": str(clip.path.absolute()), "offset": clip.start, **part, **labels}

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
        if self.data.shorter == "skip" and self._shorter.any():
            notes.append(
                f"{self._shorter.sum()} of {len(self._shorter)} training clips are shorter than a window of "
                f"{self.data.seconds:g} s and left out."
            )
        return tuple(notes)

    def _lengths(self, numbers: NDArray[np.int64], given: SoundInput) -> NDArray[np.int64]:
        """Return how many positions sounds have."""
        return np.array([given.positions(self._sounds[number].frames) for number in numbers.tolist()], np.int64)

    def _draws(self, seed: int, first: int, count: int, *, stream: int = _DRAW_STREAM) -> NDArray[np.float64]:
        """Return the random numbers of samples, a row each."""
        return uniform(counter_words(seed, stream, first, count, words=_WORDS))

    @cached_property
    def _windows_until(self) -> NDArray[np.int64]:
        """How many windows the training sounds fill, up to each."""
        return np.cumsum(-(-self._lengths(self._train, self.input) // self.window))

    def _drawn_by_length(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of the sound of each sample, drawn in proportion to the windows that sounds fill."""
        places = below(draws[:, CLIP], int(self._windows_until[-1]))
        return self._train[np.searchsorted(self._windows_until, places, side="right")]

    def _windows(
        self, seed: int, first: int, draws: NDArray[np.float64], numbers: NDArray[np.int64], window: int
    ) -> list[NDArray[Any]]:
        """Return a window of each sample's sound, shorter where the sound is."""
        return [
            self._window(number, draw, window, key=(seed, NOISE_STREAM + first + place))
            for place, (number, draw) in enumerate(zip(numbers.tolist(), draws, strict=True))
        ]

    def _window(self, number: int, draw: NDArray[np.float64], window: int, *, key: tuple[int, int]) -> NDArray[Any]:
        return self._encoded(self._samples(number, draw, window, key=key), draw, window)

    def _samples(
        self, number: int, draw: NDArray[np.float64], window: int, *, key: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return the samples of a window, as a model is to hear them."""
        data = self.data
        frames, speed, start, taken = self._part(number, draw, window)
        samples = played_faster(self._store.samples(number, start, taken), speed)[:frames]
        samples = louder(samples, data.gain * (2 * draw[GAIN] - 1)) if data.gain else samples
        if data.noise is not None:
            low, high = data.noise
            samples = with_noise(samples, low + (high - low) * draw[SNR], key=key)
        return samples

    def _encoded(self, samples: NDArray[np.float32], draw: NDArray[np.float64], window: int) -> NDArray[Any]:
        data, given = self.data, self.input
        found = given.encode(samples)[:window]
        if given.codec == "log-mel" and (data.time_mask or data.frequency_mask):
            most = (round(data.time_mask * given.per_second), data.frequency_mask)
            return masked(found, times=(draw[TIME], draw[TIME_AT]), bands=(draw[BAND], draw[BAND_AT]), most=most)
        return found

    def _part(self, number: int, draw: NDArray[np.float64], window: int) -> tuple[int, float, int, int]:
        """Return the samples under a window, how fast it is played, and which samples of the sound that takes."""
        frames, speed = self.input.frames(window), 1 + self.data.speed * (2 * draw[SPEED] - 1)
        taken = min(int(np.ceil(frames * speed)), self._sounds[number].frames)
        start = int(below(draw[START : START + 1], self._sounds[number].frames - taken + 1)[0])
        return frames, float(speed), start, taken

    def _held_groups(self, batch_size: int) -> Iterator[list[int]]:
        """Yield the numbers of the held-out sounds in order, as many together as a batch takes."""
        held: list[int] = []
        longest = 0
        for number in self._held.tolist():
            length = self.input.positions(self._sounds[number].frames)
            longest = max(longest, length)
            if held and (len(held) == batch_size or longest * (len(held) + 1) > _TEST_POSITIONS):
                yield held
                held, longest = [], length
            held.append(number)
        if held:
            yield held

    def _whole(self, numbers: list[int]) -> list[NDArray[Any]]:
        return [self.input.encode(self._store.samples(number)) for number in numbers]

    def _filled(
        self, rows: list[NDArray[Any]], length: int, *, before: int = 0
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return rows in one array, with `before` positions of padding before and the rest behind, and their ends."""
        tokens = np.full((len(rows), before + length, *rows[0].shape[1:]), self.input.pad, rows[0].dtype)
        for row, found in zip(tokens, rows, strict=True):
            row[before : before + len(found)] = found
        return tokens, np.array([before + len(row) for row in rows], np.int64)

    def _shuffled(self, word: int) -> list[int]:
        """Return the numbers of the training sounds in an order that the data's seed draws."""
        words = counter_words(self.data.seed, _MEASURE_STREAM, 0, len(self._train), words=4)[:, word]
        return [int(number) for number in self._train[np.argsort(words)]]


def _split(clips: Sequence[Clip], data: ClipData) -> ClipSplit:
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
