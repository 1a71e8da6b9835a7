"""Logits and embedding of any images in one forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ModelError, ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.types import Embedding, Images, Logits
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.tap import Tap, find_embedding
from pellucid.engine.wrapping import find_module, module_paths
from pellucid.hooks._hook import VALUES_PER_PASS, Scene

__all__ = ["Output", "OutputReader", "Recorded", "images_per_pass", "layer_in"]

IMAGES_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class Output:
    """Outputs of the network for some images, on the device, in float32."""

    logits: Logits
    embedding: Embedding | None
    """None if the model has no embedding."""


class Recorded(nn.Module):
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
class OutputReader:
    """Reads the outputs of the scene's network."""

    scene: Scene
    model: Recorded
    tap: Tap | None
    features: int
    """Number of features of the embedding; 0 without one."""
    refused: str | None
    """Reason why there is no embedding; None if there is one."""

    @classmethod
    def of(cls, scene: Scene) -> "OutputReader":
        """Find the embedding, with two forward passes of one image."""
        model, image = Recorded(scene.model), scene.test.floats([0]).to(scene.device)
        try:
            tap = find_embedding(model, image, layer_in(model, scene.embedding_layer))
            return cls(scene, model, tap, tap.read(image).shape[1], None)
        except (ModelError, ShapeError) as error:
            return cls(scene, model, None, 0, str(error))

    def read(self, images: Images) -> Output:
        """Return the outputs for floats (batch, channel, height, width) on any device."""
        inputs, embedding = images.to(self.scene.device), None
        if self.tap is not None:
            embedding = self.tap.read(inputs)
        else:
            with isolated(), frozen(self.model), torch.no_grad():
                self.model(inputs.to(dtype_of(self.scene.model), copy=True))
        assert self.model.output is not None
        logits, self.model.output = self.model.output.float(), None
        return Output(logits, embedding)

    def read_all(self, images: ImageSet) -> Iterator[Output]:
        """Yield the outputs of `images` in parts, in order."""
        for part in torch.arange(len(images), device="cpu").split(images_per_pass(self.scene)):
            yield self.read(images.floats(part))


def images_per_pass(scene: Scene) -> int:
    """Return the number of images per forward pass, which bounds memory."""
    return max(1, min(IMAGES_AT_ONCE, VALUES_PER_PASS // max(1, scene.test.pixels[0].numel())))


def layer_in(model: Recorded, layer: str | None) -> str | None:
    """Return the path in the recorded model of a layer of the model itself."""
    if layer is None or layer in dict(module_paths(model)):
        return layer
    find_module(model.network, layer)  # raises an error with the user's names
    return f"network.{layer}"
