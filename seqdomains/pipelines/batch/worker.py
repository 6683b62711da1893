"""One worker: a model on a device that computes the shards it is told to, in this process or in one of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Self, TextIO

import torch
from torch import nn

from seqdomains.errors import InputError, SeqdomainsError
from seqdomains.files import parse_json
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.pace import Done, Heard, nobody
from seqdomains.pipelines.batch.plan import Plan
from seqdomains.pipelines.batch.run import ATTEMPTS
from seqdomains.pipelines.batch.shard import Computation, run_shard
from seqdomains.pipelines.borrowed import borrowed, deterministic, thread_count
from seqdomains.pipelines.interrupts import StopRequest
from seqdomains.pipelines.progress import Paced

_log = logging.getLogger(__name__)


@dataclass
class Worker:
    """Computes shards of one plan; see `shard.run_shard`."""

    plan: Plan
    folder: BatchFolder
    computation: Computation
    model: nn.Module
    device: torch.device

    def run(self, shard: int, heard: Heard = nobody) -> Done:
        """Compute one shard, with as many threads as the plan says: how sums are cut depends on it."""
        with (
            deterministic(),
            thread_count(self.plan.parameters["threads"]),
            borrowed(self.model, device=self.device, training=False),
        ):
            tally = run_shard(self.plan, self.folder, shard, self.computation, told=partial(heard, shard))
        return Done(shard, tally.units, tally.tokens, len(tally.failures))


class InThisProcess:
    """Computes shards one after the other.

    Parameters
    ----------
    open_worker : callable
        Makes the worker of a folder's batch.
    """

    def __init__(self, open_worker: Callable[[BatchFolder], Worker]) -> None:
        self._open_worker = open_worker

    def start(self) -> None:
        """See `run.Engine`."""

    def compute(
        self, folder: BatchFolder, shards: Sequence[int], stop: StopRequest, heard: Heard = nobody
    ) -> Iterable[Done]:
        """See `run.Engine`."""
        worker = self._open_worker(folder)
        for shard in shards:
            if stop.signum is not None:
                return
            yield worker.run(shard, heard)


def serve(open_worker: Callable[[], Worker], try_batch: Callable[[Any], int], orders: TextIO, answers: TextIO) -> None:
    """Compute the shards that are named on `orders`, a number on each line, and tell of each on `answers` in JSON.

    Once a second a line says how many tokens of a shard are computed.
    Before there is a plan, a line may hold its parameters; `try_batch` is asked how many windows fit into the memory.
    """
    worker: Worker | None = None

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    def heard(shard: int, tokens: int) -> None:
        if lines.due():
            say({"shard": shard, "heard": tokens})

    lines = Paced(1.0)
    for order in orders:
        try:
            if order.startswith("{"):
                answer: dict[str, Any] = {"fits": try_batch(parse_json(order))}
            else:
                worker = worker or open_worker()
                answer = worker.run(int(order), heard).__dict__
        except SeqdomainsError as error:
            answer = {"error": str(error)}
        say(answer)


class Processes:
    """Spreads shards over processes of this machine; one that dies is replaced and its shard computed again.

    A context: what it started has ended when that is left.

    Parameters
    ----------
    commands : sequence of sequence of str
        What starts each worker: a process that does `serve` on its stdin and stdout.
    threads : int
        Of each.
    """

    def __init__(self, commands: Sequence[Sequence[str]], *, threads: int) -> None:
        self.threads = threads
        self._commands = commands
        self._environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._idle: dict[int, subprocess.Popen[str]] = {}
        self._trying: set[int] = set()  # places whose answer to a trial nobody has read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that wait for something to compute."""
        # Somebody may be asking them in another thread.
        idle, self._idle = self._idle, {}
        for process in idle.values():
            process.kill()
            _close(process)

    def prepare(self, parameters: Mapping[str, Any]) -> None:
        """Start the processes now and let each try a batch, so that they are ready when there are shards to compute.

        Parameters
        ----------
        parameters : mapping
            Of the plan to come.

        Raises
        ------
        InputError
            One cannot be started.
        """
        try:
            for place in range(len(self._commands)):
                self._idle[place] = self._start(place)
                _send(self._idle[place], json.dumps(parameters))
                self._trying.add(place)
        except OSError as error:
            raise InputError(f"a worker cannot be started: {error}") from error

    def fits(self) -> int:
        """Wait for the processes that `prepare` started and return how many windows fit into the memory of each.

        One that has ended is replaced when there is something to compute.

        Raises
        ------
        InputError
            Not even one window fits, or all have ended.
        """
        found, status = [], 0
        for place, process in list(self._idle.items()):
            self._trying.discard(place)
            answer = _answer(process)
            if answer is None:
                status = process.wait()
                if self._idle.pop(place, None) is not None:
                    _log.warning("a worker ended with %s; another one takes its place", _status(status))
                    _close(process)
            elif "error" in answer:
                raise InputError(str(answer["error"]))
            else:
                found.append(int(answer["fits"]))
        if not found:
            raise InputError(f"all workers ended, the last with {_status(status)}; what they said stands above")
        return min(found)

    def start(self) -> None:
        """See `run.Engine`."""

    def compute(
        self, folder: BatchFolder, shards: Sequence[int], stop: StopRequest, heard: Heard = nobody
    ) -> Iterable[Done]:
        """See `run.Engine`."""
        todo, attempts, lock = deque(shards), dict.fromkeys(shards, 0), threading.Lock()
        found: SimpleQueue[Done | SeqdomainsError | None] = SimpleQueue()
        running: dict[int, subprocess.Popen[str]] = {}
        closing = threading.Event()

        def take(place: int) -> tuple[int, subprocess.Popen[str]] | None:
            """Take a shard and the worker for it, but for when all of it is over."""
            with lock:
                if closing.is_set() or stop.signum is not None or not todo:
                    return None
                if place not in running:
                    running[place] = self._idle.pop(place) if place in self._idle else self._start(place)
                return todo.popleft(), running[place]

        def tend(place: int) -> None:
            try:
                while (taken := take(place)) is not None:
                    shard, process = taken
                    if place in self._trying:
                        self._trying.discard(place)
                        _answer(process)
                    answer = _ask(process, shard, heard)
                    if answer is None:
                        status = process.wait()
                        with lock:
                            del running[place]
                            todo.appendleft(shard)
                        if closing.is_set():
                            return
                        attempts[shard] += 1
                        if attempts[shard] >= ATTEMPTS:
                            raise InputError(
                                f"shard {shard} ended {ATTEMPTS} workers, the last with {_status(status)}; what they "
                                "said stands above, and finished shards are kept"
                            )
                        _log.warning("a worker ended with %s; another one takes its shard", _status(status))
                    elif "error" in answer:
                        raise InputError(str(answer["error"]))
                    else:
                        found.put(Done(**answer))
            except SeqdomainsError as error:
                found.put(error)
            except OSError as error:
                found.put(InputError(f"a worker cannot be started: {error}"))
            finally:
                found.put(None)

        tenders = [threading.Thread(target=tend, args=(place,), daemon=True) for place in range(len(self._commands))]
        for tender in tenders:
            tender.start()
        whole = False
        try:
            yield from _until_all_left(found, len(tenders))
            whole = True
        finally:
            # Nothing may work in the folder when its lock is given back.
            closing.set()
            with lock:
                left = list(running.values())
            for process in left:
                if not whole:
                    process.kill()
                _close(process)
            for tender in tenders:
                tender.join()

    def _start(self, place: int) -> subprocess.Popen[str]:
        # A session of its own: Ctrl-C on the terminal is for the driver to answer.
        return subprocess.Popen(
            self._commands[place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )


def _until_all_left(found: SimpleQueue[Done | SeqdomainsError | None], tenders: int) -> Iterator[Done]:
    while tenders:
        one = found.get()
        if one is None:
            tenders -= 1
        elif isinstance(one, SeqdomainsError):
            raise one
        else:
            yield one


def _ask(process: subprocess.Popen[str], shard: int, heard: Heard) -> dict[str, Any] | None:
    """Send a worker its shard; None where it ended without an answer."""
    try:
        _send(process, str(shard))
    except OSError:
        return None
    while (answer := _answer(process)) is not None and "heard" in answer:
        heard(shard, int(answer["heard"]))
    return answer


def _send(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is not None:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> dict[str, Any] | None:
    try:
        line = "" if process.stdout is None else process.stdout.readline()
        answer = parse_json(line) if line.endswith("\n") else None
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {status}"
