"""Count the images that pass through a model, and stop methods that need too many passes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.errors import ModelError, PellucidError

__all__ = ["Passes", "TooExpensive", "counted"]


class TooExpensive(PellucidError):
    """A method needs more forward passes than it is allowed."""


@dataclass
class Passes:
    """Forward passes of one image through a model, in total and by (method, metric)."""

    total: int = 0
    blocks: dict[tuple[str, str], int] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    """Methods that were stopped at the limit, with the limit."""
    limit: float = math.inf
    """Maximum number for the current method."""
    method: str = ""
    """Current method; passes without one are only added to the total."""
    _of_method: int = 0
    _closed: int = 0

    def start(self, method: str, limit: float = math.inf) -> None:
        """Begin a method, which may use `limit` passes."""
        self.method, self.limit, self._of_method, self._closed = method, limit, 0, self.total

    def close(self, metric: str) -> None:
        """Attribute the passes since the last call to the current method and this metric."""
        key = self.method, metric
        self.blocks[key] = self.blocks.get(key, 0) + self.total - self._closed
        self._closed = self.total

    def add(self, count: int) -> None:
        """Count passes before they are made. Raises `TooExpensive` if the current method may not make them."""
        if self._of_method + count > self.limit:
            self.stopped[self.method] = int(self.limit)
            raise TooExpensive(f"{self.method} needs more than {int(self.limit):,} forward passes for one image.")
        self._of_method += count
        self.total += count


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count the images in the batches of the model, and of copies that are made of it, while the body runs.

    Raises `ModelError` for TorchScript, whose forward passes cannot be counted.

    >>> with counted(nn.Linear(2, 1)) as passes:
    ...     pass
    >>> passes.total
    0
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("the model is TorchScript, whose forward passes cannot be counted; pass the original module.")
    passes = Passes()

    # a function, which copies of the model share, unlike a method, which would be copied with its object
    def count(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        first = next((one for one in (*given, *named.values()) if isinstance(one, Tensor)), None)
        passes.add(len(first) if first is not None and first.ndim else 1)

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()
