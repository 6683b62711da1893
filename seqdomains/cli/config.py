"""Run configuration: defaults, then a preset, then --set, checked once with every problem gathered."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from seqdomains.errors import ConfigError, reason
from seqdomains.files import read_bounded
from seqdomains.strict_yaml import LARGEST, dump_yaml, load_yaml

MOST_ERRORS = 200  # of which the message shows the first

Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(frozen=True)
class Resolved(Generic[Schema]):
    """A checked configuration and where each of its values came from.

    Parameters
    ----------
    config : BaseModel
        The frozen tree.
    sources : mapping of str to str
        For each dotted key that was given a value: "preset NAME", an option's name, or "--set"; the rest are defaults.
    """

    config: Schema
    sources: Mapping[str, str]

    def as_yaml(self, *, sources: bool = False) -> str:
        """Write the tree as YAML that `--preset FILE` reads back, on request with a comment that tells each source."""
        lines = []
        for line, key in _yaml_lines(self.config):
            origin = self.sources.get(key) or ("default" if self._is_default(key) else "follows from others")
            lines.append(f"{line:<40} # {origin}" if sources and key else line)
        return "\n".join(lines) + "\n"

    def _is_default(self, key: str) -> bool:
        value: Any = self.config
        default: Any = type(self.config)()
        for part in key.split(".") if key else ():
            value, default = getattr(value, part), getattr(default, part, None)
        return bool(value == default)


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the package.

    Examples
    --------
    >>> "laptop" in preset_names()
    True
    """
    folder = resources.files("seqdomains.configs")
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def read_preset(preset: str) -> dict[str, Any]:
    """Read a preset by name, or from a file where the argument looks like one (it has a suffix or a slash).

    Parameters
    ----------
    preset : str
        A name from `preset_names`, or the path of a YAML file with the same keys.

    Returns
    -------
    dict
        The differences from the defaults.

    Raises
    ------
    ConfigError
        If there is no such preset or file, or it isn't a YAML mapping.

    Examples
    --------
    >>> sorted(read_preset("tiny"))
    ['data', 'model', 'train']
    """
    if preset.endswith((".yaml", ".yml")) or "/" in preset:
        try:
            text = read_bounded(Path(preset), LARGEST).decode("utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"--preset {preset}: cannot be read ({reason(error)})") from None
    elif preset in preset_names():
        text = resources.files("seqdomains.configs").joinpath(f"{preset}.yaml").read_text(encoding="utf-8")
    else:
        hint = _did_you_mean(difflib.get_close_matches(preset, preset_names(), n=1))
        known = ", ".join(preset_names())
        raise ConfigError(f"--preset {preset}: unknown preset{hint}; there are {known}, or name a .yaml file")
    tree = load_yaml(text, origin=f"preset {preset}")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"preset {preset}: expected sections with keys, found {type(tree).__name__}")
    return tree


def command_of(preset: str) -> str:
    """Return the command that a preset is for: only one of sound says what a model reads, only a language model's why.

    Examples
    --------
    >>> [command_of(name) for name in ("laptop", "pretrain-tiny", "words", "codes")]
    ['genomics train', 'genomics pretrain', 'audio train', 'audio pretrain']
    """
    tree = read_preset(preset)
    return f"{'audio' if 'input' in tree else 'genomics'} {'pretrain' if 'objective' in tree else 'train'}"


def check_preset(preset: str | None, command: str) -> None:
    """Refuse a preset that comes with the package for another command, whose keys would be unknown one by one.

    Raises
    ------
    ConfigError
        It is one; of a file only its keys can tell.

    Examples
    --------
    >>> check_preset("digits", "audio train")
    >>> check_preset("codes", "audio train")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: --preset codes: is for `seqdomains audio pretrain`; here there are activity, ...
    """
    names = preset_names()
    if preset in names and (own := command_of(preset)) != command:
        fitting = ", ".join(name for name in names if command_of(name) == command)
        raise ConfigError(f"--preset {preset}: is for `seqdomains {own}`; here there are {fitting}")


def resolve(
    schema: type[Schema],
    *,
    preset: str | None = None,
    settings: Sequence[str] = (),
    given: Mapping[str, tuple[Any, str]] | None = None,
) -> Resolved[Schema]:
    """Merge defaults, preset, values that other options gave, and --set; check the tree once.

    Parameters
    ----------
    schema : type of BaseModel
        The tree of frozen models that names every key, its type, bounds and default.
    preset : str, optional
        Name or file of the preset; None takes the defaults alone.
    settings : sequence of str
        The arguments of --set, each `a.b=value` with the value read as YAML. A later one wins.
    given : mapping of str to (value, source), optional
        Values by dotted key from named options; they win over the preset and yield to --set.

    Returns
    -------
    Resolved
        The checked tree with its sources.

    Raises
    ------
    ConfigError
        With one line per problem, each beginning with the dotted key.

    Examples
    --------
    >>> from pydantic import create_model
    >>> Train = create_model("Train", __config__={"extra": "forbid", "frozen": True}, steps=(int, 100))
    >>> Run = create_model("Run", __config__={"extra": "forbid", "frozen": True}, train=(Train, Train()))
    >>> resolve(Run, settings=["train.steps=5"]).config.train.steps
    5
    >>> resolve(Run, settings=["train.step=5"])
    Traceback (most recent call last):
        ...
    seqdomains.errors.ConfigError: train.step: unknown key; did you mean train.steps?
    """
    tree = read_preset(preset) if preset is not None else {}
    leaves = dict(_schema_keys(schema))
    sources = dict.fromkeys(_leaf_paths(tree, leaves), f"preset {preset}")
    problems: list[str] = []
    for key, (value, source) in (given or {}).items():
        problems += _put(tree, key, value)
        sources[key] = source
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(f"--set {setting}: expected KEY=VALUE with a dotted key, such as train.steps=100")
            continue
        try:
            problems += _put(tree, key, load_yaml(text, origin=f"--set {key}"))
        except ConfigError as error:
            problems += error.problems
        sources[key] = "--set"
    try:
        config = schema.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(problems + _problems(error, leaves)) from None
    problems += _silent_coercions(tree, config)
    if problems:
        raise ConfigError(problems)
    return Resolved(config, sources)


