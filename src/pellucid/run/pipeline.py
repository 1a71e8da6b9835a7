"""The pipeline of a run: data → model → training epochs → hooks → report."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import cast

from torch import Tensor

from pellucid.config import RunConfig
from pellucid.core.terminal import silence
from pellucid.data._loaders import training_batches
from pellucid.report import write_report
from pellucid.run.console import (
    open_report,
    print_already_finished,
    print_epoch,
    print_interruption,
    print_start,
    print_summary,
)
from pellucid.run.hook_runner import HookRunner
from pellucid.run.native import Kernel, repays
from pellucid.run.record import finished_record, first_record, metrics_record, record_end
from pellucid.run.recording import make_recorder
from pellucid.run.schedule import Schedule
from pellucid.run.session import Session, prepare
from pellucid.run.workers import Workers, worker_count
from pellucid.storage.lock import locked
from pellucid.storage.loggers import Logs, check_loggers, open_logs
from pellucid.storage.ownership import check_ours
from pellucid.storage.recordings import write_recording
from pellucid.storage.weights import pack_weights
from pellucid.training.checkpoint import TrainingState, pack_state
from pellucid.training.distributed import joined_world
from pellucid.training.interrupt import Interruption, deferred_interrupt, sigterm_ignored
from pellucid.training.loop import Epoch, train

__all__ = ["run"]


def run(config: RunConfig) -> int:
    """Train a network, run the hooks, write the report and return the exit code.

    0: success. 1: a hook failed and its traceback is in `save/errors/`. Raises a `PellucidError` before any training if
    the settings, the data, the model or the save folder are invalid, and `KeyboardInterrupt` after Ctrl-C or SIGTERM,
    once a checkpoint is written.
    """
    with ExitStack() as stack:
        world = stack.enter_context(joined_world())
        if not world.is_first:
            silence()
        # locked before anything is read, so that no other run writes meanwhile
        world.first(lambda: check_ours(config.save))
        world.first(lambda: stack.enter_context(locked(config.save)))
        session = prepare(config, world)
        if session.earlier.get("status") == "finished" and session.extended_from is None:
            world.first(lambda: print_already_finished(session))
            world.first(lambda: _show_end(session))
            return int(bool(session.store.manifest()["failures"]))
        # a run that has begun always records how it ended
        with deferred_interrupt() as interrupted:
            world.first(lambda: _begin(session))
        return _train_and_show(session, interrupted)


def _begin(session: Session) -> None:
    """Move an earlier run out of the way and write the first run.json; a resumed run keeps its files."""
    store, record = session.store, first_record(session)
    moved = None if session.config.resume else store.move_previous_run()
    store.begin(record)
    print_start(session, moved)


def _train_and_show(session: Session, interrupted_before: Interruption) -> int:
    """Run all epochs with their hooks, then the end hooks, films and report; return the exit code."""
    store, world = session.store, session.world
    start_epoch = session.resumed.progress.epoch if session.resumed else 0
    logs: Logs | None = None
    try:
        world.first(interrupted_before.check)
        with ExitStack() as stack:
            workers = stack.enter_context(Workers(_processes(session)))
            logs = world.first(lambda: stack.enter_context(_logs(session, start_epoch)))
            # only the first process runs hooks and writes files; the others have no logs, nor a kernel
            kernel = world.first(lambda: stack.enter_context(_kernel(session)))
            runner = HookRunner(store, cast(Logs, logs))
            schedule = Schedule(session, runner, workers, cast(Kernel, kernel))
            world.first(lambda: schedule.add_unfinished(start_epoch))
            for epoch in _epochs(session, workers.poll):
                world.first(partial(_finish_epoch, session, schedule, epoch))
            world.first(schedule.finish)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if world.is_first:
            with sigterm_ignored():
                status = "interrupted" if interrupted else "failed"
                record_end(store, status)
                with suppress(Exception):  # the cause of the failure may not allow it
                    write_report(store.folder)
                if logs is not None:
                    logs.close(status)
        if interrupted:
            print_interruption(session)
        raise
    with deferred_interrupt():  # seconds before the end, a signal changes nothing
        world.first(lambda: _finish(session, schedule))
    # the first process alone reads the failures, but all return the same exit code
    return int(world.any(world.is_first and bool(store.manifest()["failures"])))


def _processes(session: Session) -> int:
    """Return the number of processes that run hooks during training; 0 to run them between epochs."""
    return 0 if session.config.serial else worker_count(session.device, session.world.size)


def _kernel(session: Session) -> Kernel:
    """Return the kernel of the run's Jacobians: as recorded if it is resumed, and built if there are many of them."""
    test, recorded = session.data.test, session.store.run().get("jacobian_kernel")
    is_large = repays(
        session.hooks.values(), session.recipe.epochs, (len(test), *test.image_shape), len(session.data.classes)
    )
    # a budget bounds the cost of the hooks, so that the build would not be repaid
    builds = is_large and session.config.show.budget is None
    return Kernel(session.store, recorded, on_cpu=session.device.type == "cpu", builds=builds)


