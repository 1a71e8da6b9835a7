"""Jobs in child processes: the state they see, the order of results, deaths, errors and what is left behind."""

import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from pellucid.run import workers as module
from pellucid.run.workers import Job, Workers, no_work, worker_count

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs run in the main process on this platform")


def drain(workers: Workers) -> None:
    while workers.poll(0.05):
        pass


def test_job_sees_the_state_at_the_time_it_is_added() -> None:
    state, seen = {"epoch": 0}, []
    with Workers(1) as workers:
        for epoch in range(3):
            state["epoch"] = epoch
            workers.add(Job("job", lambda send: send(dict(state)), seen.append))
        state["epoch"] = 99
        drain(workers)
    assert [entry["epoch"] for entry in seen] == [0, 1, 2]


def test_a_child_changes_nothing_in_the_main_process() -> None:
    weights, sums = torch.zeros(5), []

    def work(send) -> None:
        weights.add_(1)
        send(float(weights.sum()))

    with Workers(2) as workers:
        workers.add(Job("job", work, sums.append))
        drain(workers)
    assert sums == [5.0]
    assert not weights.any()


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_results_arrive_in_the_order_of_a_serial_run(limit) -> None:
    received = []

    def work(number: int, send) -> None:
        time.sleep(0.05 * (2 - number))  # the first is the slowest
        send((number, "a"))
        send((number, "b"))

    with Workers(limit) as workers:
        jobs = [workers.add(Job(str(number), partial(work, number), received.append)) for number in range(3)]
        drain(workers)
    assert received == [(number, part) for number in range(3) for part in "ab"]
    assert all(job.is_done for job in jobs)


def test_unordered_job_is_not_held_back_and_an_urgent_one_starts_first(tmp_path) -> None:
    received, release = [], tmp_path / "release"

    def wait_for_release(send) -> None:
        while not release.exists():
            time.sleep(0.01)
        send("first")

    with Workers(2) as workers:
        workers.add(Job("first", wait_for_release, received.append))
        workers.add(Job("free", lambda send: send("free"), received.append, is_ordered=False))
        while "free" not in received:
            workers.poll(0.05)
        workers.limit = 1
        workers.add(Job("later", lambda send: send(time.monotonic()), received.append))
        workers.add(Job("urgent", lambda send: send(time.monotonic()), received.append, is_urgent=True))
        release.touch()
        drain(workers)
    assert received[:2] == ["free", "first"]
    later, urgent = received[2:]
    assert urgent < later


def test_job_starts_after_the_results_of_those_it_follows_are_received(tmp_path) -> None:
    file, found = tmp_path / "result", []
    with Workers(3) as workers:
        first = Job("first", lambda send: send("written"), file.write_text)
        workers.add(first)
        workers.add(Job("second", lambda send: send(file.read_text()), found.append, after=(first,)))
        drain(workers)
    assert found == ["written"]


def test_job_without_snapshot_sees_the_state_when_its_turn_has_come() -> None:
    state, seen = {"written": False}, []
    with Workers(1) as workers:
        first = workers.add(Job("first", lambda send: send(True), lambda result: state.update(written=result)))
        work = lambda send: send(dict(state))  # noqa: E731
        workers.add(Job("snapshot", work, seen.append, after=(first,)))
        workers.add(Job("later", work, seen.append, after=(first,), needs_snapshot=False))
        drain(workers)
    assert seen == [{"written": False}, {"written": True}]


@pytest.mark.parametrize("needs_snapshot", [True, False])
def test_superseded_job_is_dropped_when_its_turn_has_come(needs_snapshot, tmp_path) -> None:
    received, state, release = [], {"is_superseded": False}, tmp_path / "release"

    def wait_for_release(send) -> None:
        while not release.exists():
            time.sleep(0.01)
        send("first")

    with Workers(1) as workers:
        first = Job("first", wait_for_release, received.append)
        old = Job("old", lambda send: send("old"), received.append, (first,), needs_snapshot=needs_snapshot)
        old.is_superseded = lambda: state["is_superseded"]
        new = Job("new", lambda send: send("new"), received.append, (old,))
        for job in (first, old, new):
            workers.add(job)
        state["is_superseded"] = True
        release.touch()
        drain(workers)
    assert received == ["first", "new"]
    assert old.is_done
    assert not multiprocessing.active_children()


