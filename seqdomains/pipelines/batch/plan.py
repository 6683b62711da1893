"""The plan of a batch: which windows of which inputs make up each shard. It fixes every batch that a model sees.

Results depend on the plan and the kind of device alone: who computes a shard, when, and how often it was interrupted
changes no bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqdomains.errors import InputError
from seqdomains.files import atomic_file, parse_json, sha256

_KEY: Final = b"seqdomains"
_SCHEMA: Final = pa.schema(
    [
        ("shard", pa.int32()),
        ("input", pa.int32()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("sha256", pa.string()),
        ("first", pa.int64()),
        ("windows", pa.int64()),
        ("record", pa.string()),
        ("skipped", pa.string()),
    ]
)
# What a plan is read from; the other columns are for people.
_READ: Final = ["shard", "input", "size", "mtime_ns", "sha256", "first", "windows"]
_HASH: Final = 64  # characters


@dataclass(frozen=True)
class PlannedInput:
    """An input as it was when the plan was made.

    Parameters
    ----------
    path : str
        As the user gave it.
    place : str
        The same from the root, so that workers elsewhere find it.
    size, mtime_ns : int
        Bytes, and the time of its last change; -1 where it cannot be read.
    sha256 : str
        Of its bytes; empty where that was not asked for.
    """

    path: str
    place: str
    size: int
    mtime_ns: int
    sha256: str = ""

    @classmethod
    def of(cls, path: str, *, hashed: bool = False) -> PlannedInput:
        """Look at a file.

        Examples
        --------
        >>> PlannedInput.of("/dev/null/absent").size
        -1
        """
        place = str(Path(path).absolute())
        try:
            status = Path(path).stat()
            return cls(path, place, status.st_size, status.st_mtime_ns, sha256(Path(path)) if hashed else "")
        except (OSError, ValueError):  # no file has a name with a zero byte
            return cls(path, place, -1, -1)

    def change(self) -> str:
        """Return how the file differs from what was planned; nothing where it does not."""
        now = PlannedInput.of(self.place)
        if self.size < 0:
            return "was not there when the plan was made" if now.size >= 0 else ""
        if now.size != self.size:
            if now.size < 0:
                return "was deleted, or cannot be read any more"
            return f"has {now.size} bytes, and {self.size} when the plan was made"
        if now.mtime_ns == self.mtime_ns:
            return ""
        # The same bytes, copied or touched, are no change where the plan knows them.
        with suppress(OSError):
            if self.sha256 and sha256(Path(self.place)) == self.sha256:
                return ""
        return "was written to since the plan was made"


@dataclass(frozen=True)
class Stretch:
    """Windows of one input, in its order, that a shard computes; records of it where whole records are streamed."""

    input: int
    first: int
    windows: int


@dataclass(frozen=True)
class Skipped:
    """An input, or a record of it, that gets no row, and why."""

    input: int
    record: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a batch computes.

    Parameters
    ----------
    parameters : mapping
        All that results depend on beside the inputs, JSON-ready.
    inputs : tuple of PlannedInput
        In the order given, bad ones among them.
    shards : tuple of tuple of Stretch
        In input order.
    skipped : tuple of Skipped
        What is known to get no row.
    tokens : tuple of int
        Of each shard of whole records, to tell how far it is; empty where that is not known. No result depends on it.

    Examples
    --------
    >>> inputs = (PlannedInput("a.fa", "/a.fa", 10, 1), PlannedInput("b.fa", "/b.fa", 20, 1))
    >>> plan = Plan({"window": 4}, inputs, ((Stretch(0, 0, 2), Stretch(1, 0, 1)), (Stretch(1, 1, 4),)), ())
    >>> plan.windows, plan.windows_of(1)
    (7, 4)
    """

    parameters: Mapping[str, Any]
    inputs: tuple[PlannedInput, ...]
    shards: tuple[tuple[Stretch, ...], ...]
    skipped: tuple[Skipped, ...]
    tokens: tuple[int, ...] = ()

    @property
    def windows(self) -> int:
        """How many windows there are in all."""
        return sum(self.windows_of(shard) for shard in range(len(self.shards)))

    def windows_of(self, shard: int) -> int:
        """How many windows a shard has."""
        return sum(stretch.windows for stretch in self.shards[shard])

    def tokens_of(self, shard: int) -> int | None:
        """How many tokens a shard has, at most where it has windows; None where that is not known."""
        if self.tokens:
            return self.tokens[shard]
        window = self.parameters.get("window")
        return self.windows_of(shard) * window if isinstance(window, int) else None

    @property
    def unit(self) -> str:
        """What its stretches count: windows, or whole records."""
        whole = self.parameters.get("whole") or self.parameters.get("verb") == "stream"
        return "records" if whole else "windows"

    @cached_property
    def identity(self) -> str:
        """A hash of all of it, which each shard's file carries."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode())
        for rows in (self.inputs, self.shards, self.skipped):
            digest.update(repr(rows).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan as Parquet, one row for each stretch and each thing skipped; parameters stand in its metadata.

    Raises
    ------
    OSError
        It cannot be written.
    """
    rows: list[dict[str, Any]] = [
        {"shard": number, "first": part.first, "windows": part.windows, "input": part.input}
        for number, shard in enumerate(plan.shards)
        for part in shard
    ]
    rows += [
        {"input": one.input, "record": one.record and shown(one.record), "skipped": shown(one.reason)}
        for one in plan.skipped
    ]
    # An input that none of the regions lies in has a row all the same.
    rows += [{"input": number} for number in sorted(set(range(len(plan.inputs))) - {row["input"] for row in rows})]
    for row in rows:
        found = plan.inputs[row["input"]]
        row |= {
            "path": shown(found.path),
            "size": found.size,
            "mtime_ns": found.mtime_ns,
            "sha256": found.sha256,
        }
    places = [[one.path, one.place] for one in plan.inputs]
    # Names of files may be no UTF-8, which JSON can say and a column of text cannot.
    facts = {
        "identity": plan.identity,
        "parameters": plan.parameters,
        "inputs": places,
        "shards": len(plan.shards),
        "tokens": plan.tokens,
        "skipped": [[one.input, one.record, one.reason] for one in plan.skipped],
    }
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({_KEY: json.dumps(facts).encode()}))
    with atomic_file(path) as partial, partial.open("wb") as handle:
        pq.write_table(table, handle, compression="zstd", write_page_checksum=True)


