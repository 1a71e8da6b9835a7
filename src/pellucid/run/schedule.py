"""The schedule of a run: hooks of an epoch while the next one trains, then end hooks, films and report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from pellucid.core.errors import PellucidError
from pellucid.core.terminal import print_line, track
from pellucid.hooks import Hook, Scene
from pellucid.run.console import print_pictures, print_report_path
from pellucid.run.hook_runner import Failure, HookRunner, Output, is_shown, make_films, make_report
from pellucid.run.native import Kernel
from pellucid.run.session import Session
from pellucid.run.workers import Job, Work, Workers
from pellucid.storage.store import Packed
from pellucid.storage.weights import pack_weights
from pellucid.training.interrupt import deferred_interrupt
from pellucid.training.loop import Epoch

__all__ = ["Schedule"]

SECONDS_BETWEEN_UPDATES = 0.2


class Schedule:
    """Hands the hooks, films and reports of a run to `workers`, and writes what comes back.

    The hooks of an epoch run one after the other in one process, and those of the next epoch follow them, because a
    hook receives its arrays of the previous epoch. Density fits and end hooks each get a separate process.
    Without workers, everything runs at once in this process.
    """

    def __init__(self, session: Session, runner: HookRunner, workers: Workers, kernel: Kernel) -> None:
        self.session, self.store, self.runner, self.workers = session, session.store, runner, workers
        self.kernel = kernel
        self._latest: tuple[Job, ...] = ()  # the report of the latest epoch
        self._fits: tuple[Job, ...] | None = None
        self._best: Epoch | None = None
        self._has_report = False

    def add_unfinished(self, start_epoch: int) -> None:
        """Add the hooks that were not finished when the run that is now resumed at `start_epoch` was interrupted."""
        unfinished = self.store.unfinished_epochs()
        for record in self.store.metrics():  # TensorBoard discards these values, too, if it discards their epoch
            if unfinished and unfinished[0] <= record["epoch"] < start_epoch:
                self.runner.board.restore(record)
        for epoch in unfinished:
            if epoch < start_epoch:
                self._add_epoch(epoch, partial(self.session.restored_scene, epoch))
            else:  # the training yields this epoch again
                self.store.remove_model(self.store.unfinished_name(epoch))

    def add_epoch(self, epoch: Epoch) -> None:
        """Add the hooks of an epoch that has just finished, and a new report."""
        self._best = epoch if epoch.is_best else self._best
        number = epoch.number
        if not is_shown(number, self.session.recipe.epochs):
            if all(job.is_done for job in self._latest):  # otherwise, a report that will show this epoch is due anyway
                self._add_report(number)
            return
        hooks = self._hooks("epoch")
        if self.workers.limit and hooks:
            # the training goes on, so a resumed run needs these weights for the hooks that it lost
            self.store.write_model(self.store.unfinished_name(number), pack_weights(self.session.model))
        self._add_epoch(number, lambda: self.session.scene(number, epoch.test_logits, epoch.validation_logits))
        if self.workers.limit and number == 0:
            # After the first fork, so that the first pictures need not wait; later forks inherit these modules. torch's
            # optimizers import dynamo, which takes more than a second.
            for module in ("torch._dynamo", *(module for hook in hooks.values() for module in hook.imports)):
                import_module(module)
        self._fitted_for(self._hooks("end").values())  # densities do not depend on the network: there is time now

    def finish(self) -> None:
        """Run the end hooks and the films, and wait for everything that is left."""
        if self.workers.limit:
            self.workers.limit += 1  # from here on, this process only waits
        hooks, last, jobs = self._hooks("end"), self.session.recipe.epochs, list[Job]()
        if hooks:
            scene = self.session.final_scene(self._best)
            jobs = [self._hooks_job(name, last, {name: hook}, lambda: scene) for name, hook in hooks.items()]
        jobs.append(Job("films", partial(make_films, self.store), self._receive, self._latest, needs_snapshot=False))
        total = self.workers.left() + len(jobs)
        with track("end hooks", total) as bar:
            for added, job in enumerate(jobs):
                bar.update(total - self.workers.left() - len(jobs) + added, job.name)
                self.workers.add(job)
            with deferred_interrupt() as interrupted:  # not amid the files of a hook
                while self.workers.poll(SECONDS_BETWEEN_UPDATES):
                    bar.update(total - self.workers.left(), ", ".join(self.workers.running()))
                    interrupted.check()

    def write_report(self) -> None:
        """Write the report of the finished run."""
        make_report(self.store, self.session.recipe.epochs, self._receive)

    def _hooks(self, when: str) -> dict[str, Hook]:
        return {name: hook for name, hook in self.session.hooks.items() if hook.when == when}

    def _add_epoch(self, number: int, make_scene: Callable[[], Scene]) -> None:
        # a process that takes over from one that died has another model in its memory
        restored = partial(self.session.restored_scene, number)
        job = self._hooks_job(f"hooks of epoch {number}", number, self._hooks("epoch"), make_scene, restored)
        job.after += self._latest
        self._latest = (self.workers.add(job),)
        self._add_report(number)

    def _add_report(self, epoch: int) -> None:
        job = Job(f"report of epoch {epoch}", partial(make_report, self.store, epoch), self._receive, self._latest)
        job.needs_snapshot, job.is_urgent = False, True
        # the first one is wanted soon; later, hooks that wait for it go first, and another report follows them
        job.is_superseded = lambda: self._has_report and self._latest != (job,)
        self._latest = (job,)
        self.workers.add(job)

    def _hooks_job(
        self,
        name: str,
        epoch: int,
        hooks: Mapping[str, Hook],
        make_scene: Callable[[], Scene],
        restored: Callable[[], Scene] | None = None,
    ) -> Job:
        """Return a job that runs hooks; a hook whose process dies is tried once more before it counts as failed."""
        left, tried = dict(hooks), set[str]()

        def work(scene: Callable[[], Scene], send: Callable[[Any], None]) -> None:
            self.runner.run(dict(left), lambda: self._without_writing(scene()), send)

        def finish(result: Output | Failure) -> None:
            del left[result.name]
            self._receive(result)
            if restored is not None and not left:
                self.store.remove_model(self.store.unfinished_name(epoch))

        def remaining(reason: str) -> Work:
            hook = next(iter(left), None)  # they run in this order
            if hook in tried:
                finish(Failure(hook, epoch, f"{reason}, twice", reason))
            elif hook is not None:
                tried.add(hook)
                print_line(f"  hook {hook}: {reason}; running it again")
            return partial(work, restored or make_scene)

        return Job(
            name,
            partial(work, make_scene),
            finish,
            after=self._fitted_for(hooks.values()),
            remaining=remaining,
            # those of the epochs wait for each other; of the others, the longest go first: all cores then end together
            is_urgent=restored is not None or any(hook.is_slow for hook in hooks.values()),
        )

    def _without_writing(self, scene: Scene) -> Scene:
        """Return the scene as a child process sees it: it can fit a density, but only this process stores it."""
        return replace(scene, fitted=partial(self.session.densities.get, write=False)) if self.workers.limit else scene

    def _fitted_for(self, hooks: Iterable[Hook]) -> tuple[Job, ...]:
        """Return the job that fits the densities of `hooks`, if there is any; adds it on the first call."""
        # hooks use no densities under a budget
        is_limited = self.session.config.show.budget is not None
        names = [] if is_limited else sorted({name for hook in hooks for name in hook.densities})
        if names and self._fits is None:
            self._fits = (self.workers.add(self._fit_job(names)),) if self.workers.limit else ()
        return self._fits or () if names else ()

    def _fit_job(self, names: Sequence[str]) -> Job:
        """Return a job that fits densities, unless an earlier run has left them with the data."""
        densities = self.session.densities
        for name in names:
            with suppress(PellucidError):  # the hook that needs this density will fail with the same error
                densities.adopt(name)

        def fit(send: Callable[[Any], None]) -> None:
            for name in names:
                with suppress(PellucidError):
                    if densities.load(name) is None:
                        _, content = densities.fit(name, partial(_send_part, send, name))
                        send((name, content, True))

        def receive(result: tuple[str, bytes, bool]) -> None:
            name, content, is_complete = result
            self.store.check_present()
            (densities.write if is_complete else densities.write_checkpoint)(name, content)

        return Job("densities", fit, receive, is_ordered=False)

    def _receive(self, result: Output | Packed | bytes | Failure) -> None:
        """Write a result and print its path."""
        self.kernel.record()  # first, so that the rest of an interrupted run follows it
        self.runner.receive(result)
        match result:
            case Output():
                pictures = [self.store.folder / path for path in result.pictures()]
                print_pictures(result.name, result.epoch if result.is_repeated else None, result.seconds, pictures)
            case bytes() if not self._has_report:
                print_report_path(self.store)
                self._has_report = True


def _send_part(send: Callable[[tuple[str, bytes, bool]], None], name: str, checkpoint: bytes) -> None:
    """Send the checkpoint of a fit that is not complete."""
    send((name, checkpoint, False))
