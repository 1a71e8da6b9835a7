"""Order in which a process computes shards: its own part, then missing shards of others. Nothing is locked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from pellucid.core.seeding import derive_seed
from pellucid.run.to_disk.place import Place

__all__ = ["Marks", "Schedule"]


@runtime_checkable
class Marks(Protocol):
    """The marks of a store's complete shards, as the schedule sees them."""

    def completed(self) -> np.ndarray:
        """Return the numbers of the complete shards, ascending."""

    def is_complete(self, number: int) -> bool:
        """Return True if one shard is complete."""


@dataclass
class Schedule:
    """Yields the shards for a process to compute.

    A process first takes its own part: shards `rank · n / size` to `(rank + 1) · n / size`, so that it reads the data
    in order. Then it lists the marks and helps with missing shards, beginning at a different place in the list than
    others, so that processes seldom choose the same shard. If two do, both write the same bytes, and only time is lost.

    >>> class None_:
    ...     def completed(self):
    ...         return np.array([], int)
    ...     def is_complete(self, number):
    ...         return False
    >>> schedule = Schedule(None_(), 8, Place(1, 4))
    >>> next(schedule.shards()), schedule.own
    (2, range(2, 4))
    """

    marks: Marks
    count: int
    """Number of shards."""
    place: Place
    seed: int = 0
    """Distinguishes processes of different jobs that have the same rank."""
    listed: Callable[[np.ndarray], None] | None = None
    """Called with every listing of the complete shards, to update the progress."""
    _is_met: bool = field(default=False, init=False)

    @property
    def own(self) -> range:
        """The shards of this process's own part."""
        rank, size = self.place.rank, self.place.size
        return range(rank * self.count // size, (rank + 1) * self.count // size)

    def shards(self) -> Iterator[int]:
        """Yield shards that are missing at that moment, until none is."""
        done = self._completed()
        waiting = [number for number in self.own if number not in done]
        while waiting and not self._is_met:
            number = waiting.pop(0)
            if self.marks.is_complete(number):  # by another process, since the listing
                self._is_met = True
            else:
                yield number
        while len(missing := self._missing()):
            for number in self._chosen(missing):
                if not self.marks.is_complete(number):
                    yield number
                    break

    def meet(self) -> None:
        """Note that another process, which works on the same part, has just computed the same shard."""
        self._is_met = True

    def upcoming(self, number: int) -> int | None:
        """Return the shard that probably follows `number`, whose images may be read in advance."""
        return number + 1 if not self._is_met and number + 1 in self.own else None

    def _completed(self) -> set[int]:
        return set(self._list().tolist())

    def _list(self) -> np.ndarray:
        completed = self.marks.completed()
        if self.listed is not None:
            self.listed(completed)
        return completed

    def _missing(self) -> np.ndarray:
        completed = self._list()
        is_missing = np.ones(self.count, bool)
        is_missing[completed[completed < self.count]] = False
        return is_missing.nonzero()[0]

    def _chosen(self, missing: np.ndarray) -> Sequence[int]:
        """Return the missing shards in the order of this process."""
        if self._is_met:  # a process of another job, which may have the same rank
            order: list[int] = np.random.default_rng(derive_seed(self.seed, len(missing))).permutation(missing).tolist()
            return order
        start = self.place.rank * len(missing) // self.place.size
        return [*missing[start:].tolist(), *missing[:start].tolist()]
