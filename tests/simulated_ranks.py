"""Simulation of the processes that fill a store: the real schedule, simulated clocks."""

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pellucid.run.to_disk.place import Place
from pellucid.run.to_disk.schedule import Schedule

__all__ = ["Costs", "Outcome", "Process", "Simulation"]


@dataclass(frozen=True)
class Costs:
    """What the storage and lost shards cost, in seconds."""

    listing: float = 0.0
    """A listing of the marks, whatever their number."""
    mark: float = 0.0
    """Each mark in a listing."""
    check: float = 0.0
    """A look at one mark."""
    between_listings: float = float("inf")
    """Time after which a process lists the marks to show its progress."""
    lost: float = 0.0
    """Share of the shards that are computed, but never marked, because their process dies."""
    restart: float = 0.0
    """Time from the death of a process to its restart."""


@dataclass
class Process:
    """One process: its place, its speed relative to the others, and when it starts."""

    place: Place
    speed: float = 1.0
    begins: float = 0.0
    schedule: Schedule = field(init=False)
    shards: Iterator[int] = field(init=False)
    current: int | None = None
    spent: float = 0.0
    """Seconds that the storage has taken since the last event."""
    listed_at: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a job went."""

    seconds: float
    """Time of the last mark."""
    computed: int
    duplicates: int
    """Shards that another process marked first."""
    lost: int
    listings: int
    done: np.ndarray


@dataclass
class _Marks:
    """The marks, as one process sees them."""

    simulation: "Simulation"
    process: Process

    def completed(self) -> np.ndarray:
        completed = self.simulation.done.nonzero()[0]
        costs = self.simulation.costs
        self.process.spent += costs.listing + costs.mark * len(completed)
        self.process.listed_at = self.simulation.now + self.process.spent
        self.simulation.listings += 1
        return completed

    def is_complete(self, number: int) -> bool:
        self.process.spent += self.simulation.costs.check
        return bool(self.simulation.done[number])


class Simulation:
    """Processes that fill a store of `count` shards; `seconds` draws the time of a shard at speed 1.

    A queue holds the moments at which processes finish a shard. What a process sees of the store is its state at such a
    moment, so a listing is as old as it takes.
    """

    def __init__(self, count: int, seconds: Callable[[], float], costs: Costs | None = None, seed: int = 0) -> None:
        self.seconds, self.costs = seconds, costs or Costs()
        self.draws = random.Random(seed)
        self.done = np.zeros(count, bool)
        self.now, self.listings = 0.0, 0
        self._computed = self._duplicates = self._lost = 0
        self._last = 0.0

    def run(self, processes: Sequence[Process]) -> Outcome:
        """Run all processes to their end."""
        queue = [(process.begins, number) for number, process in enumerate(processes)]
        heapq.heapify(queue)
        while queue:
            self.now, number = heapq.heappop(queue)
            following = self._advance(processes[number])
            if following is not None:
                heapq.heappush(queue, (following, number))
        return Outcome(self._last, self._computed, self._duplicates, self._lost, self.listings, self.done)

    def _advance(self, process: Process) -> float | None:
        """Let a process finish its shard and take the next one; return when it will have finished that."""
        process.spent = 0.0
        if process.current is None:
            self._start(process)
        elif self.draws.random() < self.costs.lost:
            self._lost, self._computed = self._lost + 1, self._computed + 1
            process.current = None
            return self.now + self.costs.restart
        else:
            self._finish(process)
        process.current = next(process.shards, None)
        if process.current is None:
            return None
        assert not self.done[process.current], "a complete shard was given out"
        return self.now + process.spent + self.seconds() / process.speed

    def _start(self, process: Process) -> None:
        marks = _Marks(self, process)
        process.schedule = Schedule(marks, len(self.done), process.place, seed=self.draws.getrandbits(30))
        process.shards = process.schedule.shards()

    def _finish(self, process: Process) -> None:
        assert process.current is not None
        self._computed += 1
        if process.schedule.marks.is_complete(process.current):
            self._duplicates += 1
            process.schedule.meet()
        else:
            self.done[process.current] = True
            self._last = self.now
        if self.now - process.listed_at > self.costs.between_listings:
            process.schedule.marks.completed()
