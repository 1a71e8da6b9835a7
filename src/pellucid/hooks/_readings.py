"""Logits, embedding and densities of images in one forward pass, for the hook `out_of_distribution`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pellucid.core.errors import DataError, ModelError, ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.types import Embedding, Images, Logits
from pellucid.densities import Density
from pellucid.diagnostics import negative_log_density
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.tap import Tap, find_embedding
from pellucid.engine.wrapping import find_module, module_paths
from pellucid.hooks._hook import VALUES_PER_PASS, Scene

__all__ = ["Reader", "Reading", "images_per_pass"]

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


class _Recorded(nn.Module):
    """A model that keeps its last output, so that one forward pass gives the embedding and the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        # so that the names of layers stay those of the model
        inside = getattr(network, "wrapped_by_pellucid", None)
        self.wrapped_by_pellucid = f"network.{inside}" if isinstance(inside, str) else "network"
        self.training = network.training
        self.output: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.network(images)
        # copied, because the caller may write into it
        self.output = output.detach().clone()
        return output


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads logits, embedding and densities of images."""

    scene: Scene
    model: _Recorded
    tap: Tap | None
    densities: Mapping[str, Density] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """Reasons for the missing `embedding` and for each missing density."""

    @classmethod
    def of(cls, scene: Scene, density_names: Iterable[str] = ()) -> "Reader":
        """Prepare the readings for the scene's model: find the embedding, and load or fit the densities."""
        model, refused = _Recorded(scene.model), dict[str, str]()
        tap = None
        image = scene.test.floats([0]).to(scene.device)
        try:
            tap = find_embedding(model, image, _layer_in(model, scene.embedding_layer))
            tap.read(image)
        except (ModelError, ShapeError) as error:
            tap, refused["embedding"] = None, str(error)
        densities: dict[str, Density] = {}
        for name in density_names:
            try:
                densities[name] = _density(scene, name)
            except DataError as error:
                refused[name] = str(error)
        return cls(scene, model, tap, densities, refused)

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
        if self.tap is None:
            return None
        if self.scene.budget is not None:
            # shared with other hooks
            return self.scene.embedding[torch.searchsorted(self.scene.embedded, indices)]
        return torch.cat([self.tap.read(part).cpu() for part in self._parts(indices)])

    def _parts(self, indices: Tensor) -> Iterable[Images]:
        at_once = images_per_pass(self.scene)
        return (self.scene.test.floats(part).to(self.scene.device) for part in indices.split(at_once))

    def _read(self, images: Images) -> Reading:
        embedding = None
        if self.tap is not None:
            embedding = self.tap.read(images).cpu()
        else:
            with isolated(), frozen(self.model), torch.no_grad():
                self.model(images.to(dtype_of(self.model), copy=True))
        assert self.model.output is not None
        logits, self.model.output = self.model.output.float().cpu(), None
        densities = {name: negative_log_density(density, images) for name, density in self.densities.items()}
        return Reading(logits, embedding, densities)


def _layer_in(model: _Recorded, layer: str | None) -> str | None:
    """Return the path in the recorded model of a layer of the model itself."""
    if layer is None or layer in dict(module_paths(model)):
        return layer
    find_module(model.network, layer)  # raises an error with the user's names
    return f"network.{layer}"


def images_per_pass(scene: Scene) -> int:
    """Return the number of images per forward pass, which bounds memory."""
    return max(1, min(500, VALUES_PER_PASS // max(1, scene.test.pixels[0].numel())))


def _density(scene: Scene, name: str) -> Density:
    if scene.budget is not None:
        raise DataError(NO_DENSITY)
    if not scene.is_displayed:
        low, high = scene.test.scale
        raise DataError(f"densities need pixels in [0, 1], but the images are drawn from {low:.3g} to {high:.3g}")
    if scene.train is None:
        raise DataError("no training images were given")
    return scene.density(name)
