"""The training loop, as a generator of finished epochs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from time import monotonic
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from pellucid.core.contracts import DataSplits
from pellucid.core.errors import ModelError, TrainingError
from pellucid.core.seeding import derive_seed, seed_everything
from pellucid.core.terminal import Tracker, track
from pellucid.core.types import Logits, ValidationLogits
from pellucid.training.checkpoint import Progress, TrainingState
from pellucid.training.distributed import World
from pellucid.training.evaluate import Score, evaluate, score
from pellucid.training.interrupt import deferred_interrupt
from pellucid.training.recording import Recorder, Recording

__all__ = ["Batches", "Epoch", "Recipe", "train"]

SECONDS_BETWEEN_CHECKPOINTS = 25.0
WARM_UP_SHARE = 0.1
"""Share of all steps in which the learning rate rises to its peak."""
START_SHARE = 25.0
"""The peak learning rate divided by that of the first step."""


Batches: TypeAlias = Callable[[int, int], Iterable[tuple[Tensor, Tensor]]]
"""A function from an epoch and its first step to one (images, labels) pair per step; images are floats in [0, 1]."""


@dataclass(frozen=True)
class Recipe:
    """Training hyperparameters."""

    epochs: int
    steps_per_epoch: int
    learning_rate: float = 0.01
    """Peak of the one-cycle schedule."""
    seed: int = 0
    precision: str = "float32"
    """`float32`, or `bf16` for mixed precision."""


@dataclass(frozen=True, eq=False)
class Epoch:
    """A finished epoch; number 0 is the untrained network."""

    number: int
    train: Score | None
    """Running score over the training batches; None at epoch 0."""
    validation: Score
    test: Score
    validation_logits: ValidationLogits
    test_logits: Logits
    learning_rate: float
    is_best: bool
    """True if no earlier epoch has a better validation score."""
    seconds: float
    """Clock time of the training alone, without predictions of a sample for the recording."""
    images: int
    """Training images seen in this epoch."""
    recording: Recording | None = None
    """Predictions recorded in this epoch; None without a recorder, and at epoch 0."""


def train(
    model: nn.Module,
    data: DataSplits,
    batches: Batches,
    recipe: Recipe,
    *,
    device: torch.device,
    world: World | None = None,
    start: TrainingState | None = None,
    keep: Callable[[TrainingState], None] = lambda _: None,
    recorder: Recorder | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place with AdamW and a one-cycle schedule, yielding each epoch when it is finished.

    The first epoch yielded is number 0, the untrained network; with `start`, it is the epoch in which `start` was
    saved. Every step seeds its random numbers from the seed and its position, so nothing that happens between steps
    affects the result. If `start` was saved by training for another number of epochs, the remaining steps get a new
    one-cycle schedule, from the saved weights and optimizer state.

    `keep` receives the training state at the end of each epoch (before it is yielded), at least every 30 seconds, and
    on Ctrl-C or SIGTERM, which raises `KeyboardInterrupt` between two steps.

    `recorder` records predictions on training images, which are part of the state and, once complete, of the epoch.

    Raises `TrainingError` if the loss or a weight is not finite, before such a state is saved.
    """
    trainer = _Trainer(model, data, batches, recipe, device, world or World(), keep, recorder)
    # epoch 0 is finished at once: it is the network before any step
    progress = trainer.restore(start) if start is not None else Progress()
    if progress.epoch == 0:
        yield trainer.finish(progress)
        progress = trainer.next_epoch(progress)
    while progress.epoch <= recipe.epochs:
        progress = trainer.run_epoch(progress)
        yield trainer.finish(progress)
        progress = trainer.next_epoch(progress)


