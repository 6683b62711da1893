"""Shards on Ray actors, on this machine or a cluster whose machines see the same files."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seqdomains.errors import ConfigError, InputError, SeqdomainsError
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.pace import Done, Heard, nobody
from seqdomains.pipelines.batch.run import ATTEMPTS
from seqdomains.pipelines.interrupts import StopRequest

_log = logging.getLogger(__name__)
_ANSWER_WITHIN = 5.0  # s, of a cluster's address


class OnRay:
    """Spreads shards over Ray actors; one that dies is replaced and its shard computed again.

    Parameters
    ----------
    open_worker : callable
        Takes the batch's folder and the name of a device, and returns a `worker.Worker`; called in each actor.
    workers : int or None
        Actors; None is as many as fit.
    threads : int
        CPUs of each.
    gpu : bool
        Whether each has a GPU of its own.
    address : str or None
        Of a running cluster; None starts Ray on this machine for the time of the batch.

    Raises
    ------
    ConfigError
        Ray is not installed.
    """

    def __init__(
        self,
        open_worker: Callable[[Path, str], Any],
        *,
        workers: int | None,
        threads: int,
        gpu: bool,
        address: str | None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"--engine ray needs Ray, which cannot be imported ({error}): pip install 'seqdomains[ray]'"
            ) from error
        self._ray: Any = ray
        self._open_worker = open_worker
        self._workers = workers
        self._needs = {"num_cpus": threads, "num_gpus": int(gpu)}
        self._device = "cuda" if gpu else "cpu"
        self._address = address
        self._started = False
        self._room = 0
        if address is not None:
            _look_for(address)

    def start(self) -> None:
        """Start or join Ray, which sets handlers of signals of its own; see `run.Engine`.

        Raises
        ------
        ConfigError
            It does not start, or no machine has room for one worker.
        """
        ray = self._ray
        if not ray.is_initialized():
            # Nothing of this leaves the machine.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            own: dict[str, Any] = {} if self._address else {"num_cpus": os.cpu_count(), "include_dashboard": False}
            try:
                ray.init(address=self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise ConfigError(
                    f"--ray-address {self._address}: no Ray cluster answers ({error}); `ray start --head` starts one"
                    if self._address
                    else f"--engine ray: Ray cannot be started here ({error})"
                ) from error
            self._started = True
        self._room = self._fitting()
        if not self._room:
            self._leave()
            raise ConfigError(
                f"--engine ray: no machine of the cluster has the {self._needs['num_cpus']} CPUs"
                + (" and the GPU" if self._needs["num_gpus"] else "")
                + " of one worker; give fewer --threads"
            )

    def compute(
        self, folder: BatchFolder, shards: Sequence[int], stop: StopRequest, heard: Heard = nobody
    ) -> Iterable[Done]:
        """See `run.Engine`; actors tell of whole shards alone."""
        try:
            yield from self._compute(folder.path.absolute(), shards, stop)
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._started:
            self._ray.shutdown()
            self._started = False

    def _compute(self, folder: Path, shards: Sequence[int], stop: StopRequest) -> Iterable[Done]:
        ray = self._ray
        todo, attempts = list(reversed(shards)), dict.fromkeys(shards, 0)
        # One that has to wait for room would hold its shard for ever.
        count = min(len(shards), self._room, self._workers or self._room)
        if self._workers and self._workers > self._room:
            _log.warning("there is room for %d workers of the %d", self._room, self._workers)
        actors = [self._actor(folder) for _ in range(count)]
        running: dict[Any, tuple[int, int]] = {}  # an answer to come: which actor, which shard
        idle = list(range(count))
        while True:
            while idle and todo and stop.signum is None:
                place, shard = idle.pop(), todo.pop()
                running[actors[place].run.remote(shard)] = place, shard
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for answer in ready:
                place, shard = running.pop(answer)
                try:
                    done = ray.get(answer)
                except ray.exceptions.RayActorError as error:
                    attempts[shard] += 1
                    if attempts[shard] >= ATTEMPTS:
                        raise InputError(
                            f"shard {shard} ended {ATTEMPTS} Ray actors ({_first_line(error)}); finished shards are "
                            "kept"
                        ) from error
                    _log.warning("a Ray actor ended (%s); another one takes its shard", _first_line(error))
                    actors[place] = self._actor(folder)
                    todo.append(shard)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, SeqdomainsError):
                        raise InputError(str(error.cause)) from error
                    raise
                else:
                    yield Done(**done)
                idle.append(place)

    def _fitting(self) -> int:
        """Return how many actors the cluster has room for; each has to fit on one machine."""
        ray = self._ray
        wanted = [("CPU", self._needs["num_cpus"]), ("GPU", self._needs["num_gpus"])]
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(min(int(have.get(name, 0) / need) for name, need in wanted if need) for have in alive)

    def _actor(self, folder: Path) -> Any:
        actor = self._ray.remote(**self._needs)(_Actor)
        return actor.remote(self._open_worker, str(folder), self._device, str(Path.cwd()))


class _Actor:
    """A worker in a process of Ray's; paths of a plan are relative to where the command was typed."""

    def __init__(self, open_worker: Callable[[Path, str], Any], folder: str, device: str, working_folder: str) -> None:
        os.chdir(working_folder)
        self._open_worker = partial(open_worker, Path(folder), device)
        self._worker: Any = None

    def run(self, shard: int) -> dict[str, Any]:
        # Not before: what is wrong with the model is then an error of the call, which is told, and no death.
        self._worker = self._worker or self._open_worker()
        return dict(self._worker.run(shard).__dict__)


def _look_for(address: str) -> None:
    """Refuse an address of a machine at which nothing answers; Ray would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--ray-address {address}: nothing answers there ({error}); start a cluster with `ray start --head`"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
