"""The base class of hooks, and the scene that a hook receives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from pellucid.core.budget import Budget
from pellucid.core.contracts import Artifact, ImageSet, Metadata
from pellucid.core.errors import DataError, ModelError, SaveError, ShapeError
from pellucid.core.types import Embedding, Logits, ValidationLogits
from pellucid.densities import Density
from pellucid.engine.tap import Tap, find_embedding
from pellucid.storage.densities import fit_density
from pellucid.storage.recordings import Recorded

__all__ = ["EMBEDDED_IMAGES", "Hook", "Scene", "left_out", "missing_embedding", "missing_recording"]

EMBEDDED_IMAGES = 2000
"""Maximum number of test images in the embedding."""
VALUES_PER_PASS = 5_000_000
"""Approximate number of input values per forward pass, which bounds memory."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Input of a hook: the network after an epoch, the data and the user's choices."""

    epoch: int
    """Number of finished epochs; 0 is the untrained network."""
    model: nn.Module
    """The model on `device`, unwrapped and in its current mode. A hook must leave it unchanged."""
    device: torch.device
    test: ImageSet
    """The test images, on the CPU."""
    logits: Logits
    """Logits of all test images, on the CPU."""
    classes: tuple[str, ...]
    data_title: str
    """Name of the data set in figure titles."""
    seed: int
    chosen_classes: tuple[int, ...] | None = None
    """Classes selected by `--classes`; None if the flag is not given."""
    methods: tuple[str, ...] | None = None
    """Methods selected by `--methods`; None if the flag is not given."""
    embedding_layer: str | None = None
    """Layer selected by `--embedding-layer`; None to detect it."""
    validation: ImageSet | None = None
    """Images held out from training, on the CPU, to fit a few numbers such as a temperature; None if unavailable."""
    validation_logits: ValidationLogits | None = None
    """Logits of all validation images, on the CPU."""
    train: ImageSet | None = None
    """Training images, on the CPU, for methods that are fitted to data; None if unavailable."""
    fitted: Callable[[str], Density] | None = None
    """Function that returns the density of a given name, stored by the run; None to fit it on each call."""
    previous: Mapping[str, np.ndarray] | None = None
    """Arrays from the previous run of the same hook; None at its first epoch."""
    budget: Budget | None = None
    """Limit on the cost of all hooks of the epoch together; None: each hook's own default numbers of images."""
    weights_epoch: int | None = None
    """Epoch of the best checkpoint, whose weights the end hooks see; None during training."""
    recorded: Recorded | None = None
    """Predictions on training images, recorded while the network trained; None if it was trained elsewhere."""
    metadata: Metadata | None = None
    """Columns of `--metadata`: a mapping from their names to one value per test image; None if it is not given."""
    moment: str | None = None
    """Stage of training in figure titles, such as "epoch 3". Empty for a model trained elsewhere; None to derive it
    from `epoch`."""
    # `dataclasses.replace` passes the same dict on, so scenes that differ only in `previous` share the cache
    _computed: dict[str, Any] = field(default_factory=dict, repr=False)
    """Cache shared by the hooks of an epoch."""

    @property
    def title(self) -> str:
        """Prefix of figure titles: data set and epoch."""
        if self.moment is not None:
            return f"{self.data_title}, {self.moment}" if self.moment else self.data_title
        if self.weights_epoch is not None:
            return f"{self.data_title}, best checkpoint (epoch {self.weights_epoch})"
        return f"{self.data_title}, epoch {self.epoch}" + (" (untrained)" if self.epoch == 0 else "")

    @property
    def is_displayed(self) -> bool:
        """True if the images are in [0, 1], so that 0 and 1 bound every pixel and 0 is an empty image."""
        return self.test.scale == (0, 1)

    @property
    def scale_note(self) -> str:
        """Sentence about the pixel values drawn as black and white, with a leading space; empty for 0 and 1."""
        low, high = self.test.scale
        return "" if self.is_displayed else f" Pixels from {low:.3g} (black) to {high:.3g} (white)."

    @property
    def pixel_range(self) -> dict[str, tuple[float, float]]:
        """The same values as a number of an artifact, `pixel_range`; empty for 0 and 1."""
        return {} if self.is_displayed else {"pixel_range": self.test.scale}

    def shown_classes(self, at_most: int, *, with_images: bool = False) -> list[int]:
        """Return the classes that a figure shows, in order of their indices: those of `--classes`, or else all.

        If there are more than `at_most`, those with the most errors in the test images (as the true or the predicted
        class) are shown, with ties broken by the number of images. `with_images` leaves out classes without images.
        """
        labels, predictions = self.test.labels, self.logits.argmax(1)
        size = max(len(self.classes), self.logits.shape[1])
        images = torch.bincount(labels, minlength=size)
        wanted = self.chosen_classes if self.chosen_classes is not None else tuple(range(len(self.classes)))
        wanted = tuple(label for label in wanted if images[label] or not with_images)
        if self.chosen_classes is not None or len(self.classes) <= at_most:
            return list(wanted[:at_most])
        is_wrong = labels != predictions
        errors = torch.bincount(torch.cat([labels[is_wrong], predictions[is_wrong]]), minlength=size)
        return sorted(sorted(wanted, key=lambda label: (-int(errors[label]), -int(images[label]), label))[:at_most])

    def choice(self, shown: int) -> str:
        """Return a sentence on the selection by `shown_classes`, with a leading space; empty if all are shown."""
        if shown >= len(self.classes) or self.chosen_classes is not None:
            return ""
        return f" Shows {shown} of {len(self.classes):,} classes, those with the most errors first."

    def first_of_each_class(self, at_most: int) -> list[int]:
        """Return the index of the first test image of each of the `shown_classes` that has images."""
        wanted = self.shown_classes(at_most, with_images=True)
        return [int((self.test.labels == label).nonzero()[0]) for label in wanted]

    def density(self, name: str) -> Density:
        """Return the density `name` of the training images, on `device`, fitting it on first use.

        Raises `DataError` if it cannot be fitted to these images.
        """
        if self.fitted is not None:
            return self.fitted(name)
        if self.train is None:
            raise DataError(f"the density {name!r} needs training images; pass Scene(train=…).")
        return fit_density(name, self.train, seed=self.seed, device=self.device)

    @property
    def embedded(self) -> torch.Tensor:
        """Indices of the test images in the embedding: at most `EMBEDDED_IMAGES`, spread evenly over the test set."""
        count = min(len(self.test), EMBEDDED_IMAGES, self.budget.images if self.budget else EMBEDDED_IMAGES)
        return torch.arange(count) * len(self.test) // count

    @property
    def tap(self) -> Tap:
        """Access to the layer whose input is the embedding."""
        return find_embedding(self.model, self.test.floats([0]).to(self.device), self.embedding_layer)

    @property
    def embedding(self) -> Embedding:
        """Embedding of the `embedded` test images, on the CPU; computed once for all hooks of an epoch."""
        if "embedding" not in self._computed:
            tap = self.tap
            # in parts, which bounds the memory of the forward passes
            size = max(1, min(500, VALUES_PER_PASS // self.test.pixels[0].numel()))
            parts = [tap.read(self.test.floats(part).to(self.device)).cpu() for part in self.embedded.split(size)]
            self._computed["embedding"] = torch.cat(parts)
        return self._computed["embedding"]


def missing_embedding(scene: Scene) -> str | None:
    """Return the reason why the model has no embedding; None if it has one."""
    try:
        _ = scene.embedding
    except (ModelError, ShapeError) as error:
        return str(error)
    return None


def missing_recording(scene: Scene) -> str | None:
    """Return the reason why the recording of the training is missing or incomplete; None if it is complete."""
    if scene.recorded is None:
        return "only `pellucid run` records predictions on training images"
    try:
        scene.recorded.check(scene.epoch)
    except SaveError as error:
        return str(error)
    return None


def left_out(scene: Scene, reason: str) -> Artifact:
    """Return an artifact that says why a hook has nothing to show for `scene`; `reason` continues a sentence."""
    return Artifact(caption=f"{scene.title}: left out, because {reason}", name="left_out", numbers={"reason": reason})


class Hook(ABC):
    """Base class of hooks: a frozen dataclass of options with one method, `run`.

    A hook is registered under its file's name. It returns artifacts and never writes files itself; the store does. It
    leaves the model unchanged and draws all random numbers from `scene.seed`.

    >>> @dataclass(frozen=True)
    ... class MeanLogit(Hook):
    ...     def run(self, scene):
    ...         yield Artifact(caption=f"{scene.title}: mean logit", numbers={"mean": scene.logits.mean().item()})
    >>> images = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    >>> scene = Scene(3, nn.Identity(), torch.device("cpu"), images, torch.ones(2, 2), ("a", "b"), "Test", seed=0)
    >>> [(artifact.caption, artifact.numbers) for artifact in MeanLogit().run(scene)]
    [('Test, epoch 3: mean logit', {'mean': 1.0})]
    """

    when: ClassVar[Literal["epoch", "end"]] = "epoch"
    """When the hook runs: after every epoch, including epoch 0 (untrained), or once at the end with the best
    weights."""
    is_slow: ClassVar[bool] = False
    """True to start the hook first where end hooks run side by side, because it takes longer than the others."""
    densities: ClassVar[tuple[str, ...]] = ()
    """Densities of the training images that the hook uses; a run fits them while the network trains."""
    imports: ClassVar[tuple[str, ...]] = ()
    """Heavy modules that the hook imports on use; a run imports them once, for all processes that run the hook."""
    default: ClassVar[bool] = True
    """True if `--hooks default` includes this hook."""
    needs_recording: ClassVar[bool] = False
    """True for a hook that uses `Scene.recorded`, and is a default only where pellucid trains the network itself."""

    def derivatives(self, test_shape: tuple[int, ...], classes: int) -> int:  # noqa: ARG002  (for subclasses)
        """Return the approximate number of derivatives in all Jacobians of the hook each time it runs.

        `test_shape` is (image, channel, height, width). If a run has many, it compiles the native kernel first.
        """
        return 0

    @abstractmethod
    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield the artifacts of this hook for `scene`."""
