"""Jobs in forked child processes, parallel to training; only the main process receives results and writes files."""

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

import torch

from pellucid.core.terminal import silence

__all__ = ["Job", "Work", "Workers", "no_work", "worker_count"]

MOST_WORKERS = 3
"""Maximum number of worker processes: there are only about ten jobs, and each process takes memory."""
MOST_WAITING = 8
"""Maximum number of jobs that wait for their turn; each holds a snapshot of the program in memory."""
SECONDS_BETWEEN_LOOKS = 0.1
"""Interval at which a child looks whether the main process still exists."""

Work: TypeAlias = Callable[[Callable[[Any], None]], None]
"""A function that passes each of its results to the function it is given."""


def no_work(_: Callable[[Any], None]) -> None:
    """Do nothing: there is nothing left to do."""


def worker_count(device: torch.device, processes: int) -> int:
    """Return the number of processes that can run jobs during training on `device`; 0 if forks are unsafe or useless.

    `processes` is the number of processes of a distributed run. A child of a process with several threads can wait
    forever for a lock that one of them held; one of a process that uses a GPU cannot compute gradients.
    """
    is_safe = sys.platform == "linux" and threading.active_count() == 1 and torch.get_num_threads() == 1
    if not is_safe or device.type != "cpu" or torch.cuda.is_available() or processes > 1:
        return 0
    return min(len(os.sched_getaffinity(0)) - 1, MOST_WORKERS)


@dataclass(eq=False)
class Job:
    """Work for a child process, and what the main process does with its results."""

    name: str
    work: Work
    """Runs on the state of the program at the time the job was added. The results are pickled to cross over."""
    receive: Callable[[Any], None]
    """Called in the main process with every result."""
    after: tuple["Job", ...] = ()
    """Jobs whose results must be received before this one starts."""
    remaining: Callable[[str], Work] = lambda _: no_work
    """Called in the main process with the reason if the child died; returns the work that is left."""
    needs_snapshot: bool = True
    """False if the work does not depend on when the job was added: it is forked only when its turn has come."""
    is_superseded: Callable[[], bool] = lambda: False
    """Called in the main process when the job's turn has come; True to drop it."""
    is_ordered: bool = True
    """True if results are received only after those of every ordered job added earlier, as in a serial run."""
    is_urgent: bool = False
    """True to start before other jobs that wait."""
    is_done: bool = field(default=False, init=False)
    """True once all results are received."""


class Workers:
    """Runs jobs in child processes, at most `limit` at once; with limit 0, runs each in this process when it is added.

    A child is forked when its job is added, and then waits for its turn. It therefore sees the model as it was when
    the job was added, with all that a user's class keeps outside of its weights. Each waiting child takes memory.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tasks: list[_Task] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the children that are left after an error or Ctrl-C."""
        for task in self._tasks:
            task.kill()
        self._tasks.clear()

    def add(self, job: Job) -> Job:
        """Run a job as soon as a process is free and the jobs it follows are done; returns the job."""
        if not self.limit:
            job.work(job.receive)
            job.is_done = True
            return job
        while job.needs_snapshot and sum(task.is_waiting for task in self._tasks) >= MOST_WAITING:
            self.poll(SECONDS_BETWEEN_LOOKS)
        task = _Task(job)
        try:
            if job.needs_snapshot:
                task.fork(job.work)
        except OSError:  # no memory or no process left: from now on, everything runs in this process
            while self.poll(SECONDS_BETWEEN_LOOKS):
                pass
            self.limit = 0
            return self.add(job)
        self._tasks.append(task)
        self.poll()
        return job

    def poll(self, seconds: float = 0.0) -> bool:
        """Receive results, waiting up to `seconds` for the next one, and start jobs; returns False if none is left."""
        open_ends = {task.results: task for task in self._tasks if task.is_alive}
        for ready in wait(list(open_ends), seconds) if open_ends else ():
            open_ends[ready].read()  # type: ignore[index]  # `wait` also takes sockets
        self._hand_over()
        self._start()
        return bool(self._tasks)

    def left(self) -> int:
        """Return the number of jobs that are not done."""
        return len(self._tasks)

    def running(self) -> list[str]:
        """Return the names of the jobs that run now."""
        return [task.job.name for task in self._tasks if task.is_started and not task.is_over]

    def _drop(self, task: "_Task") -> None:
        task.job.is_done = True
        self._tasks.remove(task)

    def _hand_over(self) -> None:
        is_blocked = False
        for task in list(self._tasks):
            if task.job.is_ordered and is_blocked:
                continue
            task.hand_over()
            if task.is_over:
                self._drop(task)
            elif task.job.is_ordered:
                is_blocked = True

    def _start(self) -> None:
        # a stable sort: else in the order of addition
        for task in sorted(self._tasks, key=lambda task: not task.job.is_urgent):
            if task.is_started or not all(job.is_done for job in task.job.after):
                continue
            if task.job.is_superseded():
                task.kill()
                self._drop(task)
            elif len(self.running()) < self.limit:
                self._run(task)

    def _run(self, task: "_Task") -> None:
        try:
            task.start()
        except OSError:  # no memory or process left
            task.job.work(task.job.receive)
            self._drop(task)


