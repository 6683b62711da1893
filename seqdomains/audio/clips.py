"""What clips there are and what is said of them: folders, manifests, file names and tables of labels."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from seqdomains.audio.clip import Clip, checked_label, checked_labels, first_of, is_there, named, refuse
from seqdomains.audio.manifests import is_manifest, read_labels, read_manifest
from seqdomains.errors import ConfigError, InputError
from seqdomains.files import parse_json

logger = logging.getLogger(__name__)


def read_clips(
    paths: Sequence[Path],
    *,
    label_from: str | None = None,
    labels: Path | None = None,
    separator: str | None = None,
    is_sound: Callable[[Path], bool],
) -> tuple[Clip, ...]:
    """List the clips of folders, manifests and sound files.

    Parameters
    ----------
    paths : sequence of Path
        Sound files; folders, where the first folder below is the class; manifests: JSON lines as NeMo has them, CSV or
        TSV with a header, fairseq's TSV, the JSON of AST. A manifest's relative paths start at its folder, and, as in
        NeMo, a duration without an offset counts from the beginning of the file.
    label_from : str, optional
        Where the class is said instead: ``folder``, the folder that the file is in; ``name:PATTERN`` such as
        ``name:{label}_{speaker}_{take}`` for the file's name without its suffix, where the other parts become fields
        and no part has the text that ends it; ``field:KEY``, a column of the manifest.
    labels : Path, optional
        A table ``file<TAB>label`` (or CSV) that says the classes: by path relative to the folder or manifest, or by
        file name where one file has it.
    separator : str, optional
        What stands between several labels of a clip, in a manifest, its column KEY, or a table. A list of JSON needs
        none, nor a column called ``labels``, where ``,``, ``|`` and ``;`` do.
    is_sound : callable
        Whether a path is named like a sound file.

    Returns
    -------
    tuple of Clip
        In the order of `paths`, of lines in a manifest and of names in a folder; each file and part once.

    Raises
    ------
    ConfigError
        There are no paths, `label_from` has another form, or it and `labels` both say the classes.
    InputError
        A path or manifest cannot be read, a row of it is bad, a file does not exist, or a label is missing or unfit.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "7_jackson_0.wav").touch(), (folder / "7_theo_0.wav").touch()
    >>> clips = read_clips([folder], label_from="name:{label}_{speaker}_{take}", is_sound=lambda p: p.suffix == ".wav")
    >>> [(clip.name, clip.label, clip.fields["speaker"]) for clip in clips]
    [('7_jackson_0.wav', '7', 'jackson'), ('7_theo_0.wav', '7', 'theo')]
    """
    if not paths:
        raise ConfigError("data.paths: no data; give sound files, a folder with one folder per class, or a manifest")
    described, gives_label = _describer(label_from, separator) if label_from is not None else (None, False)
    if gives_label and labels:
        raise ConfigError(f"data.label_from: {label_from} and the table {labels} both say the classes; give one")
    own_labels = not gives_label and labels is None
    clips = [clip for path in paths for clip in _clips_of(path, own_labels, separator, is_sound)]
    if described:
        clips = _each(clips, described)
    if labels:
        clips = _labelled_by_table(clips, labels, separator)
    return tuple(_each(_once(clips), _finished))


def classes_of(clips: Iterable[Clip], wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Order the classes of clips: as in `wanted`, else by name with 2 before 10.

    Raises
    ------
    InputError
        A clip has no label or one that is not wanted, or a wanted class has no clip.

    Examples
    --------
    >>> classes_of([Clip(Path("a.wav"), label, {}) for label in ("take 10", "take 2")])
    ('take 2', 'take 10')
    """
    clips = list(clips)
    unlabelled = [clip.name for clip in clips if clip.label is None]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(clips)} clips have no label, first {first_of(unlabelled)}: put each class into "
            "a folder of its own, name a column `label` in the manifest, or give label_from or a table of labels"
        )
    present = sorted({label for clip in clips for label in clip.labels}, key=natural)
    if wanted is None:
        return tuple(present)
    foreign = [label for label in present if label not in wanted]
    if foreign:
        raise InputError(
            f"the data have labels that are not among the wanted classes: {first_of(foreign)}"
            f"{did_you_mean(foreign[0], wanted)}; the classes are {', '.join(wanted)}"
        )
    empty = [name for name in wanted if name not in present]
    if empty:
        raise InputError(
            f"no clip of the wanted class {first_of(empty)}{did_you_mean(empty[0], present)}; add clips or remove it"
        )
    return tuple(wanted)


def natural(text: str) -> tuple[str, str]:
    """Return the sort key by which numbers within names count as numbers.

    Examples
    --------
    >>> sorted(["fold 10", "fold 2", "fold"], key=natural)
    ['fold', 'fold 2', 'fold 10']
    """
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), text), text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that offers the nearest known name, or nothing.

    Examples
    --------
    >>> did_you_mean("speker", ["speaker", "take"]), did_you_mean("x", ["speaker"])
    (" (did you mean 'speaker'?)", '')
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _clips_of(path: Path, own_labels: bool, separator: str | None, is_sound: Callable[[Path], bool]) -> list[Clip]:
    if is_there(Path.is_dir, path):
        return _of_folder(path, own_labels, is_sound)
    if not is_there(Path.is_file, path):
        raise InputError(f"{path} is no file or folder: give sound files, a folder of them, or a manifest")
    if is_sound(path):
        return [Clip(path, None, {}, name=path.name)]
    if is_manifest(path):
        return read_manifest(path, own_labels=own_labels, separator=separator)
    raise InputError(f"{path} is neither a sound file nor a manifest: expected .jsonl, .json, .csv or .tsv")