def read_plan(path: Path) -> Plan:
    """Read what `write_plan` wrote.

    Raises
    ------
    InputError
        It cannot be read, or is no plan.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "plan.parquet"
    >>> inputs = (PlannedInput("a.fa", "/a.fa", 10, 1),)
    >>> plan = Plan({"window": 4}, inputs, ((Stretch(0, 0, 2),),), (Skipped(0, "r", "short"),))
    >>> write_plan(path, plan)
    >>> read_plan(path) == plan
    True
    """
    try:
        if not path.is_file():
            raise ValueError("no regular file")
        with path.open("rb") as handle:
            # A text is packed once, however many rows have it; as a dictionary it stays so.
            file = pq.ParquetFile(handle, read_dictionary=["sha256"], page_checksum_verification=True)
            facts = parse_json(file.schema_arrow.metadata[_KEY])
            plan = _plan_of(facts, _rows(file))
        if plan.identity != facts["identity"]:
            raise ValueError("a byte of it has changed")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as a plan ({error}); remove the folder, or take another one, and repeat the command"
        ) from error
    return plan


def _rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    """Yield the rows of what may be a plan, few at once: a file of some bytes may hold a billion alike."""
    hashes = pa.field("sha256", pa.dictionary(pa.int32(), pa.string()))
    if not file.schema_arrow.equals(_SCHEMA.set(_SCHEMA.get_field_index("sha256"), hashes)):
        raise ValueError("its columns are not those of a plan")
    # Threads of Arrow's own may outlive a refusal, and the process then ends with SIGABRT.
    for batch in file.iter_batches(1 << 14, columns=_READ, use_threads=False):
        if (pc.max(pc.binary_length(batch.column("sha256").dictionary)).as_py() or 0) > _HASH:
            raise ValueError(f"a hash has over {_HASH} characters")
        yield from batch.to_pylist()


