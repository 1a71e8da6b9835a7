"""Memory that several tensors share: a write through one of them reaches all the others.

The recorder runs in-place operations out of place, so the memory of the model's own tensors keeps its old content. This
log of the writes gives each tensor its present value: the old value, with every later write to the same places put in.

A view, its base and the results of earlier writes may use different storages, yet represent the same memory. They
share a `_Block`, and each storage maps its elements to positions of that block. Positions are computed only if a tensor
other than the written one is read.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.engine.table import storage_key

__all__ = ["Memory", "Overlay"]


@dataclass(eq=False)
class _Block:
    """Memory of the model, and the writes to it in order: the tensor that was written to, and its new value."""

    writes: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(eq=False)
class _Home:
    """A storage whose elements correspond to positions of a block."""

    storage: torch.UntypedStorage
    """Kept alive, so that its address is not reused."""
    block: _Block
    version: int
    """Number of writes to the block that the content includes."""
    origin: tuple[Tensor, Tensor] | None = None
    """A tensor in another home of the block, and the tensor here with the same shape and positions; None for the home
    that defines the positions."""
    itemsize: int = 0
    """Bytes per element of the home that defines the positions."""
    positions: Tensor | None = None
    """Position of each element of the storage in the block, −1 if none; computed on first use."""


@dataclass(frozen=True, eq=False)
class Overlay:
    """A tensor with a part of another put in: result[i] = written.flatten()[source[i]] where source[i] ≥ 0."""

    source: Tensor

    def apply(self, old: Tensor, written: Tensor) -> Tensor:
        """Return the tensor `old` with `written` put in."""
        return torch.where(self.is_new, written.flatten()[self.source.clamp(min=0)], old)

    @property
    def is_new(self) -> Tensor:
        """True for elements of the result that come from `written`."""
        return self.source >= 0

    def pull_old(self, cotangent: Tensor) -> Tensor:
        """Return the cotangent of `old`."""
        return cotangent.masked_fill(self.is_new, 0)

    def pull_written(self, cotangent: Tensor, shape: torch.Size) -> Tensor:
        """Return the cotangent of `written`, which has this shape."""
        mask = self.is_new
        return cotangent.new_zeros(shape.numel()).index_add_(0, self.source[mask], cotangent[mask]).view(shape)


class Memory:
    """The log of writes of one recorded pass; false while there are none."""

    def __init__(self) -> None:
        self._homes: dict[int, _Home] = {}

    def __bool__(self) -> bool:
        return bool(self._homes)

    def clear(self) -> None:
        """Forget everything."""
        self._homes.clear()

    def knows(self, tensor: Tensor) -> bool:
        """True if a write is recorded for memory that this tensor shares."""
        return storage_key(tensor) in self._homes

    def write(self, target: Tensor, value: Tensor) -> None:
        """Record that the memory of `target` now holds `value`, a tensor of the same shape in a separate storage."""
        home = self._homes.get(storage_key(target))
        if home is None:
            home = self._enter(target, _Home(target.untyped_storage(), _Block(), 0, itemsize=target.element_size()))
        writes = home.block.writes
        writes.append((target, value))
        self._enter(value, _Home(value.untyped_storage(), home.block, len(writes), (target, value)))

    def read(self, tensor: Tensor, overlaid: Callable[[Tensor, Tensor, Overlay], Tensor]) -> Tensor:
        """Return the present value of a tensor; `overlaid` computes old values with a written part put in."""
        home = self._homes.get(storage_key(tensor))
        if home is None:
            return tensor
        writes = home.block.writes
        for number in range(home.version, len(writes)):
            target, value = writes[number]
            if _is_same_place(tensor, target):
                tensor = value
            elif (source := self._overlap(tensor, target)) is not None:
                new = overlaid(tensor, value, Overlay(source))
                self._enter(new, _Home(new.untyped_storage(), home.block, number + 1, (tensor, new)))
                tensor = new
        return tensor

    def _enter(self, tensor: Tensor, home: _Home) -> _Home:
        self._homes[storage_key(tensor)] = home
        return home

    def _overlap(self, tensor: Tensor, target: Tensor) -> Tensor | None:
        """Return, for each element of `tensor`, the index in the flattened `target` of the same place, else −1."""
        own, theirs = self._positions(tensor), self._positions(target).flatten()
        size = 1 + int(max(own.max(), theirs.max()))
        # one entry more, which position −1 finds
        index = torch.full((size + 1,), -1, dtype=torch.long, device=own.device)
        index[theirs] = torch.arange(len(theirs), device=own.device)
        source = index[own]
        return source if bool((source >= 0).any()) else None

    def _positions(self, tensor: Tensor) -> Tensor:
        """Return the position in the block of each element of a tensor."""
        waiting = [self._homes[storage_key(tensor)]]
        while waiting:  # a loop, since a storage may lie behind hundreds of writes
            home = waiting[-1]
            if home.positions is None and home.origin is not None:
                source = self._homes[storage_key(home.origin[0])]
                if source.positions is None:
                    waiting.append(source)
                    continue
            if home.positions is None:
                home.positions = self._placed(home)
            waiting.pop()
        return _laid_out(self._homes[storage_key(tensor)].positions, tensor)

    def _placed(self, home: _Home) -> Tensor:
        if home.origin is None:
            return torch.arange(home.storage.nbytes() // home.itemsize, device=home.storage.device)
        there, here = home.origin
        positions = torch.full((home.storage.nbytes() // here.element_size(),), -1, device=home.storage.device)
        _laid_out(positions, here).copy_(_laid_out(self._homes[storage_key(there)].positions, there))
        return positions


def _laid_out(positions: Tensor | None, tensor: Tensor) -> Tensor:
    """View the positions of a storage in the shape of a tensor in it."""
    assert positions is not None
    return positions.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _is_same_place(first: Tensor, second: Tensor) -> bool:
    return first is second or bool(
        storage_key(first) == storage_key(second)
        and first.shape == second.shape
        and first.stride() == second.stride()
        and first.storage_offset() == second.storage_offset()
    )