def _of_folder(folder: Path, own_labels: bool, is_sound: Callable[[Path], bool]) -> list[Clip]:
    clips = []
    try:
        # The first level by itself: rglob does not follow links below its start, and a class may be a link.
        for entry in sorted(folder.iterdir()):
            label = entry.name if entry.is_dir() and own_labels else None
            for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
                inside = path.relative_to(folder)
                if is_sound(path) and path.is_file() and not any(part.startswith(".") for part in inside.parts):
                    clips.append(Clip(path, label, {}, name=inside.as_posix()))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}") from error
    if not clips:
        raise InputError(
            f"{folder} holds no sound file: expected one folder per class; give a manifest by its own path"
        )
    return clips


def _describer(label_from: str, separator: str | None) -> tuple[Callable[[Clip], Clip], bool]:
    """Return what a `label_from` does to a clip, and whether it says the class."""
    kind, _, rest = label_from.partition(":")
    if label_from == "folder":
        return lambda clip: replace(clip, label=clip.path.absolute().parent.name), True
    if kind == "field" and rest:
        return partial(_by_field, key=rest, separator=separator), True
    if kind == "name" and (pattern := _compiled(rest)):
        return partial(_by_name, pattern=pattern, written=rest), "label" in pattern.groupindex
    raise ConfigError(
        "data.label_from: expected folder, field:KEY, or name:PATTERN such as name:{label}_{speaker}_{take}, with "
        f"different names and text between them; found {label_from!r}"
    )


def _compiled(written: str) -> re.Pattern[str] | None:
    literals, names = (re.split(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", written)[first::2] for first in (0, 1))
    if not names or len(set(names)) < len(names) or not all(literals[1:-1]) or re.search("[{}]", "".join(literals)):
        return None
    pattern = re.escape(literals[0])
    for place, name in enumerate(names, start=1):
        # A part that may hold what ends it could be cut in several ways: `a_b_c` as {label}_{take}.
        end = literals[place] or literals[place - 1]
        part = f"(?:(?!{re.escape(end)}).)+" if end else ".+"
        pattern += f"(?P<{name}>{part}){re.escape(literals[place])}"
    return re.compile(pattern, re.DOTALL)


def _by_field(clip: Clip, *, key: str, separator: str | None) -> Clip:
    if key not in clip.fields:
        raise ValueError(f"no field {key!r}{did_you_mean(key, clip.fields)}; it has {', '.join(clip.fields) or 'none'}")
    said: object = clip.fields[key]
    with suppress(ValueError):  # a list of JSON is kept as its text
        said = found if isinstance(found := parse_json(clip.fields[key]), list) else said
    first, *others = checked_labels(said, separators=separator or "")
    return replace(clip, label=first, others=tuple(others))


def _by_name(clip: Clip, *, pattern: re.Pattern[str], written: str) -> Clip:
    match = pattern.fullmatch(clip.path.stem)
    if match is None:
        raise ValueError(f"{clip.path.stem!r} is not of the form {written}, where no part has the text that ends it")
    said = match.groupdict()
    return replace(clip, label=said.pop("label", clip.label), fields={**clip.fields, **said})


def _each(clips: Sequence[Clip], described: Callable[[Clip], Clip]) -> list[Clip]:
    done, problems = [], []
    for clip in clips:
        try:
            done.append(described(clip))
        except ValueError as error:
            problems.append(f"{clip.path}: {error}")
    refuse(problems)
    return done


def _labelled_by_table(clips: Sequence[Clip], path: Path, separator: str | None) -> list[Clip]:
    table = read_labels(path, separator=separator)
    holders = Counter(file.name for file in {clip.path for clip in clips})
    keys = [clip.name if clip.name in table or holders[clip.path.name] > 1 else clip.path.name for clip in clips]
    unlabelled = [clip.name for clip, key in zip(clips, keys, strict=True) if key not in table]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(clips)} clips have no label in {path}, first {first_of(unlabelled)}: add their "
            "paths relative to the folder or manifest, or their file names where one file has it"
        )
    unknown = sorted(table.keys() - set(keys))
    if unknown:
        raise InputError(f"{path} labels {len(unknown)} files that are not there: {first_of(unknown)}; remove them")
    return [replace(clip, label=table[key][0], others=table[key][1:]) for clip, key in zip(clips, keys, strict=True)]


def _once(clips: Sequence[Clip]) -> list[Clip]:
    first: dict[tuple[Path, float, float | None], Clip] = {}
    twice = []
    for clip in clips:
        before = first.setdefault((clip.path.resolve(), clip.start, clip.seconds), clip)
        if set(before.labels) != set(clip.labels):
            raise InputError(
                f"{clip.path} is labelled {named(before.labels)} and {named(clip.labels)}: list a clip once, with all "
                "its labels"
            )
        if before is not clip:
            twice.append(clip.name)
    if twice:
        logger.warning("%d clips are given more than once and taken once: %s", len(twice), first_of(twice))
    return list(first.values())


def _finished(clip: Clip) -> Clip:
    name = f"{clip.name}:{clip.start:.10g}-" if clip.start or clip.seconds is not None else clip.name
    end = "" if clip.seconds is None else f"{clip.start + clip.seconds:.10g}"
    return replace(clip, label=None if clip.label is None else checked_label(clip.label), name=name + end)
