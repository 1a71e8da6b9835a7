"""A seeded, stratified sample of a stream of unknown length, in bounded memory."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

__all__ = ["Reservoir"]


class Reservoir(Generic[T]):
    """Hold one random item of every `block` consecutive items of each class, with a block size that grows as needed.

    Whenever more than `capacity` items are held, `block` doubles: of two neighboring blocks of a class, one keeps its
    item. Each class is therefore represented in proportion to its size, to within one item, and all items are equally
    likely to be held, except that no class is lost. At least half of `capacity` is in use, less an item per class (or
    the whole stream is held).

    >>> reservoir = Reservoir(10, torch.Generator().manual_seed(0))
    >>> for number in range(64):
    ...     reservoir.add(number % 2, lambda: number)
    >>> kept = reservoir.taken()
    >>> len(kept), sum(number % 2 for number in kept)
    (8, 4)
    """

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        self.capacity = max(capacity, 1)
        self.block = 1
        self._generator = generator
        self._held: list[list[T]] = []
        self._seen: list[int] = []
        """Items of each stratum so far, held or not."""
        self._strata: dict[int, int] = {}

    def add(self, kind: int, make: Callable[[], T]) -> None:
        """Receive the next item of the stream, of class `kind`; `make` is called only if the item is held."""
        stratum = self._stratum(kind)
        held, position = self._held[stratum], self._seen[stratum]
        self._seen[stratum] += 1
        in_block = position % self.block
        if in_block == 0:
            held.append(make())
            if sum(map(len, self._held)) > self.capacity:
                self._double()
        # the k-th item of a block replaces the one held with probability 1/k, so that all are equally likely to stay
        elif self._draw(in_block + 1) == 0:
            held[-1] = make()

    def taken(self) -> list[T]:
        """Return the sample at the end of the stream, class by class, each in the order of the stream."""
        return [item for held, seen in zip(self._held, self._seen, strict=True) for item in self._sampled(held, seen)]

    def _sampled(self, held: list[T], seen: int) -> list[T]:
        """Return the items of a stratum, where the item of an incomplete last block has a smaller probability."""
        last = seen % self.block
        is_kept = not last or len(held) == 1 or self._draw(self.block) < last
        return held if is_kept else held[:-1]

    def _stratum(self, kind: int) -> int:
        """Return the index of the stratum of a class."""
        if kind not in self._strata:
            # every stratum holds an item, so with more classes than fit, some share one
            most = max(self.capacity // 2, 1)
            if len(self._held) < most:
                self._held.append([])
                self._seen.append(0)
                self._strata[kind] = len(self._held) - 1
            else:
                self._strata[kind] = len(self._strata) % most
        return self._strata[kind]

    def _double(self) -> None:
        """Merge neighboring blocks until the items fit."""
        while sum(map(len, self._held)) > self.capacity:
            for stratum, held in enumerate(self._held):
                self._held[stratum] = self._merged(held, self._seen[stratum])
            self.block *= 2

    def _merged(self, held: list[T], seen: int) -> list[T]:
        """Merge neighboring blocks of a stratum in pairs, and return the remaining items."""
        merged = []
        for index in range(0, len(held), 2):
            # the last block may be incomplete; its item then stays with a smaller probability
            following = min(self.block, seen - (index + 1) * self.block)
            is_first = following <= 0 or self._draw(self.block + following) < self.block
            merged.append(held[index] if is_first else held[index + 1])
        return merged

    def _draw(self, most: int) -> int:
        return int(torch.randint(most, (), generator=self._generator))