def _plan_of(facts: Any, rows: Iterable[dict[str, Any]]) -> Plan:
    """Put a plan together from what anybody may have written; a misfit is a ValueError."""
    parameters, places, count = facts["parameters"], facts["inputs"], facts["shards"]
    if not isinstance(parameters, dict) or not isinstance(places, list) or not isinstance(count, int):
        raise ValueError("parameters, inputs or the number of shards are missing")
    skipped = tuple(_skipped_of(one, len(places)) for one in facts["skipped"])
    inputs: dict[int, PlannedInput] = {}
    shards: dict[int, list[Stretch]] = {}
    reached = [0] * len(places)
    others = len(skipped) + len(places)
    for row in rows:
        number, shard, windows = row["input"], row["shard"], row["windows"]
        if number is None or not 0 <= number < len(places):
            raise ValueError(f"input {number} is none of {len(places)}")
        path, place = places[number]
        # Not every text can be the bytes of a name.
        if not os.fsencode(path) or not os.fsencode(place) or row["size"] is None or row["mtime_ns"] is None:
            raise ValueError(f"input {number} has no path, size or time")
        inputs[number] = PlannedInput(path, place, row["size"], row["mtime_ns"], row["sha256"] or "")
        if shard is None:
            others -= 1
            if others < 0:
                raise ValueError("more rows are of no shard than inputs were given and skipped")
            continue
        if windows is None or windows < 1 or row["first"] != reached[number]:
            raise ValueError(f"windows {row['first']} and on of input {number} do not follow those before them")
        reached[number] += windows
        shards.setdefault(shard, []).append(Stretch(number, row["first"], windows))
    # Counted first: a range of what somebody wrote may not fit into the memory.
    if len(inputs) != len(places) or len(shards) != count or sorted(shards) != list(range(count)):
        raise ValueError("inputs or shards are missing")
    known = tuple(inputs[number] for number in range(len(places)))
    # Plans of the first version do not say.
    tokens = facts.get("tokens", [])
    if not isinstance(tokens, list) or not all(type(one) is int and one >= 0 for one in tokens):
        raise ValueError("its tokens are no numbers")
    if len(tokens) not in (0, count):
        raise ValueError(f"{len(tokens)} numbers of tokens for {count} shards")
    return Plan(parameters, known, tuple(tuple(shards[number]) for number in range(count)), skipped, tuple(tokens))


def _skipped_of(found: Any, inputs: int) -> Skipped:
    number, record, reason = found
    if type(number) is not int or not 0 <= number < inputs:
        raise ValueError(f"what was skipped is of input {number}, which is none of {inputs}")
    if not isinstance(reason, str) or not (record is None or isinstance(record, str)):
        raise ValueError("what was skipped has no reason, or no name")
    return Skipped(number, record, reason)


def shown(path: str) -> str:
    r"""Return a path as text that UTF-8 and a line of a table can hold.

    Examples
    --------
    >>> shown("a\tb")
    'a\\tb'
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text.translate({ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"})


def differences(
    plan: Plan,
    parameters: Mapping[str, Any],
    paths: Sequence[str],
    *,
    told: Mapping[str, Callable[[Any], str]] | None = None,
) -> list[str]:
    """Say where a command differs from the plan in its folder, a line for each.

    Inputs that were planned and are not given, such as files that were deleted from a folder since, are no difference.
    `told` gives for a parameter what the user says to have a value of it.

    Examples
    --------
    >>> plan = Plan({"window": 4, "rows": None}, (PlannedInput("a.fa", "/a.fa", 10, 1),), (), ())
    >>> told = {"rows": lambda value: "--frames" if value else "no --frames"}
    >>> differences(plan, {"window": 8, "rows": "frames"}, ["/a.fa"], told=told)
    ['--frames differs from no --frames of the plan', 'window: 8 differs from 4 of the plan']
    >>> differences(plan, plan.parameters, ["/b.fa"])
    ['/b.fa: is not in the plan']
    """

    def as_given(key: str, values: Mapping[str, Any], *, named: str) -> str:
        if told is not None and key in told:
            return told[key](values.get(key))
        return f"{named}{json.dumps(values.get(key))}"

    problems = [
        f"{as_given(key, parameters, named=f'{key}: ')} differs from {as_given(key, plan.parameters, named='')} of the "
        "plan"
        for key in sorted({*parameters, *plan.parameters})
        if parameters.get(key) != plan.parameters.get(key)
    ]
    planned = {one.place for one in plan.inputs}
    return problems + [f"{path}: is not in the plan" for path in paths if str(Path(path).absolute()) not in planned]
