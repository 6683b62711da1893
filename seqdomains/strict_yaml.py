"""YAML without its traps: what a reader sees in a preset is what the run gets."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from seqdomains.errors import ConfigError

LARGEST: Final = 128 << 10  # characters; the slowest documents of this size take 3 s, and presets have 1 KB
DEEPEST: Final = 50


class StrictLoader(yaml.SafeLoader):
    """A SafeLoader without the traps: duplicate keys, aliases, tags and numbers with a leading zero are errors.

    YAML 1.1 turns `yes`, `no`, `on` and `off` into booleans, `012` into 10, `1:30` into 90 and dates into objects,
    reads `1e-4` as text, and silently keeps the last of two equal keys. Here only `true` and `false` are booleans,
    words, times and dates stay text, and `1e-4` is a number.
    """

    depth = 0

    # Emptied, or SafeLoader's resolvers would be inherited.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases, which let a short file stand for an endless one, and tags, which choose what is built."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            problem = "aliases (*name) and tags (!name) are not read; write the value out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        if self.depth == DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested over {DEEPEST} deep", event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and re.search("[\ud800-\udfff]", node.value):
            raise yaml.composer.ComposerError(None, None, "half of a surrogate pair is no character", node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicate keys and keys that are not text."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Read a decimal number; 012 is refused because YAML 1.1 takes it for ten."""
        text = node.value.replace("_", "")
        if re.match(r"[-+]?0[0-9]", text):
            problem = f"number {node.value} begins with a zero; write it without, or in quotes if it is a name"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return float(text) if re.search(r"[.eE]", text) else int(text)


class StrictDumper(yaml.SafeDumper):
    """Writes so that StrictLoader reads the same values back: the text `012` or `1e-4` gets its quotes."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out each time."""
        return True


NUMERALS = list("-+.0123456789")
for resolver in (StrictLoader, StrictDumper):
    resolver.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
    resolver.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
    resolver.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), NUMERALS)
    resolver.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$"),
        NUMERALS,
    )
StrictLoader.add_constructor("tag:yaml.org,2002:int", StrictLoader.construct_number)
StrictLoader.add_constructor("tag:yaml.org,2002:float", StrictLoader.construct_number)


def dump_yaml(value: Any) -> str:
    """Write plain data as the YAML that `load_yaml` reads back unchanged.

    Examples
    --------
    >>> print(dump_yaml({"rate": 0.0001, "name": "no", "zip": "012"}), end="")
    rate: 0.0001
    name: no
    zip: '012'
    """
    text: str = yaml.dump(value, Dumper=StrictDumper, sort_keys=False, width=1000)
    return text


def load_yaml(text: str, *, origin: str) -> Any:
    """Read one YAML document of plain data.

    Parameters
    ----------
    text : str
        The document.
    origin : str
        What to call it in an error: a file name or an option.

    Returns
    -------
    object
        Mappings, lists, text, numbers, booleans and None.

    Raises
    ------
    ConfigError
        If the document isn't YAML, is too large or too deep, holds a tag, an alias, a duplicate key, or a number with a
        leading zero.

    Examples
    --------
    >>> load_yaml("rate: 1e-4", origin="example")
    {'rate': 0.0001}
    >>> load_yaml("country: no", origin="example")
    {'country': 'no'}
    """
    if len(text) > LARGEST:
        raise ConfigError(f"{origin}: {len(text)} characters; expected less than {LARGEST}")
    try:
        # A subclass of SafeLoader: only plain data can come out.
        return yaml.load(text, Loader=StrictLoader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark is not None and "\n" in text else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{origin}{place}: {problem}") from None
    # PyYAML converts numbers and escapes without a look at their size: "\\UFFFFFFFF", or an integer of 5000 digits.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{origin}: {error}") from None