class _Trainer:
    """State shared by all epochs: model, optimizer, schedule and the best score so far."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSplits,
        batches: Batches,
        recipe: Recipe,
        device: torch.device,
        world: World,
        keep: Callable[[TrainingState], None],
        recorder: Recorder | None,
    ) -> None:
        self.model, self.data, self.batches, self.recipe = model, data, batches, recipe
        self.device, self.world, self.keep, self.recorder = device, world, keep, recorder
        self.parallel = self.world.parallel(model)
        # worse than any score, so that epoch 0 always counts as best and writes its weights
        self.best = Score(loss=float("inf"), accuracy=-1.0)

    # created on first use, after epoch 0, because torch takes more than a second to import what optimizers need
    @cached_property
    def optimizer(self) -> AdamW:
        # frozen parameters stay as they are, and need no optimizer state
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return AdamW(trained, lr=self.recipe.learning_rate, fused=self.device.type in ("cpu", "cuda"))

    @cached_property
    def schedule(self) -> OneCycleLR:
        return self._new_schedule(0)

    def _new_schedule(self, start: int) -> OneCycleLR:
        """Return a one-cycle schedule from step `start` of the run to its last step."""
        steps = self.recipe.epochs * self.recipe.steps_per_epoch - start
        warm_up = min(max(WARM_UP_SHARE, 1.5 / steps), 0.99)  # OneCycleLR divides by zero if it is exactly one step
        peak = self.recipe.learning_rate
        return OneCycleLR(self.optimizer, peak, steps, pct_start=warm_up, div_factor=START_SHARE)

    def restore(self, state: TrainingState) -> Progress:
        schedule = self.schedule  # its creation changes the optimizer, so it comes before the optimizer's state
        try:
            self.model.load_state_dict(state.model)
            self.optimizer.load_state_dict(dict(state.optimizer))
            schedule.load_state_dict(dict(state.schedule))
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(
                f"the checkpoint does not fit the model, whose code may have changed: {error}. "
                "Restore the old code, or start over without --resume."
            ) from error
        self.best = Score(loss=state.progress.best_loss, accuracy=state.progress.best_accuracy)
        if self.recorder is not None:
            self.recorder.restore(state.progress, state.recording)
        return state.progress

    def next_epoch(self, progress: Progress) -> Progress:
        """Return the start of the next epoch.

        It holds the best score of the finished epochs: a run resumed within the next one judges it as an uninterrupted
        run would.
        """
        best = self.best
        return Progress(
            progress.epoch + 1,
            best_accuracy=best.accuracy,
            best_loss=best.loss,
            schedule_start=progress.schedule_start,
        )

    def _extend(self, progress: Progress, schedule: OneCycleLR) -> Progress:
        """Begin a new schedule if the current one was made for another number of epochs."""
        done = (progress.epoch - 1) * self.recipe.steps_per_epoch + progress.step
        whole = self.recipe.epochs * self.recipe.steps_per_epoch
        # an epoch that was finished when the run ended keeps its learning rate: the new schedule starts with the next
        if progress.step == self.recipe.steps_per_epoch or schedule.total_steps == whole - progress.schedule_start:
            return progress
        self.schedule = self._new_schedule(done)
        return replace(progress, schedule_start=done)

    def save(self, progress: Progress) -> None:
        """Pass the current state to `keep`, unless a weight is not finite."""
        weights = self.model.state_dict()
        for name, value in weights.items():
            if not torch.isfinite(value).all():
                raise TrainingError(f"{name} is no longer finite {self._position(progress)}. {HINT}")
        recorded = None if self.recorder is None or self.recorder.current is None else self.recorder.current.content()
        self.keep(TrainingState(progress, weights, self.optimizer.state_dict(), self.schedule.state_dict(), recorded))

    def run_epoch(self, progress: Progress) -> Progress:
        """Run the remaining steps of an epoch."""
        progress = self._extend(progress, self.schedule)
        self.parallel.train()
        if self.recorder is not None:
            self.recorder.begin(progress)
        total = self.recipe.steps_per_epoch
        # counts the time before an interruption of this epoch
        started, saved_at = monotonic() - progress.seconds, monotonic()
        label = f"epoch {progress.epoch} of {self.recipe.epochs}"
        with track(label, total) as tracker, deferred_interrupt() as interrupted:
            for images, labels in self.batches(progress.epoch, progress.step):
                progress = self._step(images, labels, progress)
                progress = replace(progress, seconds=monotonic() - started)
                started += self._look(progress)
                _report(tracker, progress)
                # all processes stop at the same step, because each step waits for the gradients of all of them
                if self.world.any(interrupted()):
                    break
                if monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS and progress.step < total:
                    self.save(progress)
                    saved_at = monotonic()
            if self.world.any(interrupted()):  # also catches a signal after the check in the last step
                self.save(progress)
                raise interrupted.error()
        # each process has seen other images, so running means differ
        self.world.share_buffers(self.model)
        self.save(progress)
        return progress

    def _step(self, images: Tensor, labels: Tensor, progress: Progress) -> Progress:
        # random layers such as dropout then depend only on the position, which makes runs resumable
        seed_everything(derive_seed(self.recipe.seed, "step", progress.epoch, progress.step, self.world.rank))
        images, labels = images.to(self.device), labels.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.parallel(images)
            loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        if self.recorder is not None:
            self.recorder.add(progress.step, logits, labels)
        correct = (logits.argmax(1) == labels).sum()
        sums = self.world.sum(torch.stack([loss.detach().float() * len(labels), correct.float()]).cpu()).tolist()
        # every process has an equal part of the batch
        images_seen = len(labels) * self.world.size
        progress = replace(progress, step=progress.step + 1, images=progress.images + images_seen)
        # before the optimizer step, so that the weights stay valid
        if not torch.isfinite(torch.tensor(sums[0])):
            rate = float(self.schedule.get_last_lr()[0])
            raise TrainingError(
                f"the loss is {sums[0] / images_seen} {self._position(progress)}, at learning rate {rate:.3g}. {HINT}"
            )
        self.optimizer.step()
        self.schedule.step()
        return replace(progress, loss_sum=progress.loss_sum + sums[0], correct=progress.correct + round(sums[1]))

    def _look(self, progress: Progress) -> float:
        """Record predictions of the sample if they are due, and return the clock time it took, in seconds."""
        started = monotonic()
        if self.recorder is not None:
            self.recorder.look(progress, self.model, self.device)
        return monotonic() - started

    def finish(self, progress: Progress) -> Epoch:
        """Evaluate the network in its current state."""
        parts = {"validation": self.data.validation, "test": self.data.test}
        logits = [evaluate(self.model, part, self.device, self.world) for part in parts.values()]
        for part, outputs in zip(parts, logits, strict=True):
            if not torch.isfinite(outputs).all():
                raise TrainingError(
                    f"the model's logits for the {part} images are not finite {self._position(progress)}. {HINT}"
                )
        validation, test = score(logits[0], self.data.validation), score(logits[1], self.data.test)
        # higher accuracy first, then lower loss
        is_best = (validation.accuracy, -validation.loss) > (self.best.accuracy, -self.best.loss)
        self.best = validation if is_best else self.best
        seen = progress.images
        return Epoch(
            number=progress.epoch,
            train=Score(progress.loss_sum / seen, progress.correct / seen) if seen else None,
            validation=validation,
            test=test,
            validation_logits=logits[0],
            test_logits=logits[1],
            learning_rate=self._learning_rate(progress),
            is_best=is_best,
            seconds=progress.seconds,
            images=seen,
            recording=None if self.recorder is None else self.recorder.finished(progress),
        )

    def _learning_rate(self, progress: Progress) -> float:
        if progress.epoch == 0:  # the schedule starts at a fixed share of the peak
            return self.recipe.learning_rate / START_SHARE
        return float(self.schedule.get_last_lr()[0])

    def _position(self, progress: Progress) -> str:
        return f"in epoch {progress.epoch}, step {progress.step} of {self.recipe.steps_per_epoch}"


HINT = (
    "Lower --learning-rate, or check the model for divisions by zero and logarithms of zero. "
    "The last valid checkpoint is kept."
)


def _report(tracker: Tracker, progress: Progress) -> None:
    rate = progress.images / progress.seconds if progress.seconds else 0.0
    note = f"loss {progress.loss_sum / progress.images:.4f}  accuracy {progress.correct / progress.images:.2%}"
    tracker.update(progress.step, f"{note}  {rate:,.0f} images/s")