def _schema_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every dotted key of the tree and whether it is a section, optional ones (`Section | None`) included."""
    for name, field in schema.model_fields.items():
        kinds: tuple[Any, ...] = (field.annotation,)
        if get_origin(field.annotation) in (Union, UnionType):
            kinds = get_args(field.annotation)
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        yield prefix + name, bool(sections)
        for section in sections:
            yield from _schema_keys(section, f"{prefix}{name}.")


def _leaf_paths(tree: Mapping[str, Any], known: Mapping[str, bool], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that a preset gives a value."""
    for name, value in tree.items():
        key = prefix + name
        if known.get(key) and isinstance(value, Mapping):
            yield from _leaf_paths(value, known, f"{key}.")
        else:
            yield key


def _put(tree: dict[str, Any], key: str, value: Any) -> list[str]:
    """Set a dotted key in place; returns the problem, if any."""
    *parents, name = key.split(".")
    for depth, parent in enumerate(parents):
        inner = tree.setdefault(parent, {})
        if not isinstance(inner, dict):
            section = ".".join(parents[: depth + 1])
            return [f"{key}: {section} is a single value, it has no keys of its own"]
        tree = inner
    tree[name] = value
    return []


def _problems(error: ValidationError, known: Mapping[str, bool]) -> list[str]:
    """One line per key, in the order of the schema's errors; the alternatives of a union share a line."""
    found: dict[str, list[str]] = {}
    # A did-you-mean takes a millisecond.
    for detail in error.errors(include_url=False)[:MOST_ERRORS]:
        key = _key_of(detail["loc"], known, unknown_key=detail["type"] == "extra_forbidden")
        found.setdefault(key, []).append(_explain(key, detail, known))
    lines = []
    for key, explanations in found.items():
        text = " or ".join(dict.fromkeys(explanations))
        lines.append(f"{key}: {text}" if key else text)
    return lines


def _key_of(place: Sequence[int | str], known: Mapping[str, bool], *, unknown_key: bool) -> str:
    """Write the place of an error as a dotted key, with [number] for the items of a list."""
    key = ""
    for part in place:
        if isinstance(part, int):
            key += f"[{part}]"
        elif unknown_key or "[" in key or (f"{key}.{part}" if key else part) in known:
            named = part.replace("\n", "\\n") or "''"
            key = f"{key}.{named}" if key else named
        # What is left names the alternatives of a union: not a key.
    return key


def _explain(key: str, detail: Any, known: Mapping[str, bool]) -> str:
    kind, message, value = detail["type"], detail["msg"], detail["input"]
    if kind == "extra_forbidden":
        return "unknown key" if "[" in key else f"unknown key{_did_you_mean(_nearest(key, known))}"
    if kind == "missing":
        return "no value given and there is no default"
    if kind in ("tuple_type", "list_type"):
        return f"expected a list, such as [a, b]; found {value!r}"
    if kind == "value_error":
        return str(message).removeprefix("Value error, ")
    if known.get(key) and not isinstance(value, Mapping):
        first = next((leaf for leaf in known if leaf.startswith(f"{key}.")), key)
        return f"is a section with keys such as {first}; found {value!r}"
    return f"{message[0].lower()}{message[1:]}; found {value!r}"


def _nearest(key: str, known: Mapping[str, bool]) -> list[str]:
    """Find the known key most like this one: first in the same section, then by its last part anywhere."""
    section, _, name = key.rpartition(".")
    for pool in ([k for k in known if k.rpartition(".")[0] == section], list(known)):
        by_name = {k.rpartition(".")[2]: k for k in pool}
        close = difflib.get_close_matches(name, by_name, n=1)
        if close:
            return [by_name[close[0]]]
    return []


def _did_you_mean(matches: Sequence[str]) -> str:
    return f"; did you mean {matches[0]}?" if matches else ""


def _silent_coercions(tree: Mapping[str, Any], config: BaseModel, prefix: str = "") -> list[str]:
    """Find what pydantic lets pass and a run must not: `true` as the number 1, and numbers that are not finite."""
    problems = []
    for name, raw in tree.items():
        key, value = prefix + name, getattr(config, name)
        if isinstance(value, BaseModel) and isinstance(raw, Mapping):
            problems += _silent_coercions(raw, value, f"{key}.")
        elif isinstance(raw, bool) and isinstance(value, int | float) and not isinstance(value, bool):
            problems.append(f"{key}: expected a number; found {str(raw).lower()}")
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{key}: expected a finite number; found {raw!r}")
    return problems


def _yaml_lines(config: BaseModel, prefix: str = "", indent: str = "") -> Iterator[tuple[str, str]]:
    """Yield each line of the tree's YAML with the dotted key that stands on it (empty on a continuation)."""
    plain = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:", ""
            yield from _yaml_lines(value, f"{prefix}{name}.", indent + "  ")
            continue
        for number, line in enumerate(dump_yaml({name: plain[name]}).splitlines()):
            yield indent + line, f"{prefix}{name}" if number == 0 else ""
