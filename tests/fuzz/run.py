"""Fuzz the readers: ``python tests/fuzz/run.py --examples 50`` in CI, ``--seconds 60`` (a reader) for a long run."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path

import assemblies
import batches
import documents
import sequences
import sounds
import tensors
import torch
import variants
from guard import HARD_SECONDS, Watch, refused
from hypothesis import HealthCheck, Phase, given, seed, settings
from target import Files, Target

TARGETS = (
    *sequences.TARGETS,
    *documents.TARGETS,
    *tensors.TARGETS,
    *batches.TARGETS,
    *sounds.TARGETS,
    *variants.TARGETS,
    *assemblies.TARGETS,
)
BATCH = 500  # examples between two looks at the clock


def write(files: Files, folder: Path) -> None:
    """Replace all that lies in the folder."""
    shutil.rmtree(folder)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder.mkdir(exist_ok=True)


class Found(dict[str, bytes]):
    """Files that are shown in brief: they may have megabytes."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {len(data)} bytes {data[:200]!r}" for name, data in self.items()) + "}"


class Tally:
    """Counts the examples of one reader."""

    def __init__(self, target: Target, watch: Watch) -> None:
        self.target, self.watch = target, watch
        self.examples = self.refused = 0
        self.slowest = 0.0

    def try_one(self, files: Files) -> bool:
        """Read one folder; tell whether it was refused."""
        write({**self.target.base, **files}, self.watch.folder)
        was_refused, seconds = refused(self.target.read, self.watch, where=self.target.where)
        self.examples += 1
        self.refused += was_refused
        self.slowest = max(self.slowest, seconds)
        return was_refused

    def __str__(self) -> str:
        return f"{self.examples} examples, {self.refused} refused, slowest {self.slowest:.2f} s"


def fuzz(tally: Tally, *, examples: int | None, seconds: float, first_seed: int | None) -> None:
    """Try the valid folder, the worst ones, and then drawn ones: so many, or for so long."""
    start = time.monotonic()
    write(tally.target.valid, tally.watch.folder)
    tally.target.read(tally.watch.folder)  # unwatched: it imports what the reader imports late
    assert not tally.try_one(tally.target.valid), "the valid folder was refused"
    problems = []
    for number, files in enumerate(tally.target.worst):
        try:
            tally.try_one(files)
        except Exception as error:  # noqa: BLE001 - every kind is what is looked for
            what = {name: content[:60] for name, content in files.items() if content != tally.target.valid.get(name)}
            error.add_note(f"worst[{number}] {what}")
            problems.append(error)
    if problems:
        raise ExceptionGroup("on folders that are tried each time", problems)
    for batch in count(first_seed or 0):
        options = settings(
            max_examples=BATCH if examples is None else examples,
            deadline=timedelta(seconds=HARD_SECONDS),
            derandomize=first_seed is None,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=[Phase.generate],  # a slow or large file takes minutes to shrink
            suppress_health_check=list(HealthCheck),
        )

        def test(files: Files) -> None:
            tally.try_one(files)

        test = options(given(files=tally.target.files.map(Found))(test))
        (test if first_seed is None else seed(batch)(test))()
        if examples is not None or time.monotonic() - start >= seconds:
            return


def in_child(target: Target, options: argparse.Namespace) -> bool:
    """Fuzz in a process of its own, which a crash or a hang may end; tell whether all went well."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    with tempfile.TemporaryDirectory(prefix="seqdomains-fuzz-") as root:
        tempfile.tempdir = f"{root}/in"  # pysam catches what htslib prints in files of the system's folder
        tally = Tally(target, Watch(Path(root)))
        try:
            fuzz(tally, examples=options.examples, seconds=options.seconds, first_seed=options.seed)
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc(file=sys.stdout)
            kept = tempfile.mkdtemp(prefix="seqdomains-fuzz-found-", dir=Path(root).parent)
            shutil.copytree(tally.watch.folder, kept, dirs_exist_ok=True)
            sys.stdout.write(f"the files that were read last: {kept}\n")
        sys.stdout.write(f"{target.name}: {tally}{'' if code == 0 else '; FAILED'}\n")
        sys.stdout.flush()
    os._exit(code)


def main(arguments: Sequence[str], targets: Mapping[str, Target]) -> int:
    """Fuzz the readers that are named, or all; a line for each. Returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(targets))
    parser.add_argument("--examples", type=int, help="so many of each, always the same ones")
    parser.add_argument("--seconds", type=float, default=60, help="or so long each")
    parser.add_argument("--seed", type=int, help="of a long run; the clock's if not given")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.readers if name not in targets]
    if unknown:
        parser.error(f"no reader {unknown[0]!r}; there are {', '.join(targets)}")
    if options.examples is None:
        options.seed = options.seed if options.seed is not None else int(time.time())
        sys.stdout.write(f"--seed {options.seed}\n")
    torch.set_num_threads(1)
    logging.disable()
    done = [in_child(targets[name], options) for name in options.readers or targets]
    return 0 if all(done) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], {target.name: target for target in TARGETS}))
