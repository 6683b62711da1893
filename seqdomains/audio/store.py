"""The samples of many clips by number: held in memory where they fit, read from their files where not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seqdomains.audio.clip import Clip
from seqdomains.audio.damage import undecodable
from seqdomains.audio.files import SoundFacts, channel_names, examine, read, resampled_frames, stream
from seqdomains.audio.front_end import SoundInput
from seqdomains.errors import InputError

_log = logging.getLogger(__name__)
_NAMED = 3
# A clip may end so much after its file, s: manifests round.
_LATE = 0.02


@dataclass(frozen=True)
class Sound:
    """One channel of a clip.

    Parameters
    ----------
    clip : Clip
    channel : int
        Among those that the model's input takes of the file.
    name : str
        Of the clip, with the channel's where there are several.
    frames : int
        Samples at the model's rate.
    """

    clip: Clip
    channel: int
    name: str
    frames: int


class SoundStore:
    """Sounds of clips at a model's rate.

    A clip whose samples cannot be decoded is found here: while it is read where all are held, else by one pass through
    the files.

    Parameters
    ----------
    clips : sequence of Clip
    given : SoundInput
        Rate and channels.
    memory_mb : int
        Up to this size all sounds are held.
    on_error : {"stop", "skip"}
        What to do about clips that cannot be read.
    as_codes : bool
        Whether codes of 8 bits are held, a quarter of the samples' size; `samples` then reads from disk.

    Raises
    ------
    InputError
        No clip can be read, or one cannot and `on_error` is "stop"; three reasons are named.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        given: SoundInput,
        *,
        memory_mb: int,
        on_error: Literal["stop", "skip"] = "stop",
        as_codes: bool = False,
    ) -> None:
        self._given = given
        self._rate = given.rate
        self._policy = given.channels
        self._as_codes = as_codes
        sounds: dict[int, list[Sound]] = {}
        reasons: dict[int, str] = {}
        lower: dict[int, bool] = {}
        for number, clip in enumerate(clips):
            try:
                facts = examine(clip.path)
                sounds[number] = self._sounds_of(clip, facts)
            except InputError as error:
                reasons[number] = str(error)
            else:
                lower[number] = facts.rate < self._rate
        rows: dict[int, NDArray[Any]] = {}
        if (1 if as_codes else 4) * sum(one.frames for own in sounds.values() for one in own) <= memory_mb << 20:
            rows = self._read_all(sounds, reasons)
        else:
            _tell_pass(sounds, self._rate)
            reasons |= undecodable({number: own[0].clip for number, own in sounds.items()}, rate=self._rate)
        kept = [number for number in sounds if number not in reasons]
        self.failures = [reasons[number] for number in sorted(reasons)]
        self.upsampled = sum(lower[number] for number in kept)
        self._speak_of_failures(len(clips), stop=on_error == "stop" or not kept)
        self.sounds = tuple(one for number in kept for one in sounds[number])
        # Of several channels a row each, as there is a sound of each.
        held: list[NDArray[Any]] = [row for number in kept if number in rows for row in rows[number]]
        self._held = dict(enumerate(held))

    def samples(self, number: int, start: int = 0, frames: int | None = None) -> NDArray[np.float32]:
        """Return a sound, or `frames` samples of it from `start` on, fewer where it ends before.

        Raises
        ------
        InputError
            Its file is not as it was.
        """
        sound = self.sounds[number]
        end = sound.frames if frames is None else min(start + frames, sound.frames)
        if number in self._held and not self._as_codes:
            return self._held[number][start:end]
        clip = sound.clip
        found = read(
            clip.path,
            rate=self._rate,
            channels=self._policy,
            start=clip.start + start / self._rate,
            seconds=(end - start) / self._rate,
        )
        taken: NDArray[np.float32] = found[sound.channel][: end - start]
        return taken

    def codes(self, number: int, start: int = 0, frames: int | None = None) -> NDArray[np.uint8]:
        """Return the codes of a sound as `samples` returns its samples.

        Raises
        ------
        InputError
            Its file is not as it was.
        """
        if number in self._held and self._as_codes:
            return self._held[number][start : None if frames is None else start + frames]
        return self._given.encode(self.samples(number, start, frames))

    def _speak_of_failures(self, clips: int, *, stop: bool) -> None:
        # Several clips of one file may say the same.
        reasons = list(dict.fromkeys(self.failures))[:_NAMED]
        left = sum(reason not in reasons for reason in self.failures)
        if self.failures and stop:
            named = "\n".join(f"  {reason}" for reason in reasons) + (f"\n  and {left} more" if left else "")
            raise InputError(
                f"{len(self.failures)} of {clips} clips cannot be read; mend or remove them, or leave them out "
                f"with --set data.on_error=skip:\n{named}"
            )
        for reason in reasons:
            _log.warning("left out: %s", reason)
        if left:
            _log.warning("and %d more clips are left out", left)

    def _sounds_of(self, clip: Clip, facts: SoundFacts) -> list[Sound]:
        names = channel_names(facts, self._policy)
        frames = _frames_of(clip, facts, self._rate)
        label = f"{clip.name}#{{}}" if len(names) > 1 else clip.name
        return [Sound(clip, number, label.format(name), frames) for number, name in enumerate(names)]

    def _read_all(self, sounds: Mapping[int, Sequence[Sound]], reasons: dict[int, str]) -> dict[int, NDArray[Any]]:
        """Return what is held of clips by number, a row for each channel; add why some cannot be read."""
        rows: dict[int, NDArray[Any]] = {}
        for number, own in sounds.items():
            try:
                # One file gives all its channels at once.
                rows[number] = self._read(own[0].clip)[:, : own[0].frames]
            except InputError as error:
                reasons[number] = str(error)
        return rows

    def _read(self, clip: Clip) -> NDArray[Any]:
        """Return what is held of a clip, a row for each channel."""
        if self._as_codes and not clip.start and clip.seconds is None:
            # Block by block: a file may last hours, whose samples would take four times the room of their codes.
            blocks = stream(clip.path, rate=self._rate, channels=self._policy)
            return np.concatenate([self._encoded(block) for block in blocks], axis=1)
        found = read(clip.path, rate=self._rate, channels=self._policy, start=clip.start, seconds=clip.seconds)
        return self._encoded(found) if self._as_codes else found

    def _encoded(self, samples: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.stack([self._given.encode(channel) for channel in samples])


def _tell_pass(sounds: Mapping[int, Sequence[Sound]], rate: int) -> None:
    files = len({own[0].clip.path for own in sounds.values()})
    minutes = sum(own[0].frames for own in sounds.values()) / rate / 60
    _log.info(
        "decoding %s files once (%s of sound), which are more than data.memory_mb holds: one that is damaged is found "
        "before anything is computed",
        f"{files:,}",
        f"{minutes:,.0f} min" if minutes >= 2 else f"{60 * minutes:.1f} s",
    )


def _frames_of(clip: Clip, facts: SoundFacts, rate: int) -> int:
    """Return how many frames `read` gives of a clip."""
    total = resampled_frames(facts.frames, facts.rate, rate)
    first = round(clip.start * rate)
    if first >= total:
        raise InputError(
            f"{clip.path}: the clip begins at {clip.start:g} s and the file ends at {facts.seconds:.6g} s: no sample "
            f"is left at {rate} Hz"
        )
    if clip.seconds is None:
        return total - first
    if clip.start + clip.seconds > facts.seconds + _LATE:
        raise InputError(
            f"{clip.path}: the clip ends at {clip.start + clip.seconds:g} s and the file at {facts.seconds:.6g} s; "
            "mend its duration in the manifest"
        )
    return max(1, min(round(clip.seconds * rate), total - first))
