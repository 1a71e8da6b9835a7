"""The contract of a hook, and what a hook sees."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from pellucid.core.contracts import Artifact, ImageSet
from pellucid.core.errors import DataError
from pellucid.core.types import Embedding, Logits
from pellucid.densities import Density
from pellucid.density_store import fit_density
from pellucid.engine.tap import Tap, find_embedding

__all__ = ["EMBEDDED_IMAGES", "FITTED_IMAGES", "Hook", "Scene"]

EMBEDDED_IMAGES = 2000
"""At most so many test images are embedded."""
FITTED_IMAGES = 5000
"""At most so many training images are shown to a method that learns from data."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a hook sees: the network after an epoch, and the test images."""

    epoch: int
    """Finished epochs; 0 is the untrained network."""
    model: nn.Module
    """The bare model, on `device`, in whatever mode it is; to be handed back as it was."""
    device: torch.device
    test: ImageSet
    """The test images, on the CPU."""
    logits: Logits
    """This model's logits of all test images, on the CPU."""
    classes: tuple[str, ...]
    data_title: str
    """Name of the data in pictures."""
    seed: int
    chosen_classes: tuple[int, ...] | None = None
    """The classes that `--classes` chose; None: no choice."""
    methods: tuple[str, ...] | None = None
    """The methods that `--methods` chose; None: no choice."""
    embedding_layer: str | None = None
    """The layer that `--embedding-layer` chose; None: found by itself."""
    train: ImageSet | None = None
    """The training images, on the CPU, for what learns from data; None: there are none."""
    fitted: Callable[[str], Density] | None = None
    """Gives the density of the training images with a name, kept in the save folder; None: it is fitted anew."""
    previous: Mapping[str, np.ndarray] | None = None
    """The arrays this same hook made at the epoch it last ran before this one; None at the first."""
    weights_epoch: int | None = None
    """At the end: the epoch whose weights these are, the best one."""
    _computed: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    """What several hooks of one epoch share."""

    @property
    def title(self) -> str:
        """What a picture's title begins with: data and epoch."""
        if self.weights_epoch is not None:
            return f"{self.data_title}, epoch {self.weights_epoch}, the best of {self.epoch}"
        return f"{self.data_title}, epoch {self.epoch}" + (" (untrained)" if self.epoch == 0 else "")

    def first_of_each_class(self, at_most: int) -> list[int]:
        """Indices of the first test image of each chosen class, by class; classes without a test image are left out."""
        wanted = self.chosen_classes if self.chosen_classes is not None else range(len(self.classes))
        firsts = ((self.test.labels == label).nonzero().flatten()[:1].tolist() for label in wanted)
        return [index for first in firsts for index in first][:at_most]

    def density(self, name: str) -> Density:
        """The density of the training images with a name, on `device`; fitted when first asked for.

        Raises `DataError` where it cannot be fitted to these images.
        """
        if self.fitted is not None:
            return self.fitted(name)
        if self.train is None:
            raise DataError(f"the density {name!r} needs training images; give them as Scene(train=…).")
        return fit_density(name, self.train, seed=self.seed, device=self.device)

    @property
    def embedded(self) -> torch.Tensor:
        """Indices of the embedded test images: at most `EMBEDDED_IMAGES`, spread evenly over the test set."""
        count = min(len(self.test), EMBEDDED_IMAGES)
        return torch.arange(count) * len(self.test) // count

    def training_batches(self) -> list[torch.Tensor]:
        """Indices of training images in batches: at most `FITTED_IMAGES`, spread evenly over the training set."""
        if self.train is None:
            return []
        count = min(len(self.train), FITTED_IMAGES)
        return list((torch.arange(count) * len(self.train) // count).split(500))

    @property
    def tap(self) -> Tap:
        """The layer whose input is the embedding."""
        return find_embedding(self.model, self.test.floats([0]).to(self.device), self.embedding_layer)

    @property
    def embedding(self) -> Embedding:
        """The embedding of the `embedded` test images, on the CPU: computed once for all hooks of an epoch."""
        if "embedding" not in self._computed:
            tap = self.tap
            parts = [tap.read(self.test.floats(part).to(self.device)).cpu() for part in self.embedded.split(500)]
            self._computed["embedding"] = torch.cat(parts)
        return self._computed["embedding"]


class Hook(ABC):
    """Something to do after an epoch: frozen knobs and one verb, `run`.

    A hook is a frozen dataclass, registered under its file's name. It never writes: the store does.
    """

    when: ClassVar[Literal["epoch", "end"]] = "epoch"
    """After every epoch (the untrained network included), or once at the end with the best weights."""
    default: ClassVar[bool] = True
    """Whether `--hooks default` runs it."""

    @abstractmethod
    def run(self, scene: Scene) -> Iterable[Artifact]:
        """What this hook has to show of `scene`."""
