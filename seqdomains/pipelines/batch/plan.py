"""The plan of a batch: which windows of which inputs make up each shard. It fixes every batch that a model sees.

Results depend on the plan and the kind of device alone: who computes a shard, when, and how often it was interrupted
changes no bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from seqdomains.errors import InputError
from seqdomains.files import atomic_file, parse_json, sha256

# A shard's tokens: at most what a GPU reads in seconds and a CPU in a minute, and few enough for 64 shards.
MOST_TOKENS: Final = 1 << 24
LEAST_TOKENS: Final = 1 << 16
_SHARES: Final = 64
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


@dataclass(frozen=True)
class PlannedInput:
    """An input as it was when the plan was made.

    Parameters
    ----------
    path : str
        As the user gave it.
    size, mtime_ns : int
        Bytes, and the time of its last change; -1 where it cannot be read.
    sha256 : str
        Of its bytes; empty where that was not asked for.
    """

    path: str
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
        try:
            status = Path(path).stat()
            return cls(path, status.st_size, status.st_mtime_ns, sha256(Path(path)) if hashed else "")
        except OSError:
            return cls(path, -1, -1)

    def change(self) -> str:
        """Return how the file differs from what was planned; nothing where it does not."""
        now = PlannedInput.of(self.path)
        if now.size != self.size:
            if now.size < 0:
                return "was deleted, or cannot be read any more"
            return f"has {now.size} bytes, and {self.size} when the plan was made"
        if now.mtime_ns == self.mtime_ns:
            return ""
        # The same bytes, copied or touched, are no change where the plan knows them.
        if self.sha256 and sha256(Path(self.path)) == self.sha256:
            return ""
        return "was written to since the plan was made"


@dataclass(frozen=True)
class Stretch:
    """Windows of one input, in its order, that a shard computes."""

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

    Examples
    --------
    >>> inputs = (PlannedInput("a.fa", 10, 1), PlannedInput("b.fa", 20, 1))
    >>> plan = Plan({"window": 4}, inputs, ((Stretch(0, 0, 2), Stretch(1, 0, 1)), (Stretch(1, 1, 4),)), ())
    >>> plan.windows, plan.windows_of(1)
    (7, 4)
    """

    parameters: Mapping[str, Any]
    inputs: tuple[PlannedInput, ...]
    shards: tuple[tuple[Stretch, ...], ...]
    skipped: tuple[Skipped, ...]

    @property
    def windows(self) -> int:
        """How many windows there are in all."""
        return sum(self.windows_of(shard) for shard in range(len(self.shards)))

    def windows_of(self, shard: int) -> int:
        """How many windows a shard has."""
        return sum(stretch.windows for stretch in self.shards[shard])

    @property
    def identity(self) -> str:
        """A hash of all of it, which each shard's file carries."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode())
        for rows in (self.inputs, self.shards, self.skipped):
            digest.update(repr(rows).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def shard_tokens(total: int) -> int:
    """Return how many tokens a shard of a batch over `total` tokens should have.

    Examples
    --------
    >>> [shard_tokens(total) for total in (1000, 64_000_000, 10**12)]
    [65536, 1000000, 16777216]
    """
    return min(MOST_TOKENS, max(LEAST_TOKENS, total // _SHARES))


def cut_shards(inputs: Iterable[tuple[int, int, bool]], *, windows: int) -> tuple[tuple[Stretch, ...], ...]:
    """Cut inputs into shards of `windows` windows.

    Parameters
    ----------
    inputs : iterable of (int, int, bool)
        Each good input's number, its windows, and whether it can be read from its middle; one that cannot lies in one
        shard as a whole.
    windows : int
        Of a shard; one that ends with an input that is not cut may have more.

    Examples
    --------
    >>> [[(part.input, part.first, part.windows) for part in shard] for shard in cut_shards(
    ...     [(0, 3, False), (1, 2, False), (2, 9, True)], windows=4)]
    [[(0, 0, 3), (1, 0, 2)], [(2, 0, 4)], [(2, 4, 4)], [(2, 8, 1)]]
    """
    shards: list[tuple[Stretch, ...]] = []
    held: list[Stretch] = []
    count = 0
    for number, total, divisible in inputs:
        first = 0
        while first < total:
            taken = min(total - first, windows - count) if divisible else total
            held.append(Stretch(number, first, taken))
            first, count = first + taken, count + taken
            if count >= windows:
                shards.append(tuple(held))
                held, count = [], 0
    return (*shards, tuple(held)) if held else tuple(shards)


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
    rows += [{"input": one.input, "record": one.record, "skipped": one.reason} for one in plan.skipped]
    # An input that none of the regions lies in has a row all the same.
    rows += [{"input": number} for number in sorted(set(range(len(plan.inputs))) - {row["input"] for row in rows})]
    for row in rows:
        found = plan.inputs[row["input"]]
        row |= {
            "path": os.fsencode(found.path).decode("utf-8", "backslashreplace"),
            "size": found.size,
            "mtime_ns": found.mtime_ns,
            "sha256": found.sha256,
        }
    facts = {"parameters": plan.parameters, "paths": [one.path for one in plan.inputs], "shards": len(plan.shards)}
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
    >>> plan = Plan({"window": 4}, (PlannedInput("a.fa", 10, 1),), ((Stretch(0, 0, 2),),), (Skipped(0, "r", "short"),))
    >>> write_plan(path, plan)
    >>> read_plan(path) == plan
    True
    """
    try:
        with path.open("rb") as handle:
            table = pq.read_table(handle, page_checksum_verification=True)
        facts = parse_json(table.schema.metadata[_KEY])
        parameters, paths, count = facts["parameters"], facts["paths"], facts["shards"]
        inputs: list[PlannedInput | None] = [None] * len(paths)
        shards: list[list[Stretch]] = [[] for _ in range(count)]
        skipped = []
        for row in table.to_pylist():
            number = row["input"]
            inputs[number] = PlannedInput(paths[number], row["size"], row["mtime_ns"], row["sha256"])
            if row["shard"] is not None:
                shards[row["shard"]].append(Stretch(number, row["first"], row["windows"]))
            elif row["skipped"] is not None:
                skipped.append(Skipped(number, row["record"], row["skipped"]))
        known = tuple(one for one in inputs if one is not None)
        if not isinstance(parameters, dict) or len(known) != len(inputs):
            raise ValueError("inputs or parameters are missing")
    except (OSError, ValueError, TypeError, KeyError, IndexError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as a plan ({error}); remove the folder, or take another one, and repeat the command"
        ) from error
    return Plan(parameters, known, tuple(tuple(shard) for shard in shards), tuple(skipped))


def differences(plan: Plan, parameters: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    """Say where a command differs from the plan in its folder, a line for each.

    Examples
    --------
    >>> plan = Plan({"window": 4}, (PlannedInput("a.fa", 10, 1),), (), ())
    >>> differences(plan, {"window": 8}, ["a.fa", "b.fa"])
    ['window: 8 differs from 4 of the plan', 'b.fa: is not in the plan']
    """
    problems = [
        f"{key}: {json.dumps(parameters.get(key))} differs from {json.dumps(plan.parameters.get(key))} of the plan"
        for key in sorted({*parameters, *plan.parameters})
        if parameters.get(key) != plan.parameters.get(key)
    ]
    planned = [one.path for one in plan.inputs]
    if list(paths) != planned:
        more, less = set(paths) - set(planned), set(planned) - set(paths)
        problems += [f"{path}: is not in the plan" for path in paths if path in more]
        problems += [f"{path}: is in the plan and was not given" for path in planned if path in less]
        if not more and not less:
            problems.append("the inputs stand in another order than in the plan")
    return problems
