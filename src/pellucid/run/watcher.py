"""`pellucid.watch`: hooks, metrics and report in the user's training loop."""

import atexit
import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Annotated, Any, cast
from weakref import ref

import torch
from torch import Tensor

from pellucid.config import HookConfig
from pellucid.core.budget import find_budget
from pellucid.core.checksum import fingerprint
from pellucid.core.errors import ConfigError, PellucidError, SaveError
from pellucid.core.isolation import isolated, preserved_random_state
from pellucid.core.options import check_argument
from pellucid.core.ranges import Range
from pellucid.core.terminal import print_line, track
from pellucid.engine.model import frozen
from pellucid.engine.wrapping import Network
from pellucid.jacobians._native.decision import decided
from pellucid.run.console import print_pictures, report_uri
from pellucid.run.hook_runner import Failure, HookRunner, Output, is_shown, make_films, make_report
from pellucid.run.native import Kernel
from pellucid.run.observation import Observation, Options, observe
from pellucid.run.record import record_end, timestamp
from pellucid.run.session import check_same_metadata
from pellucid.storage.lock import locked
from pellucid.storage.loggers import Logs, check_loggers, open_logs
from pellucid.storage.ownership import check_ours

__all__ = ["Watcher", "watch"]


def watch(
    model: Network,
    data: Any,
    *,
    classes: Sequence[str] | None = None,
    save: str | Path = "save",
    training_data: Any = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preprocess: Any = None,
    hooks: str | Sequence[str] = "default",
    methods: str | Sequence[str] | None = None,
    embedding_layer: str | None = None,
    budget: str = "default",
    metadata: Any = None,
    seed: int = 0,
    every: int | None = None,
    resume: bool | None = None,
    start_epoch: int = 0,
    log_to: str | Sequence[str] = (),
) -> "Watcher":
    """Watch a training loop: write figures, metrics, TensorBoard logs and the report, before training and after epochs.

    Call `epoch` on the returned watcher after each epoch, and `close` at the end, or use it as a context manager. If it
    is still open when the program ends, the run counts as interrupted. Watching leaves weights, mode, gradients,
    buffers, module hooks and random state unchanged, so training gives the same weights with and without it. The model
    may be compiled, on any device, trained under autocast, or wrapped for distributed training, where only rank 0 does
    any work.

    Args:
        model: a module from images to logits (image, class), or to an output with the attribute `logits`.
        data: test images with labels: a data set, a `DataLoader`, or a pair (images, labels). Tensors are
            passed to the model as they are; PIL images are preprocessed. Larger data is sampled, stratified by class.
        classes: class names, one per logit. Default: those of the data set or the model, otherwise numbers.
        save: the save folder. An earlier part of this training there is continued, see `resume`; another run is moved
            to `previous/`.
        training_data: like `data`, for prototypes and for methods that are fitted to data.
        mean: with `std`, the normalization of the model's input, one value per channel, used to display images and to
            convert derivatives to units of the displayed pixel. Default: that of the model, if it is known.
        std: see `mean`.
        preprocess: preprocessing of PIL images, such as the transform of torchvision's weights.
        hooks: names of hooks, `default`, `all` or `none`.
        methods: names of attribution methods. Default: chosen by each hook.
        embedding_layer: the layer whose input is the embedding. Default: the last linear layer.
        budget: limit on the cost of the hooks: `small`, `default` or `large`.
        metadata: a table with one row per image of `data`, in their order: a .parquet, .arrow, .feather or .csv file, a
            dict of columns, or a data frame. The default hooks then include `slices`.
        seed: seed of the sample and of all draws of the hooks.
        every: run hooks after every so many epochs. Default: after epochs 0 to 5, then 10, 20, 50, 100… and the last;
            metrics and the report follow every epoch.
        resume: True to continue the training in `save` after its last recorded epoch, False to start a new run.
            Default: continue if the weights are those of a recorded epoch, or if the earlier part was interrupted.
        start_epoch: number of epochs that the model was trained for before watching starts, if there is no earlier part
            to continue.
        log_to: experiment trackers that receive scalars, figures and the report in addition to TensorBoard:
            `trackio`, `mlflow`, `wandb`.

    Raises a `PellucidError` before any work if the model, the data or a choice is invalid. After that, failures of
    hooks and unexpected errors are recorded. If the save folder can no longer be written, the watcher warns once and
    stops. The training continues in either case.

    >>> from tempfile import mkdtemp
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> images, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    >>> with watch(model, (images, labels), save=mkdtemp(), hooks="confusion_matrix") as watcher:
    ...     watcher.epoch(train_loss=0.7)
    pellucid ...
    """
    options = Options(
        save=Path(save).expanduser(),
        classes=classes,
        training_data=training_data,
        preprocessing={"mean": mean, "std": std, "preprocess": preprocess},
        show=shown(hooks, methods, embedding_layer, budget, log_to),
        metadata=metadata,
        seed=seed,
    )
    check_argument("watch", "every", every, Annotated[int, Range(1)] | None)
    check_argument("watch", "start_epoch", start_epoch, Annotated[int, Range(0)])
    if not is_first_process():
        return Watcher(None, every=every)
    with preserved_random_state():  # reading the data may draw random numbers
        watcher = Watcher(observe("watch", model, data, options), every=every)
    watcher.open(resume, start_epoch)
    return watcher


