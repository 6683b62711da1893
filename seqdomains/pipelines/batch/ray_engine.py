"""Shards on Ray actors, on this machine or a cluster whose machines see the same files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from seqdomains.errors import ConfigError, InputError, SeqdomainsError
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.run import Done
from seqdomains.pipelines.interrupts import StopRequest

_log = logging.getLogger(__name__)
_ATTEMPTS = 3


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

    def compute(self, folder: BatchFolder, shards: Sequence[int], stop: StopRequest) -> Iterable[Done]:
        """See `run.Engine`."""
        ray = self._ray
        started = not ray.is_initialized()
        if started:
            self._connect()
        try:
            yield from self._compute(folder.path.absolute(), shards, stop)
        finally:
            if started:
                ray.shutdown()

    def _connect(self) -> None:
        # Nothing of this leaves the machine.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own: dict[str, Any] = {} if self._address else {"num_cpus": max(os.cpu_count() or 1, self._needs["num_cpus"])}
        try:
            self._ray.init(
                address=self._address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=None if self._address else False,
                **own,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"--ray-address {self._address}: no Ray cluster answers ({error}); start one with `ray start --head`"
                if self._address
                else f"--engine ray: Ray cannot be started here ({error})"
            ) from error

    def _compute(self, folder: Path, shards: Sequence[int], stop: StopRequest) -> Iterable[Done]:
        ray = self._ray
        todo, attempts = list(reversed(shards)), dict.fromkeys(shards, 0)
        count = min(len(shards), self._workers or self._fitting())
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
                    if attempts[shard] >= _ATTEMPTS:
                        raise InputError(
                            f"shard {shard} ended {_ATTEMPTS} Ray actors ({_first_line(error)}); finished shards are "
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
        """Return how many actors the cluster has room for."""
        have = self._ray.cluster_resources()
        fits = [
            int(have.get(name, 0) / need)
            for name, need in zip(("CPU", "GPU"), self._needs.values(), strict=True)
            if need
        ]
        return max(1, min(fits, default=1))

    def _actor(self, folder: Path) -> Any:
        actor = self._ray.remote(**self._needs)(_Actor)
        return actor.remote(self._open_worker, str(folder), self._device, str(Path.cwd()))


class _Actor:
    """A worker in a process of Ray's; paths of a plan are relative to where the command was typed."""

    def __init__(self, open_worker: Callable[[Path, str], Any], folder: str, device: str, working_folder: str) -> None:
        os.chdir(working_folder)
        self._worker = open_worker(Path(folder), device)

    def run(self, shard: int) -> dict[str, Any]:
        return dict(self._worker.run(shard).__dict__)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
