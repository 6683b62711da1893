"""What a batch asks of sound files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from seqdomains.audio.front_end import SoundInput, input_of
from seqdomains.audio.sources import SoundRecords, SoundWindows, count_windows, measure
from seqdomains.backbone import LoadedModel
from seqdomains.cli.batch_plan import Looked
from seqdomains.cli.models import load_model
from seqdomains.errors import InputError
from seqdomains.pipelines.batch.plan import Skipped


class Sounds:
    """Sound files in a batch; see `seqdomains.cli.batch_plan.Domain`. A record is a channel of a file."""

    tokens = "positions"

    def load(self, artefact: Path, *, device: torch.device) -> LoadedModel:
        """See `Domain`."""
        return load_model(artefact, device=device, check=input_of)

    def windows(self, parameters: Mapping[str, Any]) -> SoundWindows:
        """See `Domain`."""
        return SoundWindows(_input(parameters), parameters["window"], parameters["stride"])

    def records(self, parameters: Mapping[str, Any]) -> SoundRecords:
        """See `Domain`."""
        return SoundRecords(_input(parameters))

    def divisible(self, path: str, parameters: Mapping[str, Any]) -> bool:
        """See `Domain`: a resampler has to begin where the sound does."""
        return False

    def count_windows(
        self, parameters: Mapping[str, Any], paths: Sequence[str], *, processes: int, progress: Callable[[int], None]
    ) -> Looked:
        """See `Domain`."""
        window, stride = parameters["window"], parameters["stride"]
        found = self.measure_records(parameters, paths, processes=processes, progress=progress)
        good = [
            (number, [count_windows(length, window=window, stride=stride) for length in lengths])
            for number, lengths in found.good
        ]
        return Looked(good, found.skipped)

    def measure_records(
        self, parameters: Mapping[str, Any], paths: Sequence[str], *, processes: int, progress: Callable[[int], None]
    ) -> Looked:
        """See `Domain`; headers alone are read, by this process."""
        given = _input(parameters)
        good: list[tuple[int, list[int]]] = []
        skipped: list[Skipped] = []
        for number, path in enumerate(paths):
            try:
                good.append((number, measure(path, given)))
            except InputError as error:
                skipped.append(Skipped(number, None, str(error)))
            progress(number + 1)
        return Looked(good, tuple(skipped))


def _input(parameters: Mapping[str, Any]) -> SoundInput:
    return input_of({"domain": "audio", "input": parameters.get("input")})
