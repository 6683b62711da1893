"""One batch from the command to its table: plan or find the plan, compute what is missing, put it together."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.merge import BatchOutcome, Format, merge
from seqdomains.pipelines.batch.pace import Done, Heard, Pace, nobody
from seqdomains.pipelines.batch.plan import Plan, differences, read_plan, write_plan
from seqdomains.pipelines.interrupts import StoppedError, StopRequest, stop_on_signals
from seqdomains.pipelines.progress import progress_display
from seqdomains.pipelines.run_folder import write_json

_log = logging.getLogger(__name__)
NAMED = 5
# A shard that ends so many workers ends the batch: it would end every one.
ATTEMPTS = 3


class Engine(Protocol):
    """Computes shards, in any order and place."""

    def start(self) -> None:
        """Make ready, before signals are looked after."""

    def compute(
        self, folder: BatchFolder, shards: Sequence[int], stop: StopRequest, heard: Heard = nobody
    ) -> Iterable[Done]:
        """Yield each shard when its file stands; after a stop was asked for, finish what runs and begin nothing.

        `heard` is told a shard and how many tokens of it are computed, as often as an engine likes, from any thread.
        """


@dataclass(frozen=True)
class Waiting:
    """What one of several jobs did, while others have shards left.

    Parameters
    ----------
    left : int
        Shards of other jobs.
    skipped : int
        Inputs and records without a row, as far as this job knows.
    """

    left: int
    skipped: int


@dataclass(frozen=True)
class Slice:
    """The share of one of several jobs, such as those of a Slurm array.

    Examples
    --------
    >>> Slice.parse("2/3").takes(4), Slice.parse("2/3").takes(3)
    (True, False)
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Read I/N.

        Raises
        ------
        ConfigError
            It is not so written, or I is not within 1 to N.
        """
        first, _, second = text.partition("/")
        if not (first.isascii() and first.isdecimal() and second.isascii() and second.isdecimal()):
            raise ConfigError(f"--shard {text}: expected I/N, such as 3/8 for the third of eight jobs")
        number, of = int(first), int(second)
        if not 1 <= number <= of:
            raise ConfigError(f"--shard {text}: {number} is not within 1 to {of}")
        return cls(number, of)

    def takes(self, shard: int) -> bool:
        """Whether a shard falls to this job."""
        return shard % self.of == self.number - 1


def run_batch(
    folder: BatchFolder,
    make_engine: Callable[[Plan], Engine],
    *,
    parameters: Mapping[str, Any],
    paths: Sequence[str],
    make_plan: Callable[[], Plan],
    facts: Mapping[str, Any],
    name: str,
    form: Format = "parquet",
    tokens: str = "tokens",
    share: Slice | None = None,
    may_differ: Mapping[str, str] | None = None,
    told: Mapping[str, Callable[[Any], str]] | None = None,
    progress: bool = True,
) -> BatchOutcome | Waiting:
    """Compute a batch, or go on with the one in its folder.

    Parameters
    ----------
    folder : BatchFolder
        New, empty, or with this batch in it.
    make_engine : callable
        Gives what computes the shards of a plan.
    parameters : mapping
        All that results depend on beside the inputs; one that differs from the plan's is refused.
    paths : sequence of str
        The inputs as the user gave them.
    make_plan : callable
        Looks at the inputs; called where the folder has no plan.
    facts : mapping
        What run.json says of the machine, beside what was done.
    name, form
        See `merge`.
    tokens : str
        What the user calls a token.
    share : Slice, optional
        Compute only these shards. Whoever finds all of them finished makes the table.
    may_differ : mapping of str to str, optional
        Parameters that may differ from the plan's, which then hold, and a warning to give; none where it is empty.
    told : mapping of str to callable, optional
        What the user says to have a value of a parameter, where that is not its name.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    BatchOutcome or Waiting

    Raises
    ------
    ConfigError
        The folder holds something else or another batch, or another process works in it.
    InputError
        No input can be read, or something cannot be written.
    StoppedError
        A signal came; what is finished is kept.
    """
    folder.make()
    began = time.time()
    find_plan = partial(_plan, folder, parameters, paths, make_plan, may_differ or {}, told or {})
    with ExitStack() as held:
        if share is None:
            held.enter_context(folder.lock())
            folder.clean()
            plan = find_plan()
        else:
            # Jobs of an array start together: one makes the plan, the others wait for it.
            with folder.lock(".lock.plan", wait=True):
                held.enter_context(folder.lock(shared=True))
                plan = find_plan()
            held.enter_context(folder.lock(f".lock.{share.number}-of-{share.of}"))
        mine = [number for number in range(len(plan.shards)) if share is None or share.takes(number)]
        if share is not None and not mine:
            _log.warning("there are %d shards: none for job %d", len(plan.shards), share.number)
        missing = [number for number in mine if not _stands(plan, folder, number)]
        if missing:
            folder.run.unlink(missing_ok=True)
        try:
            computed = _compute(plan, folder, make_engine, mine, missing, tokens_name=tokens, progress=progress)
        finally:
            # A worker that was killed leaves its part of a shard.
            if share is None:
                folder.clean()
        if share is not None:
            held.enter_context(folder.lock(".lock.merge", wait=True))
            known = [folder.facts(number, plan) for number in range(len(plan.shards))]
            if left := known.count(None):
                _log.info("job %d of %d is done; %d shards of other jobs are not", share.number, share.of, left)
                return Waiting(left, len(plan.skipped) + sum(len(one.failures) for one in known if one is not None))
        outcome = merge(plan, folder, name=name, form=form)
        _write_run(folder, plan, outcome, facts, computed, seconds=time.time() - began)
    _tell(folder, outcome)
    return outcome


def _stands(plan: Plan, folder: BatchFolder, number: int) -> bool:
    """Whether a shard is done, and no input that it left out is now what was planned."""
    facts = folder.facts(number, plan)
    if facts is None:
        return False
    return not any(passing and not plan.inputs[one].change() for one, _, passing in facts.failures)


def _plan(
    folder: BatchFolder,
    parameters: Mapping[str, Any],
    paths: Sequence[str],
    make_plan: Callable[[], Plan],
    may_differ: Mapping[str, str],
    told: Mapping[str, Callable[[Any], str]],
) -> Plan:
    try:
        if not folder.plan.exists():
            plan = make_plan()
            write_plan(folder.plan, plan)
            folder.shards.mkdir(exist_ok=True)
            return plan
    except OSError as error:
        raise InputError(f"cannot write {folder.plan}: {error.strerror or error}") from error
    plan = read_plan(folder.plan)
    own = {key: plan.parameters.get(key) for key in may_differ}
    for key, warning in may_differ.items():
        if warning and own[key] != parameters[key]:
            _log.warning("%s is %s, and was %s when the plan was made: %s", key, parameters[key], own[key], warning)
    if problems := differences(plan, {**parameters, **own}, paths, told=told):
        raise ConfigError([f"--out {folder.path} holds another batch: choose another folder for this one", *problems])
    changed = [f"{one.path} {change}" for one in plan.inputs if one.size >= 0 and (change := one.change())]
    for text in changed[:NAMED]:
        _log.warning("%s: rows of it that are done stand, and nothing more of it is read", text)
    if len(changed) > NAMED:
        _log.warning("and %d more inputs have changed or are gone", len(changed) - NAMED)
    folder.shards.mkdir(exist_ok=True)
    return plan


def _compute(
    plan: Plan,
    folder: BatchFolder,
    make_engine: Callable[[Plan], Engine],
    mine: Sequence[int],
    missing: Sequence[int],
    *,
    tokens_name: str,
    progress: bool,
) -> dict[str, Any]:
    """Compute missing shards; returns what this session did, for run.json."""
    if len(missing) < len(mine):
        _log.info("%d of %d shards are done already", len(mine) - len(missing), len(mine))
    began = time.monotonic()
    pace = Pace(plan, mine, missing, tokens_name=tokens_name)
    if missing:
        engine = make_engine(plan)
        engine.start()
        with (
            stop_on_signals("stopping when the shards that are under way are done") as stop,
            progress_display(plan.unit, total=pace.total, start=pace.done, enabled=progress) as show,
        ):
            pace.show = show
            for one in engine.compute(folder, missing, stop, pace.heard):
                pace.took(one)
            pace.show = None
        if pace.finished < len(missing):
            raise StoppedError(
                stop.signum or 15,
                f"stopped: {pace.finished} shards were computed, {len(missing) - pace.finished} are left; repeat the "
                "command to go on",
            )
    return {
        plan.unit: pace.done - pace.before,
        "tokens": pace.tokens,
        "shards": pace.finished,
        "seconds": round(time.monotonic() - began, 3),
    }


def _write_run(
    folder: BatchFolder,
    plan: Plan,
    outcome: BatchOutcome,
    facts: Mapping[str, Any],
    computed: Mapping[str, Any],
    *,
    seconds: float,
) -> None:
    write_json(
        folder.run,
        {
            "table": outcome.table.name,
            "inputs": len(plan.inputs),
            "inputs_left_out": outcome.inputs_left_out,
            "records_left_out": outcome.records_left_out,
            "rows": outcome.rows,
            f"{plan.unit}_computed": outcome.windows,
            "windows_mostly_unknown": outcome.blank,
            "tokens_computed": outcome.tokens,
            "shards": len(plan.shards),
            "batches_halved": outcome.halved,
            "last_session": {**computed, "seconds_in_all": round(seconds, 3)},
            "parameters": dict(plan.parameters),
            "environment": dict(facts),
        },
    )


def _tell(folder: BatchFolder, outcome: BatchOutcome) -> None:
    if outcome.skipped:
        for line in folder.errors.read_text(encoding="utf-8").splitlines()[:NAMED]:
            _log.warning("skipped: %s", json.loads(line)["reason"])
        if outcome.skipped > NAMED:
            _log.warning("and %d more; %s lists all", outcome.skipped - NAMED, folder.errors)
    if outcome.halved:
        _log.warning("memory ran out: %d times a batch was halved, which changes results by rounding", outcome.halved)
