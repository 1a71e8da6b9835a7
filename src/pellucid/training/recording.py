"""Predictions recorded while a network trains: of each training image, and of a sample several times per epoch."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import DataError
from pellucid.core.isolation import preserved_random_state
from pellucid.core.types import Logits, Targets
from pellucid.training.checkpoint import Progress
from pellucid.training.distributed import World
from pellucid.training.evaluate import evaluate

__all__ = ["MOMENTS", "Recorder", "Recording"]

MOMENTS = 8
"""Number of times per epoch that the sample is predicted, or the number of steps if there are fewer."""
MOST_BYTES = 5_000_000
"""Maximum size of the sample's probabilities of all classes in one epoch; beyond it, they are not recorded."""
ABSENT = -1
"""Prediction of an image without one: not trained on in this epoch, or with probabilities that are not finite."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Predictions recorded in one epoch, on the CPU, with the images in the order of the training set.

    Where there is no prediction, it is −1 and its probability NaN.
    """

    epoch: int
    steps: int
    """Training steps in the epoch."""
    probabilities: Tensor
    """(image,): probability of the label in the training step of the image, before its update; float16."""
    predictions: Tensor
    """(image,): predicted class in the same step; int32."""
    sample: Tensor
    """(sampled,): indices of the sampled training images; int32."""
    moments: Tensor
    """(moment,): numbers of finished steps after which the sample was predicted, in eval mode; int32."""
    sample_probabilities: Tensor
    """(moment, sampled): probability of the label; float16."""
    sample_predictions: Tensor
    """(moment, sampled): predicted class; int32."""
    sample_distributions: Tensor | None
    """(moment, sampled, class): probabilities of all classes, float16; None if they would take more than 5 MB."""

    @classmethod
    def empty(cls, epoch: int, steps: int, images: int, sample: Tensor) -> "Recording":
        """Return the recording at the start of an epoch."""
        none, count = torch.zeros(0, dtype=torch.int32, device="cpu"), len(sample)
        return cls(
            epoch=epoch,
            steps=steps,
            probabilities=torch.full((images,), torch.nan, dtype=torch.float16, device="cpu"),
            predictions=torch.full((images,), ABSENT, dtype=torch.int32, device="cpu"),
            sample=sample,
            moments=none,
            sample_probabilities=none.to(torch.float16).reshape(0, count),
            sample_predictions=none.reshape(0, count),
            sample_distributions=None,
        )

    def content(self) -> dict[str, Any]:
        """Return the fields by name, as plain numbers and tensors."""
        return {name: value for name, value in asdict(self).items() if value is not None}


Order = Callable[[int], Tensor]
"""A function from an epoch to the indices (rank, image) of the images that each process trains on, in their order."""


class Recorder:
    """Records what `train` passes to it; training is the same, bit for bit, with and without.

    It reuses the logits of the training steps, and predicts the sample after fixed numbers of steps. Every process of a
    distributed run holds the complete recording.
    """

    def __init__(self, train: ImageSet, sample: Tensor, order: Order, steps: int, world: World | None = None) -> None:
        """Record the images of `train`, and those at the indices `sample` several times per epoch of `steps` steps."""
        self.train, self.sample, self.order, self.world = train, sample.int(), order, world or World()
        self.steps = steps
        self.current: Recording | None = None  # None also if the beginning of the current epoch is unknown
        # steps / MOMENTS, rounded up, and so on
        self.due = sorted({-(-steps * number // MOMENTS) for number in range(1, MOMENTS + 1)})

    def begin(self, progress: Progress) -> None:
        """Prepare to record the rest of an epoch."""
        if progress.step == 0:
            self.current = Recording.empty(progress.epoch, self.steps, len(self.train), self.sample)
        elif self.current is not None and self.current.epoch != progress.epoch:
            self.current = None
        # every process needs the indices of all processes, because each lists its own images by step
        self._indices = self.order(progress.epoch)

    def restore(self, progress: Progress, content: Mapping[str, Any] | None) -> None:
        """Continue with the recording in a checkpoint; without one, or with another sample, the epoch has none."""
        self.current = None
        try:
            saved = Recording(**{"sample_distributions": None, **(content or {})})
        except TypeError:  # a checkpoint of another version
            return
        images, sampled = (len(self.train),), (len(saved.moments), len(self.sample))
        fits = torch.equal(saved.sample, self.sample) and (saved.probabilities.shape, saved.steps) == (
            images,
            self.steps,
        )
        done = [step for step in self.due if step <= progress.step]
        if fits and saved.moments.tolist() == done and saved.sample_predictions.shape == sampled:
            self.current = saved

    def add(self, step: int, logits: Logits, labels: Targets) -> None:
        """Record the predictions of a training step, with step 0 the first of the epoch."""
        if self.current is None:
            return
        with torch.no_grad():
            probabilities, predictions = _predicted(logits, labels)
            # one transfer from a GPU; class indices are exact in float32
            own = torch.stack([probabilities, predictions.float()]).cpu()
        place = slice(step * len(labels), (step + 1) * len(labels))
        indices = self._indices[:, place]
        if not torch.equal(self.train.labels[indices[self.world.rank]], labels.cpu()):
            raise DataError(
                f"the labels of step {step} of epoch {self.current.epoch} are not those of the images that the "
                "recorder expects; pass the order in which the batches are drawn."
            )
        every = torch.zeros(self.world.size, *own.shape, device="cpu")
        every[self.world.rank] = own
        self.world.sum(every)
        # the first process last: its value counts if an incomplete batch repeats an image in several processes
        for part, (probability, prediction) in zip(indices.flip(0), every.flip(0), strict=True):
            self.current.probabilities[part] = probability.half()
            self.current.predictions[part] = prediction.int()

    def look(self, progress: Progress, model: nn.Module, device: torch.device) -> None:
        """Predict the sample if this is due after the finished steps; the model and the random state do not change."""
        current = self.current
        if current is None or progress.step not in self.due:
            return
        # running means differ between processes; their next step would begin with those of the first one, too
        self.world.share_buffers(model)
        with preserved_random_state():
            logits = evaluate(model, self.train, device, self.world, self.sample.long())
        probabilities, predictions = _predicted(logits, self.train.labels[self.sample.long()])
        distributions = current.sample_distributions
        if 2 * logits.numel() * len(self.due) <= MOST_BYTES:  # two bytes per float16
            earlier = logits.new_zeros(0, *logits.shape).half() if distributions is None else distributions
            distributions = torch.cat([earlier, logits.softmax(1).half()[None]])
        self.current = Recording(
            **vars(current)
            | {
                "moments": torch.cat([current.moments, current.moments.new_tensor([progress.step])]),
                "sample_probabilities": torch.cat([current.sample_probabilities, probabilities.half()[None]]),
                "sample_predictions": torch.cat([current.sample_predictions, predictions.int()[None]]),
                "sample_distributions": distributions,
            }
        )

    def finished(self, progress: Progress) -> Recording | None:
        """Return the recording of a finished epoch; None if a part of it is unknown."""
        is_finished = progress.step == self.steps and self.current is not None and self.current.epoch == progress.epoch
        return self.current if is_finished else None


def _predicted(logits: Logits, labels: Targets) -> tuple[Tensor, Tensor]:
    """Return the probability of the label and the predicted class of each image, NaN and −1 if it is not finite."""
    probabilities = logits.detach().float().softmax(1).gather(1, labels[:, None])[:, 0]
    return probabilities, logits.argmax(1).where(probabilities.isfinite(), ABSENT)
