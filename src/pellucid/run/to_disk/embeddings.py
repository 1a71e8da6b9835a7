"""The embedding and the logits of a batch, in one forward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.engine.tap import Tap, find_embedding
from pellucid.hooks._outputs import Recorded, layer_in

__all__ = ["Embedder"]


@dataclass(frozen=True, eq=False)
class Embedder:
    """Reads the input of the last linear layer, or of a named layer."""

    model: Recorded
    tap: Tap
    features: int

    @classmethod
    def of(cls, model: nn.Module, image: Tensor, layer: str | None) -> "Embedder":
        """Find the embedding layer of a model by running it on one image (1, …).

        Raises `UnknownName` for a layer that the model does not have, and `ModelError` if it has no linear layer.
        """
        recorded = Recorded(model)
        tap = find_embedding(recorded, image, layer_in(recorded, layer))
        return cls(recorded, tap, tap.read(image).shape[1])

    @property
    def layer(self) -> str:
        """Name of the layer whose input is the embedding."""
        return self.tap.layer.removeprefix("network.")

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding (batch, feature) and logits (batch, class), one by one if the model mixes the images."""
        embedding, logits = self._read(images)
        if len(images) > 1:
            _, alone = self._read(images[:1])
            # the same tolerance as for attribution methods
            if not torch.allclose(alone, logits[:1], rtol=1e-3, atol=1e-3 * float(logits.abs().max()), equal_nan=True):
                parts = [self._read(images[number : number + 1]) for number in range(len(images))]
                return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        return embedding, logits

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.tap.read(images)
        logits, self.model.output = self.model.output, None
        assert logits is not None
        return embedding, logits
