"""What a batch asks of sequence files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from seqdomains.backbone import LoadedModel
from seqdomains.cli.batch_plan import Looked, hash_of
from seqdomains.cli.models import load_model
from seqdomains.errors import InputError, printable
from seqdomains.genomics.fasta import source_name
from seqdomains.genomics.sources import SequenceRecords, SequenceWindows, divisible
from seqdomains.genomics.spans import plan_spans
from seqdomains.genomics.survey import survey
from seqdomains.genomics.windows import read_bed
from seqdomains.pipelines.batch.plan import Skipped, shown


class Sequences:
    """Sequence files in a batch; see `seqdomains.cli.batch_plan.Domain`."""

    tokens = "bases"

    def load(self, artefact: Path, *, device: torch.device) -> LoadedModel:
        """See `Domain`."""
        return load_model(artefact, device=device)

    def windows(self, parameters: Mapping[str, Any]) -> SequenceWindows:
        """See `Domain`; refuses a BED that is not what it was."""
        regions = parameters["regions"]
        if regions is not None and hash_of(Path(regions)) != parameters["regions_sha256"]:
            raise InputError(f"{regions} has changed since the plan was made; choose another --out")
        return SequenceWindows(
            parameters["window"],
            parameters["stride"],
            parameters["gap_policy"],
            None if regions is None else read_bed(Path(regions)),
            parameters.get("keep_short", False),
        )

    def records(self, parameters: Mapping[str, Any]) -> SequenceRecords:
        """See `Domain`."""
        return SequenceRecords(parameters["gap_policy"])

    def divisible(self, path: str, parameters: Mapping[str, Any]) -> bool:
        """See `Domain`."""
        return divisible(path, parameters["gap_policy"])

    def count_windows(
        self, parameters: Mapping[str, Any], paths: Sequence[str], *, processes: int, progress: Callable[[int], None]
    ) -> Looked:
        """See `Domain`."""
        source = self.windows(parameters)
        found = plan_spans(
            paths,
            window=source.window,
            stride=source.stride,
            regions=source.regions,
            policy=source.policy,
            keep_short=source.keep_short,
            processes=processes,
            progress=progress,
        )
        number_of = _numbers(paths)
        skipped = [Skipped(number_of[name], None, str(error)) for name, error in found.failures]
        skipped += [Skipped(number_of[one.source], shown(one.record), printable(one.reason)) for one in found.skipped]
        good = [(number_of[file.source], [file.windows or 0]) for file in found.files]
        return Looked(good, tuple(sorted(skipped, key=lambda one: one.input)))

    def measure_records(
        self, parameters: Mapping[str, Any], paths: Sequence[str], *, processes: int, progress: Callable[[int], None]
    ) -> Looked:
        """See `Domain`."""
        found, failures = survey(paths, policy=parameters["gap_policy"], processes=processes, progress=progress)
        number_of = _numbers(paths)
        good = [(number_of[source_name(path)], list((lengths or {}).values())) for path, lengths in found]
        return Looked(good, tuple(Skipped(number_of[name], None, str(error)) for name, error in failures))


def _numbers(paths: Sequence[str]) -> dict[str, int]:
    return {source_name(path): number for number, path in enumerate(paths)}