def test_results_larger_than_the_pipe_do_not_stop_the_child() -> None:
    sizes = []

    def work(send) -> None:
        for _ in range(3):
            send(bytes(3_000_000))

    with Workers(1) as workers:
        workers.add(Job("large", work, lambda content: sizes.append(len(content))))
        drain(workers)
    assert sizes == [3_000_000] * 3


def test_death_is_told_and_the_remaining_work_is_done() -> None:
    received, causes = [], []

    def die(send) -> None:
        send("before")
        time.sleep(0.1)  # until it is sent
        os.kill(os.getpid(), signal.SIGKILL)

    def remaining(cause: str):
        causes.append(cause)
        return lambda send: send("after")

    with Workers(1) as workers:
        workers.add(Job("dies", die, received.append, remaining=remaining))
        workers.add(Job("next", lambda send: send("next"), received.append))
        drain(workers)
    assert causes == ["its process was killed by SIGKILL"]
    assert received == ["before", "after", "next"]


def test_error_in_a_child_is_raised_in_the_main_process_with_its_traceback() -> None:
    def fail(send) -> None:
        raise ZeroDivisionError("of the child")

    with Workers(1) as workers, pytest.raises(RuntimeError, match="(?s)hooks failed in a child process.*of the child"):
        workers.add(Job("hooks", fail, print))
        drain(workers)
    assert not multiprocessing.active_children()


def test_children_are_killed_when_the_block_ends() -> None:
    started = time.monotonic()
    with Workers(1) as workers:
        for _ in range(3):
            workers.add(Job("endless", lambda send: time.sleep(60), print))
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 30


def test_more_jobs_than_may_wait(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    received, most = [], 0
    with Workers(1) as workers:
        for number in range(7):
            workers.add(Job("job", lambda send, number=number: send(number), received.append))
            most = max(most, len(multiprocessing.active_children()))
        drain(workers)
    assert received == list(range(7))
    assert most <= 4  # two wait, one runs, and one may be about to exit


def test_without_memory_for_another_process_jobs_run_in_this_one(monkeypatch) -> None:
    received = []
    with Workers(1) as workers:
        workers.add(Job("child", lambda send: send(os.getpid()), received.append))
        monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")))
        workers.add(Job("inline", lambda send: send(os.getpid()), received.append))
        workers.add(Job("inline", lambda send: send(os.getpid()), received.append, needs_snapshot=False))
    assert received[0] != os.getpid()
    assert received[1:] == [os.getpid()] * 2


def be_parent(sending) -> None:
    def work(send) -> None:
        send(os.getpid())
        time.sleep(60)

    with Workers(1) as workers:
        workers.add(Job("endless", work, sending.send))
        drain(workers)


def is_running(process: int) -> bool:
    try:
        # the third word is Z for a process that has ended, but whose exit code nobody has read
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_children_end_with_a_killed_parent() -> None:
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    parent = context.Process(target=be_parent, args=(sending,))
    parent.start()
    child = receiving.recv()
    assert is_running(child)
    parent.kill()
    parent.join()
    ends = time.monotonic() + 20
    while is_running(child):
        assert time.monotonic() < ends, "the child is still running"
        time.sleep(0.05)
    for end in (receiving, sending):
        end.close()


def test_worker_count_the_training(monkeypatch) -> None:
    monkeypatch.setattr(module.threading, "active_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    cpu = torch.device("cpu")
    assert worker_count(cpu, 1) == 1
    assert worker_count(torch.device("cuda", 0), 1) == worker_count(torch.device("mps"), 1) == 0
    assert worker_count(cpu, 2) == 0
    for cores, expected in ((1, 0), (3, 2), (64, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert worker_count(cpu, 1) == expected
    for owner, name, value in (
        (module.threading, "active_count", lambda: 2),
        (torch, "get_num_threads", lambda: 2),
        (torch.cuda, "is_available", lambda: True),
        (sys, "platform", "darwin"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert worker_count(cpu, 1) == 0, name


def test_no_work_sends_nothing() -> None:
    no_work(pytest.fail)
