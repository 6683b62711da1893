"""What a batch's folder says of it, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqdomains.errors import InputError, printable
from seqdomains.files import parse_json, read_bounded
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.plan import read_plan
from seqdomains.pipelines.progress import duration

_LARGEST_JSON = 1 << 20  # bytes
_LARGEST_ERRORS = 64 << 20
_NAMED = 20
_LONGEST = 1e12  # seconds


def summary(folder: BatchFolder) -> str:
    """Describe a batch, finished or not.

    Raises
    ------
    InputError
        Its plan, run.json or errors.jsonl cannot be read.
    """
    return "\n".join(printable(line) for line in _lines(folder)) + "\n"


def _lines(folder: BatchFolder) -> list[str]:
    plan = read_plan(folder.plan)
    parameters = plan.parameters
    whole = bool(parameters.get("whole"))
    of_unit = ("window", "stride") if plan.unit == "windows" else () if whole else ("every",)
    needed = ("verb", "model", "precision", "device", *of_unit)
    if unknown := [name for name in needed if not isinstance(parameters.get(name), str | int)]:
        raise InputError(f"{folder.plan} is not of a batch: it does not say its {unknown[0]}; take another folder")
    done = sum(folder.facts(number, plan) is not None for number in range(len(plan.shards)))
    lines = [
        f"{parameters['verb']} with {parameters['model']}, {parameters['precision']} on {parameters['device']}",
        f"inputs   {len(plan.inputs)}",
        f"records  {plan.windows}, a row {_rows_of(parameters)}"
        if plan.unit == "records"
        else f"windows  {plan.windows} of {parameters['window']}, stride {parameters['stride']}",
        f"shards   {done} of {len(plan.shards)} are done",
    ]
    if not folder.run.exists():
        return [*lines, "no table yet: repeat the command to go on"]
    run = _read(folder, plan.unit)
    session = run["last_session"]
    lines.append(f"table    {folder.path / run['table']}, {run['rows']} rows")
    if session[plan.unit]:
        rate = session["tokens"] / max(session["seconds"], 1e-9)
        taken = f"{session[plan.unit]} {plan.unit} in {duration(session['seconds'])}, {rate / 1e6:.2f} M tokens/s"
        lines.append(f"speed    {taken} (the last session)")
    if run["batches_halved"]:
        lines.append(f"memory   ran out: batches were halved {run['batches_halved']} times, which changes rounding")
    lines.append(f"left out {run['inputs_left_out']} inputs, {run['records_left_out']} records of others")
    return [*lines, *_errors(folder, run["inputs_left_out"] + run["records_left_out"])]


def _rows_of(parameters: Mapping[str, Any]) -> str:
    if parameters.get("rows"):
        return f"for each {str(parameters['rows']).removesuffix('s')} in them"
    return "for each" if parameters.get("whole") else f"every {parameters['every']}"


def _read(folder: BatchFolder, unit: str) -> dict[str, Any]:
    try:
        run: dict[str, Any] = parse_json(read_bounded(folder.run, _LARGEST_JSON))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder.run}: {error}; repeat the batch's command, which writes it") from error
    try:
        session = run["last_session"]
        counts = [run[name] for name in ("rows", "batches_halved", "inputs_left_out", "records_left_out")]
        counts += [session[name] for name in (unit, "tokens")]
        known = all(type(count) is int and 0 <= count < 1 << 63 for count in counts)
        known &= isinstance(run["table"], str) and 0 <= session["seconds"] < _LONGEST
    except (KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{folder.run} is not of a batch; repeat the batch's command, which writes it")
    return run


def _errors(folder: BatchFolder, count: int) -> list[str]:
    try:
        rows = read_bounded(folder.errors, _LARGEST_ERRORS).split(b"\n", _NAMED)[:_NAMED]
        reasons = [parse_json(row)["reason"] for row in rows if row]
        if not all(isinstance(reason, str) for reason in reasons):
            raise ValueError("a reason is no text")
        lines = [f"    {reason}" for reason in reasons]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"cannot read {folder.errors}: {error}; repeat the batch's command, which writes it"
        ) from error
    return [*lines, f"    and {count - _NAMED} more in {folder.errors}"] if count > _NAMED else lines
