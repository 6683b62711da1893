"""The sound that the audio commands are given: as keys of the configuration, and synthesized where there is none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from seqdomains.audio.data_config import ClipData
from seqdomains.audio.synthesis import SynthesisConfig
from seqdomains.cli.simulated import synthesized_clips
from seqdomains.errors import ConfigError
from seqdomains.pipelines.run_folder import RunFolder

logger = logging.getLogger(__name__)


def or_synthesized(data: ClipData) -> tuple[ClipData, bool]:
    """Return the data with paths, synthesized where none are given, and whether they were."""
    if data.paths:
        return data, False
    synthesis = data.synthesis or SynthesisConfig()
    logger.info("no data given: working on SYNTHESIZED %s; for your own give --data", synthesis.kind)
    manifest = synthesized_clips(synthesis) / "manifest.jsonl"
    return data.model_copy(update={"paths": (manifest,)}), True


def refuse_without_data(path: Path, **options: object) -> None:
    """Refuse to score a model on its own clips where it has none, or where options speak of other clips.

    Raises
    ------
    ConfigError
        `path` is no run folder, or an option is set.
    """
    if not RunFolder(path).config.exists():
        raise ConfigError(f"{path} is an artefact without test clips of its own: give --data")
    if any(value not in (None, [], ()) for value in options.values()):
        *names, last = (f"--{name.replace('_', '-')}" for name in options)
        raise ConfigError(f"{', '.join(names)} and {last} go with --data; a run's own result is its own")


def check_scored(settings: Sequence[str], out: Path | None, *, sections: Sequence[str] = ("data", "evaluate")) -> None:
    """Refuse settings that would change a model which is only scored, and to write into a run.

    Raises
    ------
    ConfigError
        They would.

    Examples
    --------
    >>> check_scored(["model.d_model=8"], None)
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: --set model.d_model: a model is scored as it is; only keys of data and evaluate ...
    """
    keys = [setting.partition("=")[0] for setting in settings]
    if wrong := [key for key in keys if key.partition(".")[0] not in sections]:
        *most, last = sections
        named = f"{', '.join(most)} and {last}"
        raise ConfigError(
            [f"--set {key}: a model is scored as it is; only keys of {named} can be set" for key in wrong]
        )
    if out is not None and RunFolder(out).config.exists():
        raise ConfigError(f"--out {out}: is a run folder, which keeps its own result; choose another folder")
