"""Logits, embedding and densities of images in one forward pass, for the hook `out_of_distribution`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.core.errors import DataError
from pellucid.core.types import Embedding, Images, Logits
from pellucid.densities import Density
from pellucid.diagnostics import negative_log_density
from pellucid.hooks._hook import Scene
from pellucid.hooks._outputs import OutputReader, images_per_pass

__all__ = ["Reader", "Reading"]

NO_DENSITY = "the budget (--budget) does not cover fitting a density to the training images"


@dataclass(frozen=True, eq=False)
class Reading:
    """Outputs of the network and the densities for some images, on the CPU."""

    logits: Logits
    embedding: Embedding | None
    """None if the model has no embedding."""
    densities: Mapping[str, Tensor]
    """Negative log-densities in nats."""

    @property
    def is_finite(self) -> Tensor:
        """(image,): True for images without NaN or infinite values."""
        parts = [part for part in (self.logits, self.embedding) if part is not None]
        columns = [part.isfinite().all(1) for part in parts] + [one.isfinite() for one in self.densities.values()]
        return torch.stack(columns).all(0)

    def __getitem__(self, chosen: Tensor) -> "Reading":
        embedding = None if self.embedding is None else self.embedding[chosen]
        return Reading(self.logits[chosen], embedding, {name: one[chosen] for name, one in self.densities.items()})


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads logits, embedding and densities of images."""

    scene: Scene
    outputs: OutputReader
    densities: Mapping[str, Density] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """Reasons for the missing `embedding` and for each missing density."""

    @classmethod
    def of(cls, scene: Scene, density_names: Iterable[str] = ()) -> "Reader":
        """Prepare the readings for the scene's model: find the embedding, and load or fit the densities."""
        outputs = OutputReader.of(scene)
        refused = {} if outputs.refused is None else {"embedding": outputs.refused}
        densities: dict[str, Density] = {}
        for name in density_names:
            try:
                densities[name] = _density(scene, name)
            except DataError as error:
                refused[name] = str(error)
        return cls(scene, outputs, densities, refused)

    def read(self, parts: Iterable[Tensor]) -> Reading:
        """Read images, given in parts that fit into memory."""
        readings = [self._read(part.to(self.scene.device)) for part in parts]
        embeddings = [one.embedding for one in readings if one.embedding is not None]
        return Reading(
            torch.cat([one.logits for one in readings]),
            torch.cat(embeddings) if embeddings else None,
            {name: torch.cat([one.densities[name] for one in readings]) for name in self.densities},
        )

    def test(self, indices: Tensor) -> Reading:
        """Read test images, whose logits are known; under a budget, images of `scene.embedded`."""
        densities = {
            name: torch.cat([negative_log_density(density, part) for part in self._parts(indices)])
            for name, density in self.densities.items()
        }
        return Reading(self.scene.logits[indices].float().cpu(), self._embedding(indices), densities)

    def _embedding(self, indices: Tensor) -> Embedding | None:
        if self.outputs.tap is None:
            return None
        if self.scene.budget is not None:
            # shared with other hooks
            return self.scene.embedding[torch.searchsorted(self.scene.embedded, indices)]
        return torch.cat([self.outputs.tap.read(part).cpu() for part in self._parts(indices)])

    def _parts(self, indices: Tensor) -> Iterable[Images]:
        at_once = images_per_pass(self.scene)
        return (self.scene.test.floats(part).to(self.scene.device) for part in indices.split(at_once))

    def _read(self, images: Images) -> Reading:
        output = self.outputs.read(images)
        embedding = None if output.embedding is None else output.embedding.cpu()
        densities = {name: negative_log_density(density, images) for name, density in self.densities.items()}
        return Reading(output.logits.cpu(), embedding, densities)


def _density(scene: Scene, name: str) -> Density:
    if scene.budget is not None:
        raise DataError(NO_DENSITY)
    if not scene.is_displayed:
        low, high = scene.test.scale
        raise DataError(f"densities need pixels in [0, 1], but the images are drawn from {low:.3g} to {high:.3g}")
    if scene.train is None:
        raise DataError("no training images were given")
    return scene.density(name)
