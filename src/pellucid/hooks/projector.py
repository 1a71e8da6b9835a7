"""Embedding of test images for TensorBoard's projector."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float

from pellucid.core.contracts import EmbeddingTable
from pellucid.core.seeding import generator
from pellucid.core.types import Embedding
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._hook import left_out, missing_embedding
from pellucid.hooks._thumbnails import thumbnails

__all__ = ["Projector"]

LARGEST_EMBEDDING = 4096
"""Maximum number of features stored as they are; TensorBoard reads them as text, so larger embeddings are projected."""
PROJECTED_FEATURES = 512
"""Number of features after the random projection."""


@HOOKS.register("projector")
@dataclass(frozen=True)
class Projector(Hook):
    """Embedding of up to 2,000 test images, with thumbnails, labels and predictions."""

    thumbnail_pixels: int = 40
    """Maximum side of the thumbnails, in pixels."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield an embedding table with the columns `label`, `prediction`, `correct` (yes, no) and `confidence` (0…1).

        An embedding with more than 4,096 features is projected to 512 random directions, which approximately preserves
        distances (Johnson and Lindenstrauss, 1984); `projected_from` is then the original number of features, else
        None.
        """
        if not len(scene.embedded):
            return
        if (reason := missing_embedding(scene)) is not None:
            yield left_out(scene, reason)
            return
        # TensorBoard shows these columns as text, and colors points by them
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
        note = f" (a random projection of {features:,})" if is_large else ""
        yield Artifact(
            caption=f"{scene.title}: input of layer {layer!r} for {count:,} test images, "
            f"{points.shape[1]} features{note}.",
            numbers={
                "layer": layer,
                "points": count,
                "features": points.shape[1],
                "projected_from": features if is_large else None,
            },
            embedding=EmbeddingTable(points, columns, thumbnails(scene.test[scene.embedded], self.thumbnail_pixels)),
        )


def _project(embedding: Embedding, seed: int) -> Float[torch.Tensor, "batch 512"]:
    """Return `embedding @ G / √512`, which preserves squared distances in expectation.

    G is standard normal, and the same at every epoch.
    """
    draws, projected = generator(seed, "projector"), torch.zeros(len(embedding), PROJECTED_FEATURES)
    for part in embedding.split(LARGEST_EMBEDDING, dim=1):  # in parts, so that G never has to fit in memory
        projected += part @ torch.randn(part.shape[1], PROJECTED_FEATURES, generator=draws)
    return projected / PROJECTED_FEATURES**0.5
