"""The network's embedding of test images, for TensorBoard's projector."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pellucid.core.contracts import Artifact, EmbeddingTable, ImageSet
from pellucid.engine.tap import find_embedding
from pellucid.hooks import HOOKS
from pellucid.hooks._hook import Hook, Scene

__all__ = ["Projector"]


@HOOKS.register("projector")
@dataclass(frozen=True)
class Projector(Hook):
    """Up to 2,000 test images as points, with thumbnails and what the network says of each."""

    thumbnail_pixels: int = 40
    """Larger images are shrunk to thumbnails of so many pixels a side."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """One embedding table with the columns `label`, `prediction`, `correct` (yes, no) and `confidence` (0…1)."""
        if not len(scene.embedded):
            return
        labels = scene.test.labels[scene.embedded].tolist()
        confidences, predictions = scene.logits[scene.embedded].float().softmax(1).max(1)
        pairs = list(zip(labels, predictions.tolist(), strict=True))
        columns = {
            "label": [scene.classes[label] for label, _ in pairs],
            "prediction": [scene.classes[prediction] for _, prediction in pairs],
            "correct": ["yes" if label == prediction else "no" for label, prediction in pairs],
            "confidence": [f"{confidence:.4f}" for confidence in confidences.tolist()],
        }
        points = scene.embedding.numpy()
        layer = find_embedding(scene.model, scene.test.floats([0]).to(scene.device), scene.embedding_layer).layer
        yield Artifact(
            caption=f"{scene.title}: the input of layer {layer!r} for {len(points):,} test images, "
            f"{points.shape[1]} numbers each.",
            numbers={"layer": layer, "points": len(points), "features": points.shape[1]},
            embedding=EmbeddingTable(points, columns, self._thumbnails(scene.test[scene.embedded])),
        )

    def _thumbnails(self, images: ImageSet) -> np.ndarray:
        """(image, side, side, channel) bytes, 1 or 3 channels: padded to squares, large ones shrunk."""
        small = [self._shrunk(images.floats(part)) for part in torch.arange(len(images)).split(200)]
        return torch.cat(small).permute(0, 2, 3, 1).numpy()

    def _shrunk(self, images: torch.Tensor) -> torch.Tensor:
        images = images if images.shape[1] == 3 else images.mean(1, keepdim=True)
        height, width = images.shape[-2:]
        across, down = max(height - width, 0), max(width - height, 0)
        square = F.pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))
        if square.shape[-1] > self.thumbnail_pixels:
            square = F.interpolate(square, size=(self.thumbnail_pixels,) * 2, mode="area")
        return (square * 255).round().clamp(0, 255).to(torch.uint8)
