"""Writing a simulation: WAV files in a folder for each class, and a manifest of what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile

from seqdomains import __version__
from seqdomains.audio.synthesis.chorales import ATTRIBUTION
from seqdomains.audio.synthesis.clips import Clip, clip
from seqdomains.audio.synthesis.config import SynthesisConfig
from seqdomains.audio.synthesis.piano import made_with
from seqdomains.errors import InputError
from seqdomains.files import atomic_folder, parse_json, read_bounded

MANIFEST = "manifest.jsonl"
RECORD = "simulation.json"
_LARGEST_RECORD = 1 << 16


def synthesize(config: SynthesisConfig, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the clips of a simulation into a folder, whole or not at all.

    The folder holds `<label>/<number>.wav` (PCM of 16 bits), `manifest.jsonl` with the truth about each clip, one JSON
    object a line, and `simulation.json` with the settings; of piano also with the versions of what plays it and whose
    work the scores are.

    Parameters
    ----------
    config : SynthesisConfig
        What to simulate.
    folder : Path
        Where to write. The same simulation is left as it is; a folder that holds anything else is refused.
    progress : callable, optional
        Called with the number of clips written and the number of all.

    Raises
    ------
    InputError
        If the folder cannot be written or holds something else.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "digits"
    >>> synthesize(SynthesisConfig(kind="words", clips=2, speakers=2, rate=8000), folder)
    >>> len(list(folder.glob("*/*.wav")))
    20
    >>> first = json.loads((folder / "manifest.jsonl").read_text().splitlines()[0])
    >>> first["audio_filepath"], first["speaker"], first["simulated"]
    ('zero/0.wav', 's00', True)
    """
    folder = folder.resolve()
    record = record_of(config)
    try:
        if _holds(folder, record):
            return
        with atomic_folder(folder) as partial:
            _write(config, partial, progress)
            (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(
            f"cannot write the simulation to {folder}: {getattr(error, 'strerror', None) or error}; "
            "choose a folder that you may write to, with room for it"
        ) from error


def record_of(config: SynthesisConfig) -> dict[str, Any]:
    """Return what decides the bytes of a simulation, and of piano whose work it is.

    Raises
    ------
    InputError
        Of piano: a package is not installed.

    Examples
    --------
    >>> sorted(record_of(SynthesisConfig()))
    ['config', 'simulated', 'version']
    """
    record = {"simulated": True, "version": __version__, "config": config.model_dump(mode="json")}
    if config.kind == "piano":
        record |= {"made_with": made_with(config.soundfont), "attribution": ATTRIBUTION}
    return record


def _holds(folder: Path, record: dict[str, Any]) -> bool:
    """Say whether the folder holds this simulation already; refuse it where it holds anything else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; the simulation needs a folder of its own: choose another path")
    first = min((path.name for path in folder.iterdir()), default=None)
    if first is None:
        return False
    try:
        found = parse_json(read_bounded(folder / RECORD, _LARGEST_RECORD))
    except (OSError, ValueError):
        raise InputError(
            f"{folder} holds {first!r} and no simulation; expected an empty folder or a new one: choose another"
        ) from None
    if found != record:
        raise InputError(f"{folder} holds another simulation, as its {RECORD} says; choose a new folder")
    return True


def _write(config: SynthesisConfig, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    for label in config.classes:
        (folder / label).mkdir()
    digits = len(str(config.clips - 1))
    with (folder / MANIFEST).open("w") as manifest:
        for index in range(len(config)):
            item = clip(config, index)
            path = f"{item.label}/{index // len(config.classes):0{digits}d}.wav"
            soundfile.write(folder / path, item.samples, item.rate, subtype="PCM_16")
            manifest.write(json.dumps(_row(item, path)) + "\n")
            if progress is not None:
                progress(index + 1, len(config))


def _row(item: Clip, path: str) -> dict[str, Any]:
    return {
        "audio_filepath": path,
        "duration": len(item.samples) / item.rate,
        "label": item.label,
        "speaker": item.speaker,
        "events": item.events,
        "truth": item.truth,
        **item.said,
        "simulated": True,
    }
