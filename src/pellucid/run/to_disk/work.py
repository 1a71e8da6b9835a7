"""Compute shards until none is missing: read, explain, write, and report the progress of all processes."""

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pellucid.core.terminal import Tracker, track
from pellucid.data._each import Read
from pellucid.run.to_disk.job import Job
from pellucid.run.to_disk.place import Place
from pellucid.run.to_disk.results import mark_of, rows_of
from pellucid.run.to_disk.schedule import Schedule
from pellucid.storage.sharded import ShardedStore

__all__ = ["Finished", "duration", "finish_shards"]

SECONDS_BETWEEN_LISTINGS, MOST_LISTING = 10.0, 0.02
"""Minimum interval at which the process that shows the progress lists the marks, and maximum share of its time that it
spends on that."""


@dataclass(frozen=True)
class Finished:
    """Number of shards and images that this process has computed."""

    shards: int
    images: int
    unreadable: int
    """Images without results, among these."""


@dataclass
class _Progress:
    """Progress of all processes together, from the marks in the store."""

    store: ShardedStore
    tracker: Tracker
    is_shown: bool
    """True in the first process only; the others need no listings for the progress."""
    begun: float = field(default_factory=time.monotonic)
    first: int | None = None
    """Images that were complete at the start."""
    complete: int = 0
    next_listing: float = 0.0
    """Time of the next listing."""

    def listed(self, completed: np.ndarray) -> None:
        """Take note of a listing of the complete shards."""
        shard, last = self.store.shard, self.store.shards - 1
        missing = self.store.shards * shard - self.store.images
        self.complete = len(completed) * shard - (missing if len(completed) and completed[-1] == last else 0)
        self.first = self.complete if self.first is None else self.first
        self.next_listing = time.monotonic() + SECONDS_BETWEEN_LISTINGS

    def show(self, images: int) -> None:
        """Show the progress, with `images` of the current shard done."""
        if not self.is_shown:
            return
        if (begun := time.monotonic()) > self.next_listing:
            self.listed(self.store.completed())
            self.next_listing = max(self.next_listing, begun + (time.monotonic() - begun) / MOST_LISTING)
        done = min(self.complete + images, self.store.images)
        seconds = time.monotonic() - self.begun
        rate = (done - (self.first or 0)) / seconds if seconds > 1 else 0.0
        note = f"{rate:,.1f} images/s, {duration((self.store.images - done) / rate)} left" if rate > 0 else ""
        self.tracker.update(done, note)


def finish_shards(store: ShardedStore, job: Job, place: Place) -> Finished:
    """Compute the missing shards of a store, this process's own part first, and return what it has done.

    Raises `SaveError` if the store cannot be written or has vanished, and the error of a model that fails for every
    image of a shard. Shards that are complete then stay complete.
    """
    shards = images = unreadable = 0
    with track("explaining", store.images) as tracker, _Reader(job, store) as reader:
        progress = _Progress(store, tracker, is_shown=not place.rank)
        # so that processes of different jobs that meet continue with different shards
        schedule = Schedule(store, store.shards, place, seed=secrets.randbits(32), listed=progress.listed)
        for number in schedule.shards():
            reads = reader.take(number, schedule.upcoming(number))
            rows = rows_of(job, reads, progress.show)
            if store.is_complete(number):
                schedule.meet()
            else:
                store.write(number, rows, mark_of(reads))
                shards, images = shards + 1, images + len(reads)
                unreadable += int((rows["error"] != "").sum())
                progress.complete += len(reads)
            progress.show(0)
    return Finished(shards, images, unreadable)


class _Reader:
    """Reads the images of the next shard while the current one is being computed."""

    def __init__(self, job: Job, store: ShardedStore) -> None:
        self._job, self._store = job, store
        self._ahead: tuple[int, Future[Sequence[Read]]] | None = None

    def __enter__(self) -> "_Reader":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pellucid-reader")
        return self

    def __exit__(self, *_: object) -> None:
        # after an error or Ctrl-C, don't wait for images that are no longer needed
        self._pool.shutdown(wait=False, cancel_futures=True)

    def take(self, number: int, following: int | None) -> Sequence[Read]:
        """Return the images of a shard, and begin to read those of the following one."""
        if self._ahead is not None and self._ahead[0] == number:
            reads = self._ahead[1].result()
        else:
            reads = self._pool.submit(self._read, number).result()
        self._ahead = None if following is None else (following, self._pool.submit(self._read, following))
        return reads

    def _read(self, number: int) -> Sequence[Read]:
        source = self._job.source
        reads = source.read(self._store.rows_of(number))
        if any(read.pixels is None for read in reads):
            source.check_available()
        return reads


def duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> duration(42.4), duration(4000), duration(200_000)
    ('42 s', '1 h 6 min', '2 d 7 h')
    """
    whole = round(seconds)
    for unit, name, part, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // part} {small}"
    return f"{whole} s"
