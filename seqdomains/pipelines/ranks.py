"""The processes that train one model together, as torchrun starts them.

They stand in a mesh of two dimensions: along one, each has samples of its own; along the other, ranks share each
sample's time (`seqdomains.backbone.sequence_parallel`). Once a step the gradients of all are added in one call: the
models are small, and a sum that waits for all parts of a batch needs no buckets.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.errors import ConfigError, InputError

# How long a rank waits for another one, which may be making or reading the data.
_PATIENCE = timedelta(hours=2)


class LostRankError(InputError):
    """Another process of the job has ended."""


@dataclass(frozen=True)
class Ranks:
    """A process's place in the job; alone by default.

    Parameters
    ----------
    rank, size : int
        Among all processes.
    shard : SequenceShard or None
        Its place among those that share a sequence; None where none does.

    Examples
    --------
    >>> Ranks().first, Ranks(rank=1, size=4).share(0, 10)
    (True, (2, 3))
    """

    rank: int = 0
    size: int = 1
    shard: SequenceShard | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder and talks to the user."""
        return self.rank == 0

    @property
    def per_sequence(self) -> int:
        """Ranks that share a sequence."""
        return 1 if self.shard is None else self.shard.size

    @property
    def places(self) -> int:
        """Among how many a batch is shared out."""
        return self.size // self.per_sequence

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Make what a backend says when a peer is gone an error for users."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_loss(error):
                raise
            raise _lost(error) from error

    def share(self, first: int, windows: int) -> tuple[int, int]:
        """Return the first of the samples of a batch that are this rank's, and how many: neighbours, in rank order."""
        place = self.rank // self.per_sequence
        begin, end = place * windows // self.places, (place + 1) * windows // self.places
        return first + begin, end - begin

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all ranks into tensors of one dtype, in one call.

        Raises
        ------
        LostRankError
            A rank has ended.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self.watched():
            dist.all_reduce(flat)
        first = 0
        for tensor in tensors:
            tensor.copy_(flat[first : first + tensor.numel()].view_as(tensor))
            first += tensor.numel()

    def agree(self, number: int, *, what: str) -> None:
        """Refuse to go on unless all ranks have found the same.

        Raises
        ------
        InputError
            They have not.
        LostRankError
            A rank has ended.
        """
        if self.size == 1:
            return
        found = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        with self.watched():
            dist.all_gather(found, torch.tensor([number]))
        if len({int(one) for one in found}) > 1:
            told = ", ".join(str(int(one)) for one in found)
            raise InputError(f"ranks have found {what} {told}: do all machines see the same disk?")

    def begin_alike(self, model: nn.Module) -> None:
        """Give every rank the weights of the first one: another machine may have drawn other last bits."""
        if self.size == 1:
            return
        with torch.no_grad(), self.watched():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Wait until all ranks are here.

        Raises
        ------
        LostRankError
            A rank has ended.
        """
        if self.size > 1:
            with self.watched():
                dist.all_reduce(torch.zeros(1))

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first rank do something before the others do it too, and find what it has left."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE: Final = Ranks()


# What gloo and NCCL say of a peer that is gone; of their own classes torch says it by the name.
_LOSS: Final = ("gloo/transport", "Connection closed", "Connection reset", "Broken pipe", "remote process exited")


def _is_loss(error: RuntimeError) -> bool:
    return type(error).__name__ == "DistNetworkError" or any(sign in str(error) for sign in _LOSS)


def _lost(error: RuntimeError) -> LostRankError:
    first = str(error).strip().partition("\n")[0][:160]
    return LostRankError(
        f"another process of the job has ended ({first}); what it said stands beside this. If it was killed, repeat "
        "the command, which goes on from the last checkpoint"
    )


def started_by_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this is one of several processes.

    Examples
    --------
    >>> started_by_torchrun({"WORLD_SIZE": "2"}), started_by_torchrun({})
    (True, False)
    """
    return int(environment.get("WORLD_SIZE", "1")) > 1


def own_device(name: str | None) -> str | None:
    """Return the name of this process's device, where it is one of several on a machine: each has a GPU of its own.

    Raises
    ------
    ConfigError
        All of them are told to take one GPU.
    """
    if not started_by_torchrun() or name == "cpu" or (name is None and not torch.cuda.is_available()):
        return name
    if name not in (None, "cuda"):
        raise ConfigError(f"--device {name}: the processes of torchrun take a GPU each; give --device cuda or cpu")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@contextmanager
def joined(*, per_sequence: int, device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started, if it has.

    Parameters
    ----------
    per_sequence : int
        Ranks that share each sequence.
    device : torch.device
        Of this process.

    Raises
    ------
    ConfigError
        There are not as many processes as that, or a multiple.

    Examples
    --------
    >>> with joined(per_sequence=1, device=torch.device("cpu")) as ranks:
    ...     ranks
    Ranks(rank=0, size=1, shard=None)
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % per_sequence:
        raise ConfigError(
            f"train.sequence_ranks: {per_sequence} ranks to a sequence do not divide the {size} of the job; start "
            f"it with `torchrun --nproc-per-node {per_sequence}`, or a multiple"
        )
    if size == 1:
        yield Ranks()
        return
    log = logging.getLogger("seqdomains")
    level = log.level
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Small things are told on the CPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        mesh = init_device_mesh(device.type, (size // per_sequence, per_sequence), mesh_dim_names=("data", "time"))
        shard = SequenceShard(mesh.get_group("time"), mesh.get_local_rank("time"), per_sequence)
        ranks = Ranks(dist.get_rank(), size, shard if per_sequence > 1 else None)
        if not ranks.first:
            log.setLevel(logging.WARNING)
        yield ranks
    finally:
        log.setLevel(level)
        dist.destroy_process_group()
