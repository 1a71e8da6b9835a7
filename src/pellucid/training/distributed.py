"""One process among several: who it is, and what they tell one another.

Everything here also works alone, where nothing is sent.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pellucid.core.errors import PeerFailed, PellucidError

__all__ = ["World", "joined_world"]

T = TypeVar("T")

NO_TIMEOUT = timedelta(days=30)
"""Hooks on the first process may take as long as they need; a process that dies is noticed by its closed connection."""


@dataclass(frozen=True)
class World:
    """All processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Place among the processes of this machine: chooses the GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in every process."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns in this process, once it is done in all of them.

        Where it fails in one or several, all end: the first process with its own error or the message of the first
        that failed, the others with `PeerFailed`, so that the user reads one message.
        """
        if self.size == 1:
            return work()
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  (raised again below, when all others know)
            failure = error
        told: list[tuple[str, int] | None] = [None] * self.size
        dist.all_gather_object(told, None if failure is None else _described(failure))
        failures = [one for one in told if one is not None]
        if not failures:
            return cast(T, result)
        if failure is not None and self.is_first:
            raise failure
        raise PeerFailed(*failures[0]) from failure

    def first(self, work: Callable[[], T]) -> T | None:
        """What `work` returns, done by the first process while the others wait; None in those."""
        return self.together(work if self.is_first else lambda: None)

    def agree(self, message: str | None) -> str | None:
        """What the first process says, in every process."""
        said = [message]
        if self.size > 1:
            dist.broadcast_object_list(said, src=0)
        return said[0]

    def any(self, condition: bool) -> bool:
        """Whether `condition` holds in any process."""
        return bool(self.sum(torch.tensor(float(condition))).item() > 0) if self.size > 1 else condition

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers, such as batch-norm statistics."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: its gradients averaged over all processes."""
        return DistributedDataParallel(model) if self.size > 1 else model


def _described(error: Exception) -> tuple[str, int]:
    """An error's message and exit code."""
    if isinstance(error, PellucidError):
        return str(error), error.exit_code
    return f"{type(error).__name__}: {error}", PellucidError.exit_code


@contextmanager
def joined_world() -> Iterator[World]:
    """The processes that `torchrun` started, or this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1:
        yield World()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=NO_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    except RuntimeError as error:
        if re.search(r"closed by peer|reset by peer|Broken pipe|NCCL.*(abort|remote)", str(error)):
            raise PeerFailed("another process of this run has ended, so all do; go on with --resume.") from error
        raise
    finally:
        dist.destroy_process_group()
