"""The network's embedding of test images, for TensorBoard's projector."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float

from pellucid.core.contracts import Artifact, EmbeddingTable
from pellucid.core.seeding import generator
from pellucid.core.types import Embedding
from pellucid.hooks import HOOKS
from pellucid.hooks._hook import Hook, Scene
from pellucid.hooks._thumbnails import thumbnails

__all__ = ["Projector"]

LARGEST_EMBEDDING = 4096
"""Embeddings with more features than this are projected to `PROJECTED_FEATURES`: TensorBoard reads them as text."""
PROJECTED_FEATURES = 512


@HOOKS.register("projector")
@dataclass(frozen=True)
class Projector(Hook):
    """Up to 2,000 test images as points, with thumbnails and what the network says of each."""

    thumbnail_pixels: int = 40
    """Larger images are shrunk to thumbnails of so many pixels a side."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """One embedding table with the columns `label`, `prediction`, `correct` (yes, no) and `confidence` (0…1).

        An embedding of more than 4,096 features is projected at random to 512, which nearly keeps the distances
        (Johnson and Lindenstrauss, 1984); `projected_from` is then how many it had, and else None.
        """
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
        embedding, layer = scene.embedding, scene.tap.layer
        count, features = embedding.shape
        is_large = features > LARGEST_EMBEDDING
        points = (_project(embedding, scene.seed) if is_large else embedding).numpy()
        note = f", projected at random from {features:,}" if is_large else ""
        yield Artifact(
            caption=f"{scene.title}: the input of layer {layer!r} for {count:,} test images, "
            f"{points.shape[1]} numbers each{note}.",
            numbers={
                "layer": layer,
                "points": count,
                "features": points.shape[1],
                "projected_from": features if is_large else None,
            },
            embedding=EmbeddingTable(points, columns, thumbnails(scene.test[scene.embedded], self.thumbnail_pixels)),
        )


def _project(embedding: Embedding, seed: int) -> Float[torch.Tensor, "batch 512"]:
    """`embedding @ G / √512`, G standard normal and the same for every epoch: keeps squared distances on average."""
    draws, projected = generator(seed, "projector"), torch.zeros(len(embedding), PROJECTED_FEATURES)
    for part in embedding.split(LARGEST_EMBEDDING, dim=1):  # so that G is never in memory as a whole
        projected += part @ torch.randn(part.shape[1], PROJECTED_FEATURES, generator=draws)
    return projected / PROJECTED_FEATURES**0.5