def shown(
    hooks: str | Sequence[str],
    methods: str | Sequence[str] | None,
    embedding_layer: str | None,
    budget: str,
    log_to: str | Sequence[str],
) -> HookConfig:
    """Return the options as flags of the command line. Raises `UnknownName` for an unknown budget."""
    return HookConfig(
        hooks=_listed(hooks),
        methods=None if methods is None else _listed(methods),
        embedding_layer=embedding_layer,
        budget=cast(Any, find_budget(budget).name),
        log_to=_listed(log_to) or None,
    )


def _listed(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ",".join(names)


def is_first_process() -> bool:
    """Return True in the process of rank 0, and without distributed training."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


class Watcher:
    """Runs hooks on a user's model and writes their results; created by `pellucid.watch`.

    `observation` is None in the other processes of a distributed training, where the methods do nothing.
    """

    def __init__(self, observation: Observation | None, *, every: int | None = None) -> None:
        self._seen, self._every = observation, every
        self._stack = ExitStack()
        self._runner: HookRunner | None = None
        self._logs: Logs | None = None
        self.last_epoch: int | None = None
        """The last epoch that was recorded; 0 before training."""
        self._last_shown: int | None = None
        self._has_stopped = False
        self._is_native = False
        """True if the hooks use the native Jacobian kernel."""
        self._at_exit: Callable[[], None] | None = None
        self._since = perf_counter()

    def open(self, resume: bool | None = None, start_epoch: int = 0) -> None:
        """Lock the save folder, continue the run there or move it aside, and show the model before training."""
        with preserved_random_state():
            self._open(resume, start_epoch)

    def _open(self, resume: bool | None, start_epoch: int) -> None:
        seen = self._observation
        store = seen.store
        logits = seen.logits()  # before the folder is changed, because the model may fail
        check_ours(store.folder)
        self._stack.enter_context(locked(store.folder))
        try:
            weights = fingerprint(seen.model)
            at = _place_to_continue(seen, weights, resume)
            check_same_metadata(seen.metadata, store.run() if at is not None else {}, "pass resume=False")
            moved = store.move_previous_run() if at is None else store.set_aside_after(at)
            earlier = store.run() if at is not None else {}
            started = earlier.get("timing", {}).get("started")
            kept = {"jacobian_kernel": earlier.get("jacobian_kernel", "generic" if earlier else None)}
            record = seen.record() | kept
            store.begin(record | {"timing": record["timing"] | ({"started": started} if started else {})})
            # never built here, since the budget bounds the cost of the hooks
            with Kernel(store, kept["jacobian_kernel"], on_cpu=seen.device.type == "cpu") as kernel:
                self._is_native = kernel.is_native()
                kernel.record()
            trackers = check_loggers(seen.options.show.log_to)
            logs = open_logs(store.folder, trackers, store.run(), None if at is None else at + 1)
            self._stack.enter_context(logs)
            logs.add_earlier(store.metrics())
        except BaseException:
            self._stack.close()
            raise
        self._logs, self._runner = logs, HookRunner(store, logs)
        if seen.kind == "watch":
            self._at_exit = partial(_close_at_exit, ref(self), os.getpid())
            atexit.register(self._at_exit)
        self.last_epoch = at
        if moved is not None:
            what = "the earlier run" if at is None else f"the epochs after {at}"
            print_line(f"pellucid: moved {what} to {moved}.")
        if at is None:
            with frozen(seen.seen):
                logs.graph(seen.seen, seen.test.images.floats([0]).to(seen.device))
            self._guarded(lambda: self._show_epoch(start_epoch, {}, logits))
        else:
            is_known = any(line["epoch"] == at and line.get("weights") == weights for line in store.metrics())
            unknown = "" if is_known else ", whose weights were others; pass resume=False for a new training"
            print_line(f"pellucid: continuing after epoch {at} in {store.folder}{unknown}.")
            if is_known:
                self._guarded(lambda: self._complete(at, logits))

    def epoch(self, number: int | None = None, **metrics: float | Tensor | None) -> None:
        """Record an epoch that has just been trained: hooks, metrics, TensorBoard and the report.

        Args:
            number: number of the epoch, from 1 on; default: the one after the last. A repeated one is replaced.
            metrics: metrics of the training. `train_loss`, `train_accuracy`, `validation_loss`, `validation_accuracy`
                and `learning_rate` appear in the learning curves; others become scalars in TensorBoard.

        Raises `ConfigError` for an invalid number or a metric that is not a number, and if the watcher is closed.
        """
        if self._seen is None:
            return
        given = {name: _number(name, value) for name, value in metrics.items() if value is not None}
        check_argument("Watcher.epoch", "number", number, Annotated[int, Range(0)] | None)
        if self._has_stopped:  # and has warned
            return
        if self._runner is None:
            raise ConfigError("this watcher is closed; start another one with pellucid.watch.")
        at = (self.last_epoch or 0) + 1 if number is None else number
        seconds = perf_counter() - self._since
        self._guarded(lambda: self._show_epoch(at, given, seconds=seconds))
        self._since = perf_counter()

    def close(self, status: str = "finished") -> None:
        """Run the end hooks, write the films, the last report and the final run.json, and release the save folder.

        `status` is `finished`, or `interrupted` or `failed`, after which no end hooks run. Closing twice does nothing.
        """
        if self._seen is None or self._runner is None:
            return
        try:
            if status == "finished":
                status = "finished" if self._guarded(self._finish) else "failed"
            if status != "finished" and self._runner is not None:
                record_end(self._seen.store, status)
                with suppress(Exception):  # the cause of the failure may not allow it
                    self._report()
        finally:
            self._release(status)

    def _release(self, status: str) -> None:
        """Close the logs and unlock the save folder."""
        self._runner = None
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
        try:
            if self._logs is not None:
                self._logs.close(status)
        finally:
            self._stack.close()

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        self.close("finished" if error is None else "interrupted" if interrupted else "failed")

    @property
    def _observation(self) -> Observation:
        assert self._seen is not None
        return self._seen

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Run `work` and return True if it succeeds: no failure ends the training, which matters more.

        If the save folder fails, warn once and stop watching; record any other failure.
        """
        try:
            with preserved_random_state():
                work()
            return True
        except (SaveError, OSError) as error:
            if self._observation.kind == "inspect":
                raise
            self._stop(error)
        except Exception as error:  # such as a device without memory for a copy of the buffers
            if self._observation.kind == "inspect" or self._runner is None:
                self._abandon("failed")
                raise
            try:
                self._runner.keep_failure(Failure.of("watch", self.last_epoch or 0, error))
            except (SaveError, OSError) as reason:
                self._stop(reason)
        except BaseException as error:  # Ctrl-C in a hook
            self._abandon("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        return False

    def _stop(self, error: Exception) -> None:
        """Warn that nothing can be written any more, and watch no longer."""
        self._has_stopped = True
        self._abandon("failed")
        warnings.warn(f"pellucid has stopped watching: {error}", RuntimeWarning, stacklevel=4)

    def _abandon(self, status: str) -> None:
        """Record the end of a watcher that cannot continue, and release the save folder."""
        if self._runner is not None:
            record_end(self._observation.store, status)
            with suppress(Exception):  # the cause of the failure may not allow it
                self._report()
            self._release(status)

    def _show_epoch(
        self, number: int, given: Mapping[str, float], logits: Tensor | None = None, *, seconds: float | None = None
    ) -> None:
        """Record the metrics of an epoch and run its hooks if they are due; `seconds` is the training time."""
        seen, runner = self._observation, self._open_runner
        runner.store.check_present()
        self.last_epoch = number  # also if something fails below
        started, failures = perf_counter(), self._count("failures")
        try:
            logits = seen.logits() if logits is None else logits
        except PellucidError as error:
            runner.keep_failure(Failure.of("evaluation", number, error))
            return
        line = seen.metrics(number, logits, given, fingerprint(seen.model))
        line["timing"] = {"seconds": None if seconds is None else round(seconds, 3), "images_per_second": None}
        runner.store.add_metrics(line)
        runner.board.metrics(line)
        runner.board.scalars(line.get("given", {}), number)
        pictures = 0
        is_first = seconds is None  # the initial model, whatever its epoch
        if is_first or self._is_due(number):
            pictures = self._run_hooks("epoch", number, logits)
            self._last_shown = number
        self._report()
        failed = self._count("failures") - failures
        print_line(
            f"pellucid  {seen.moment(number) or seen.test.title}: test accuracy {line['test_accuracy']:.2%} on "
            f"{len(seen.test.images):,} images, {pictures} {'figure' if pictures == 1 else 'figures'}"
            + (f", {failed} failed" if failed else "")
            + f" ({perf_counter() - started:.1f} s)  {report_uri(runner.store) if number == 0 else ''}".rstrip()
        )

    def _is_due(self, number: int) -> bool:
        return number % self._every == 0 if self._every else is_shown(number, None)

    def _complete(self, number: int, logits: Tensor) -> None:
        """Run the hooks of a recorded epoch that a killed process has left out."""
        store = self._open_runner.store
        if number == store.metrics()[0]["epoch"] or self._is_due(number):
            manifest = store.manifest()
            done = {
                one["hook"] for kind in ("artifacts", "failures") for one in manifest[kind] if one["epoch"] == number
            }
            if self._run_hooks("epoch", number, logits, without=done):
                self._report()
            self._last_shown = number

    @property
    def _open_runner(self) -> HookRunner:
        assert self._runner is not None
        return self._runner

    def _run_hooks(self, when: str, number: int, logits: Tensor, without: Collection[str] = ()) -> int:
        """Run the hooks for `when` and return the number of their figures."""
        seen, runner = self._observation, self._open_runner
        hooks = {name: hook for name, hook in seen.hooks.items() if hook.when == when and name not in without}
        if not hooks:
            return 0
        before = self._count("artifacts")
        with (
            decided(lambda: self._is_native),
            isolated(),
            frozen(seen.seen),
            track(f"hooks, {when}", len(hooks)) as bar,
        ):
            # one scene, whose computed values the hooks share
            scene = seen.scene(number, logits)
            for done, (name, hook) in enumerate(hooks.items()):
                bar.update(done, name)
                result = runner.run_one(name, hook, scene)
                runner.receive(result)
                if seen.kind == "inspect" and isinstance(result, Output):
                    print_pictures(name, None, result.seconds, [runner.store.folder / at for at in result.pictures()])
        return self._count("artifacts") - before

    def _count(self, what: str) -> int:
        entries = self._open_runner.store.manifest()[what]
        return sum(what == "failures" or entry["kind"] == "figure" for entry in entries)

    def _finish(self) -> None:
        seen, runner = self._observation, self._open_runner
        number = self.last_epoch or 0
        try:
            logits = seen.logits()
        except PellucidError as error:  # a user may convert the trained model
            runner.keep_failure(Failure.of("evaluation", number, error))
        else:
            if number != self._last_shown and number:
                self._run_hooks("epoch", number, logits)  # the last epoch is always shown
            self._run_hooks("end", number, logits)
        make_films(runner.store, runner.receive)
        record, lines = runner.store.run(), runner.store.metrics()
        accuracy = lines[-1]["test_accuracy"] if lines else None
        end = {"status": "finished", "test_accuracy": accuracy, "epochs": number}
        runner.store.write_run(record | end | {"timing": record["timing"] | {"finished": timestamp()}})
        self._report()
        print_line(f"pellucid  report: {report_uri(runner.store)}")

    def _report(self) -> None:
        runner = self._open_runner
        make_report(runner.store, self.last_epoch or 0, runner.receive)


def _close_at_exit(watcher: "ref[Watcher]", process: int) -> None:
    """Close a watcher that the program has left open; not in a process forked from it."""
    left = watcher()
    if left is not None and os.getpid() == process:
        left.close("interrupted")


def _number(name: str, value: Any) -> float:
    """Return a metric as a float. Raises `ConfigError` if it is not a single number."""
    try:
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"the metric {name} is {value!r:.80}; expected a number.") from error
    return number if math.isfinite(number) else math.nan


def _place_to_continue(seen: Observation, weights: str, resume: bool | None) -> int | None:
    """Return the epoch after which the training in the save folder continues; None to start a new run.

    A restarted training has loaded a checkpoint, so its weights match a recorded epoch. Weights of epoch 0 mean that
    training starts from scratch.
    """
    record = seen.store.run()
    if record.get("kind") != seen.kind or seen.kind == "inspect":
        if resume:
            raise SaveError(f"there is no watched training to resume in {seen.store.folder}; pass resume=False.")
        return None
    data = record.get("dataset", {})
    is_same = (data.get("sha256"), data.get("classes")) == (seen.test.sha256, list(seen.classes))
    lines = seen.store.metrics()
    if resume is False or not lines or (not is_same and not resume):
        return None
    if not is_same:
        raise SaveError(
            f"the training in {seen.store.folder} was watched on other test images or classes, so it cannot be "
            "continued; pass the same data, or resume=False."
        )
    if resume:
        return int(lines[-1]["epoch"])
    matching = [int(line["epoch"]) for line in lines if line.get("weights") == weights]
    if matching:
        return max(matching) or None
    return int(lines[-1]["epoch"]) if record.get("status") != "finished" else None
