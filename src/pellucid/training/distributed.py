"""Distributed training: this process's rank, and communication with the others.

Everything here also works in a single process, where nothing is sent.
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
"""Hooks on rank 0 may take as long as they need; a dead process is detected by its closed connection."""


@dataclass(frozen=True)
class World:
    """All processes of a run, as seen from one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine; selects the GPU."""

    @property
    def is_first(self) -> bool:
        """True in the process that writes files and prints (rank 0)."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` over all processes, with the result in every process."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """Run `work` in every process, wait for all, and return this process's result.

        If it fails anywhere, all processes stop so that the user sees one message: rank 0 raises its own error or
        `PeerFailed` with the first error of another process, and the other ranks raise `PeerFailed`.
        """
        if self.size == 1:
            return work()
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  (raised again below, after all other processes know of it)
            failure = error
        gathered: list[tuple[str, int] | None] = [None] * self.size
        dist.all_gather_object(gathered, None if failure is None else _summary(failure))
        failures = [one for one in gathered if one is not None]
        if not failures:
            return cast(T, result)
        if failure is not None and self.is_first:
            raise failure
        raise PeerFailed(*failures[0]) from failure

    def first(self, work: Callable[[], T]) -> T | None:
        """Run `work` in the first process while the others wait, and return its result there (None elsewhere)."""
        # `together` also makes the other processes wait, and fail if the first one does
        return self.together(work if self.is_first else lambda: None)

    def agree(self, message: str | None) -> str | None:
        """Broadcast the first process's `message` to every process."""
        messages = [message]
        if self.size > 1:
            dist.broadcast_object_list(messages, src=0)
        return messages[0]

    def any(self, condition: bool) -> bool:
        """Return True if `condition` is true in any process."""
        return bool(self.sum(torch.tensor(float(condition))).item() > 0) if self.size > 1 else condition

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the first process's buffers, such as batch-norm statistics, to every process."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model to train: one whose gradients are averaged over all processes."""
        return DistributedDataParallel(model) if self.size > 1 else model


def _summary(error: Exception) -> tuple[str, int]:
    """Return an error's message and exit code."""
    if isinstance(error, PellucidError):
        return str(error), error.exit_code
    return f"{type(error).__name__}: {error}", PellucidError.exit_code


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the processes started by `torchrun`, or run alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1:
        yield World()
        return
    # gloo exchanges counts and messages on the CPU, NCCL the gradients on the GPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=NO_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    except RuntimeError as error:
        # gloo and NCCL raise a plain RuntimeError when a peer's connection closes; only the text identifies it
        if re.search(r"closed by peer|reset by peer|Broken pipe|NCCL.*(abort|remote)", str(error)):
            raise PeerFailed("another process of this run ended, so this one stops; continue with --resume.") from error
        raise
    finally:
        dist.destroy_process_group()