@dataclass(frozen=True)
class _Finished:
    """Last message of a child; `error` is the traceback if its work raised an exception."""

    error: str | None


class _Task:
    """A job with its child process and the results that have arrived but are not handed over yet."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.arrived: list[object] = []
        self.is_alive = self.is_started = self.is_finished = self.is_over = False

    @property
    def is_waiting(self) -> bool:
        """True if its child waits for its turn."""
        return self.is_alive and not self.is_started

    def fork(self, work: Work, *, is_careful: bool = False) -> None:
        """Create the child, which waits for its turn; a careful one delivers each result before the next step."""
        context = multiprocessing.get_context("fork")
        self.is_started = self.is_finished = self.is_over = False
        self.results, sending = context.Pipe(duplex=False)
        turn, self._turn = context.Pipe(duplex=False)
        self._process = context.Process(target=_run_child, args=(work, turn, sending, os.getpid(), is_careful))
        try:
            with warnings.catch_warnings():
                # Python warns about every thread, even those that idle in the pools of torch and numpy
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
        finally:
            # the child alone holds these now, so that its death closes them
            sending.close()
            turn.close()
        self.is_alive = True

    def start(self) -> None:
        """Give the child its turn."""
        if not self.is_alive:
            self.fork(self.job.work)
        self.is_started = True
        with suppress(OSError):  # the child has died, which `read` will find out
            self._turn.send_bytes(b"go")

    def read(self) -> None:
        """Take what the child has sent."""
        try:
            while self.results.poll():
                self.arrived.append(self.results.recv())
                if isinstance(self.arrived[-1], _Finished):
                    self.is_finished = True
                    self._close()
                    return
        except (EOFError, OSError):
            self._close()

    def hand_over(self) -> None:
        """Pass on what has arrived; if the child has died, fork another for what is left."""
        while self.arrived:
            result = self.arrived.pop(0)
            if not isinstance(result, _Finished):
                self.job.receive(result)
            elif result.error is not None:
                raise RuntimeError(f"{self.job.name} failed in a child process:\n{result.error}")
        if self.is_over and not self.is_finished:
            # careful, since a result that was not sent yet is lost with the child, and must not be blamed for its death
            self.fork(self.job.remaining(_cause(self._process.exitcode)), is_careful=True)

    def kill(self) -> None:
        """End the child, if it is alive."""
        if self.is_alive:
            self._process.kill()
            self._close()

    def _close(self) -> None:
        self.is_alive, self.is_over = False, True
        self._process.join()
        self.results.close()
        self._turn.close()


def _run_child(work: Work, turn: Connection, results: Connection, parent: int, is_careful: bool) -> None:
    """Wait for the turn, then send the results of `work`; runs in a child process."""
    # the main process decides what Ctrl-C and SIGTERM mean; it kills its children if it ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    silence()
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    outbox: queue.Queue[object] = queue.Queue()

    def deliver(result: object) -> None:
        outbox.put(result)
        outbox.join()

    # a thread, because sending waits until the main process reads, which it does between two training steps
    sender = threading.Thread(target=_send, args=(outbox, results))
    sender.start()
    error = None
    try:
        turn.recv_bytes()
        work(deliver if is_careful else outbox.put)
    except BaseException:  # noqa: BLE001  (the main process raises it again)
        error = traceback.format_exc()
    outbox.put(_Finished(error))
    sender.join()


def _send(outbox: "queue.Queue[object]", results: Connection) -> None:
    while True:
        message = outbox.get()
        with suppress(OSError):  # nobody listens any more
            results.send(message)
        outbox.task_done()
        if isinstance(message, _Finished):
            return


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone, which a killed parent cannot tell."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _cause(exitcode: int | None) -> str:
    """Describe why a child process ended.

    >>> _cause(-9), _cause(3)
    ('its process was killed by SIGKILL', 'its process ended with exit code 3')
    """
    if exitcode is not None and exitcode < 0:
        with suppress(ValueError):
            return f"its process was killed by {signal.Signals(-exitcode).name}"
    return f"its process ended with exit code {exitcode}"
