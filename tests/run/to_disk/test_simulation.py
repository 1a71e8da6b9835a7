"""The schedule under simulated processes: efficiency, and every shard gets done whatever happens to them."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pellucid.run.to_disk.place import Place
from pellucid.run.to_disk.schedule import Schedule
from simulated_ranks import Costs, Outcome, Process, Simulation

SHARDS = 64 * 60


def seconds(seed: int, deviation: float = 0.1) -> Callable[[], float]:
    """Draw the times of shards, of mean 1 s."""
    draws = random.Random(seed)
    return lambda: max(0.3, draws.gauss(1, deviation))


def efficiency(ranks: list[Process], outcome: Outcome, shards: int) -> float:
    """Return the shortest possible time, at the summed speed of the ranks, divided by the time taken."""
    return shards / sum(rank.speed for rank in ranks) / outcome.seconds


def ranks(size: int, slow: int = 0, begins: float = 0.0) -> list[Process]:
    return [Process(Place(rank, size), 0.5 if rank < slow else 1.0, begins) for rank in range(size)]


@pytest.mark.parametrize(
    ("slow", "costs", "least"),
    [
        (0, Costs(), 0.97),
        (2, Costs(lost=0.01, restart=1), 0.92),
        (2, Costs(lost=0.01, restart=1, listing=0.05, mark=1e-5, check=0.01), 0.9),
        (16, Costs(lost=0.1, restart=3), 0.65),  # at best 0.9 / (1 + 0.1 · 3) = 0.69
    ],
)
def test_sixty_four_ranks_are_used_well(slow: int, costs: Costs, least: float) -> None:
    processes = ranks(64, slow)
    outcome = Simulation(SHARDS, seconds(0), costs).run(processes)
    assert outcome.done.all()
    assert outcome.computed == SHARDS + outcome.duplicates + outcome.lost
    assert efficiency(processes, outcome, SHARDS) >= least


def test_a_lone_process_computes_every_shard_once_and_in_order() -> None:
    marks = Store(100)
    marks.done[[3, 4, 50, 99]] = True
    schedule, order = Schedule(marks, 100, Place()), []
    for number in schedule.shards():
        order.append(number)
        marks.done[number] = True
    assert order == [number for number in range(100) if number not in (3, 4, 50, 99)]


def test_processes_that_do_not_know_of_each_other_part_ways() -> None:
    processes = [Process(Place()) for _ in range(8)]
    outcome = Simulation(2048, seconds(1)).run(processes)
    assert outcome.duplicates < 0.05 * 2048
    assert efficiency(processes, outcome, 2048) > 0.95


def test_a_second_job_of_the_same_size_shares_the_work() -> None:
    processes = [*ranks(8), *ranks(8, begins=64.0)]
    outcome = Simulation(2048, seconds(1)).run(processes)
    assert outcome.done.all()
    # a quarter of the 256 s by the first job, the rest by both
    assert outcome.seconds < 1.1 * (64 + 192 / 2)


class Store:
    """Marks without costs."""

    def __init__(self, count: int) -> None:
        self.done = np.zeros(count, bool)

    def completed(self) -> np.ndarray:
        return self.done.nonzero()[0]

    def is_complete(self, number: int) -> bool:
        return bool(self.done[number])


class Job:
    """Processes that advance in any order, die at any moment and return in other numbers."""

    def __init__(self, seed: int) -> None:
        self.draws = random.Random(seed)
        self.store = Store(self.draws.choice((1, 2, 7, 40, 150)))
        self.alive: list[tuple[Schedule, Iterator[int]]] = []
        self.current: dict[int, int] = {}
        self.steps = 0

    def launch(self) -> None:
        """Start a job of any size, of which some processes never arrive."""
        size = self.draws.randint(1, 12)
        for rank in range(size):
            if self.draws.random() < 0.8:
                schedule = Schedule(self.store, len(self.store.done), Place(rank, size), self.draws.getrandbits(20))
                self.alive.append((schedule, schedule.shards()))

    def advance(self) -> None:
        """Let one process finish its shard and begin another, or end."""
        one = self.draws.choice(self.alive)
        schedule, shards = one
        number = self.current.pop(id(schedule), None)
        if number is not None and self.store.is_complete(number):
            schedule.meet()
        elif number is not None:
            self.store.done[number] = True
        following = next(shards, None)
        self.steps += 1
        if following is None:
            assert self.store.done.all(), "a process ended before the store was complete"
            self.alive.remove(one)
        else:
            assert 0 <= following < len(self.store.done)
            assert not self.store.is_complete(following)
            self.current[id(schedule)] = following

    def kill(self) -> None:
        """End a process at once; its current shard stays unmarked."""
        schedule, _ = self.alive.pop(self.draws.randrange(len(self.alive)))
        self.current.pop(id(schedule), None)


@pytest.mark.parametrize("seed", range(60))
def test_every_shard_gets_done_whatever_happens_to_the_processes(seed: int) -> None:
    job = Job(seed)
    launched = 0
    while not job.store.done.all() or job.alive:
        if not job.alive or (launched < 6 and job.draws.random() < 0.02):
            job.launch()
            launched += 1
        elif launched < 6 and job.draws.random() < 0.05:
            job.kill()
        else:
            job.advance()
        # at worst, all processes compute the same shard at the same time
        assert job.steps <= (len(job.store.done) + 2) * 12 * 8, "the processes never come to an end"
    assert job.store.done.all()


def test_the_next_shard_is_announced_while_the_process_works_on_its_own_part() -> None:
    schedule = Schedule(Store(10), 10, Place(1, 2))
    assert [schedule.upcoming(number) for number in (5, 8, 9)] == [6, 9, None]
    schedule.meet()
    assert schedule.upcoming(5) is None
