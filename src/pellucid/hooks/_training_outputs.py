"""Probabilities and embedding of training images, read in one forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ModelError, ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.types import Embedding, Logits
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.tap import Tap, find_embedding
from pellucid.hooks._hook import VALUES_PER_PASS, Scene

__all__ = ["Output", "OutputReader"]

IMAGES_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class Output:
    """Outputs of the network for some images, on the device."""

    logits: Logits
    embedding: Embedding | None
    """None if the model has no embedding."""


class _Recorded(nn.Module):
    """A model that keeps its last output, so that reading the embedding gives the logits, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        # the paths of layers stay those of the user's model
        inside = getattr(network, "wrapped_by_pellucid", None)
        self.wrapped_by_pellucid = f"network.{inside}" if isinstance(inside, str) else "network"
        self.training = network.training
        self.output: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.network(images)
        self.output = output.detach()
        return output


@dataclass(frozen=True, eq=False)
class OutputReader:
    """Reads the outputs of the scene's network."""

    scene: Scene
    model: _Recorded
    tap: Tap | None
    features: int
    """Number of features of the embedding; 0 without one."""
    refused: str | None
    """Reason why there is no embedding; None if there is one."""

    @classmethod
    def of(cls, scene: Scene) -> "OutputReader":
        """Find the embedding, with two forward passes of one image."""
        model, image = _Recorded(scene.model), scene.test.floats([0]).to(scene.device)
        try:
            tap = find_embedding(model, image, scene.embedding_layer)
            return cls(scene, model, tap, tap.read(image).shape[1], None)
        except (ModelError, ShapeError) as error:
            return cls(scene, model, None, 0, str(error))

    def read(self, images: ImageSet) -> Iterator[Output]:
        """Yield the outputs of `images` in parts, in order."""
        size = max(1, min(IMAGES_AT_ONCE, VALUES_PER_PASS // max(1, images.pixels[0].numel())))
        for part in torch.arange(len(images), device="cpu").split(size):
            inputs = images.floats(part).to(self.scene.device)
            embedding = None
            if self.tap is not None:
                embedding = self.tap.read(inputs)
            else:
                with isolated(), frozen(self.model), torch.no_grad():
                    self.model(inputs.to(dtype_of(self.scene.model), copy=True))
            assert self.model.output is not None
            logits, self.model.output = self.model.output.float(), None
            yield Output(logits, embedding)
