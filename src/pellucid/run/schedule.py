"""What runs when: the hooks of each epoch beside the training of the next, then the end hooks, films and report."""

from collections.abc import Callable, Mapping
from functools import partial

from pellucid.core.terminal import console, track
from pellucid.hooks import Hook, Scene
from pellucid.run.console import print_pictures, print_report_path
from pellucid.run.hook_runner import Failure, HookRunner, Output, is_shown, made_films, made_report
from pellucid.run.session import Session
from pellucid.run.workers import Job, Work, Workers
from pellucid.storage.atomic import write_bytes
from pellucid.storage.store import Packed
from pellucid.storage.weights import pack_weights
from pellucid.training.loop import Epoch

__all__ = ["Schedule"]

SECONDS_BETWEEN_UPDATES = 0.2


class Schedule:
    """Hands the hooks, films and reports of a run to `workers`, and writes what comes back.

    The hooks of an epoch run one after the other in one process, and those of the next epoch follow them, because a
    hook receives its arrays of the previous epoch. End hooks do not depend on each other. Without workers, everything
    runs at once in this process.
    """

    def __init__(self, session: Session, runner: HookRunner, workers: Workers) -> None:
        self.session, self.store, self.runner, self.workers = session, session.store, runner, workers
        self._latest: tuple[Job, ...] = ()  # the report of the latest epoch
        self._best: Epoch | None = None
        self._has_report = False

    def add_unfinished(self, start_epoch: int) -> None:
        """Add the hooks that were not finished when the run that is now resumed at `start_epoch` was interrupted."""
        for epoch in self.store.unfinished_epochs():
            if epoch < start_epoch:
                self._add_epoch(epoch, partial(self.session.restored_scene, epoch))
            else:  # the training yields this epoch again
                self.store.remove_model(self.store.unfinished_name(epoch))

    def add_epoch(self, epoch: Epoch) -> None:
        """Add the hooks of an epoch that has just finished, and a new report."""
        self._best = epoch if epoch.is_best else self._best
        number = epoch.number
        if not is_shown(number, self.session.recipe.epochs):
            self._add_report(number)
            return
        if self.workers.limit:  # the training goes on, so a resumed run needs these weights for hooks that it lost
            self.store.write_model(self.store.unfinished_name(number), pack_weights(self.session.model))
        self._add_epoch(number, lambda: self.session.scene(number, epoch.test_logits))

    def finish(self) -> None:
        """Run the end hooks and the films, and wait for everything that is left."""
        if self.workers.limit:
            self.workers.limit += 1  # from here on, this process only waits
        hooks = self._hooks("end")
        jobs = []
        if hooks:
            scene, epochs = self.session.final_scene(self._best), self.session.recipe.epochs
            jobs = [self._hooks_job(name, epochs, {name: hook}, lambda: scene) for name, hook in hooks.items()]
        jobs.append(Job("films", partial(made_films, self.store), self._receive, after=self._latest))
        total = self.workers.left() + len(jobs)
        with track("end hooks", total) as bar:
            for added, job in enumerate(jobs):
                bar.update(total - self.workers.left() - len(jobs) + added, job.name)
                self.workers.add(job)
            while self.workers.poll(SECONDS_BETWEEN_UPDATES):
                bar.update(total - self.workers.left(), ", ".join(self.workers.running()))

    def write_report(self) -> None:
        """Write the report of the finished run."""
        for result in made_report(self.store, self.session.recipe.epochs):
            self._receive(result)

    def _hooks(self, when: str) -> dict[str, Hook]:
        return {name: hook for name, hook in self.session.hooks.items() if hook.when == when}

    def _add_epoch(self, number: int, make_scene: Callable[[], Scene]) -> None:
        # a process that takes over from one that died has another model in its memory
        restored = partial(self.session.restored_scene, number)
        job = self._hooks_job(f"hooks of epoch {number}", number, self._hooks("epoch"), make_scene, restored)
        job.after = self._latest
        self._add_report(number, after=(self.workers.add(job),))

    def _add_report(self, epoch: int, after: tuple[Job, ...] = ()) -> None:
        def receive(result: bytes | Failure) -> None:
            self._receive(result)
            self.store.remove_model(self.store.unfinished_name(epoch))

        job = Job(f"report of epoch {epoch}", partial(made_report, self.store, epoch), receive, after or self._latest)
        self._latest = (self.workers.add(job),)

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

        def receive(result: Output | Failure) -> None:
            del left[result.name]
            self._receive(result)

        def remaining(reason: str) -> Work:
            hook = next(iter(left), None)  # they run in this order
            if hook in tried:
                del left[hook]
                self._receive(Failure(hook, epoch, f"{reason}, twice", reason))
            elif hook is not None:
                tried.add(hook)
                console().print(f"  hook {hook}: {reason}; running it again", markup=False)
            return partial(self.runner.run, dict(left), restored or make_scene)

        return Job(
            name,
            partial(self.runner.run, hooks, make_scene),
            receive,
            remaining=remaining,
            is_urgent=any(hook.is_slow for hook in hooks.values()),
        )

    def _receive(self, result: Output | Packed | bytes | Failure) -> None:
        """Write a hook's artifacts, a film or a report, or record a failure."""
        match result:
            case Failure():
                self.runner.keep_failure(result)
            case Output():
                self.runner.keep(result)
                pictures = [self.store.folder / path for path in result.pictures()]
                print_pictures(result.name, result.epoch if result.is_repeated else None, result.seconds, pictures)
            case Packed():
                self.store.keep(result)
            case bytes():
                write_bytes(self.store.folder / "report.html", result)
                if not self._has_report:
                    print_report_path(self.store)
                self._has_report = True