def _logs(session: Session, start_epoch: int) -> Logs:
    """Open the logs: new ones start with the model's graph, those of a resumed run continue at `start_epoch`."""
    store, trackers = session.store, check_loggers(session.config.show.log_to)
    # hooks of earlier epochs that had not finished are repeated
    first = min([start_epoch, *store.unfinished_epochs()]) if session.config.resume else None
    logs = open_logs(store.folder, trackers, store.run(), first)
    logs.add_earlier(store.metrics())
    if start_epoch == 0:
        logs.graph(session.model, session.data.test.floats([0]).to(session.device))
    return logs


def _epochs(session: Session, between_steps: Callable[[], object]) -> Iterator[Epoch]:
    """Train the model and yield each finished epoch; the first process writes the checkpoints."""
    model, data, recipe, world = session.model, session.data, session.recipe, session.world

    def keep(state: TrainingState) -> None:
        if world.is_first:
            session.store.check_present()
            session.store.write_model("last.ckpt", pack_state(state))

    def batches(epoch: int, first_step: int) -> Iterable[tuple[Tensor, Tensor]]:
        size = session.config.training.batch_size
        for batch in training_batches(data, size, recipe.seed, world.rank, world.size, epoch, first_step):
            between_steps()
            yield batch

    return train(
        model,
        data,
        batches,
        recipe,
        device=session.device,
        world=world,
        start=session.resumed,
        keep=keep,
        recorder=make_recorder(session),
    )


def _finish_epoch(session: Session, schedule: Schedule, epoch: Epoch) -> None:
    """Process a finished epoch in the first process: weights, recording, metrics, terminal, hooks and report."""
    # the checkpoint is on disk already: if the process dies here, a resumed run repeats this without training again
    store = session.store
    store.check_present()
    if epoch.is_best or session.keeps_checkpoints:
        weights = pack_weights(session.model)
        if session.keeps_checkpoints:
            store.write_model(store.kept_name(epoch.number), weights)
        if epoch.is_best:
            store.write_model("best.safetensors", weights)
    if epoch.recording is not None:
        write_recording(store, epoch.recording, session.data.train.labels)
    record = metrics_record(epoch, session.data.test, session.data.classes)
    store.add_metrics(record)
    schedule.runner.board.metrics(record)
    print_epoch(epoch, session.recipe.epochs, is_pretrained=session.network.is_pretrained)
    schedule.add_epoch(epoch)


def _finish(session: Session, schedule: Schedule) -> None:
    """Record the end of the run, update the report and print the summary."""
    session.store.check_present()
    session.store.write_run(finished_record(session.store))
    schedule.write_report()
    cast(Logs, schedule.runner.board).close("finished")
    _show_end(session)


def _show_end(session: Session) -> None:
    """Print the summary and, with --open, open the report."""
    print_summary(session.store)
    if session.config.open:
        open_report(session.store)
