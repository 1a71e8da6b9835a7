"""t-SNE of the embedding of test images, aligned with the previous epoch's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from pellucid.core.errors import ModelError
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._hook import left_out, missing_embedding
from pellucid.hooks._plane import embed_in_plane, knn_accuracy, nearest_neighbors, trustworthiness
from pellucid.hooks._predictions import losses_of, predictions_of
from pellucid.hooks._thumbnails import PAGE_SIDE, lossless_size, thumbnails
from pellucid.plots.scatter import scatter

__all__ = ["TSNE"]

NEIGHBORS = 8
"""Number of nearest neighbors that are stored of each point."""


@HOOKS.register("tsne")
@dataclass(frozen=True)
class TSNE(Hook):
    """t-SNE of up to 1,000 test images, initialized from the positions at the previous epoch."""

    imports: ClassVar[tuple[str, ...]] = ("sklearn.manifold",)

    points: int = 1000
    """Maximum number of test images, spread evenly over the embedding."""
    iterations: int = 300
    """Number of gradient descent iterations."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the arrays `points`, `indices`, `neighbors` and `thumbnails`, and numbers.

        `neighbors` (point, neighbor) are the 8 nearest points in the embedding itself, not in the plane, nearest first,
        as positions in `indices`. `thumbnails` are bytes (point, side, side, channel). The numbers have the losses
        (cross-entropy in nats), and `lossless_size`, the height and width of the images, if the thumbnails are exact.
        `trustworthiness` and `knn_accuracy` (10 nearest neighbors, leave-one-out) describe the points in the plane, in
        0…1; `knn_accuracy_embedding` describes the embedding itself. Raises `ModelError` if the embedding is not
        finite.
        """
        count = min(self.points, len(scene.embedded))
        if not count:
            return
        if (reason := missing_embedding(scene)) is not None:
            yield left_out(scene, reason)
            return
        chosen = torch.arange(count) * len(scene.embedded) // count
        indices, features = scene.embedded[chosen].numpy(), scene.embedding[chosen].numpy()
        if not np.isfinite(features).all():
            raise ModelError(
                "the embedding contains NaN or infinite values, so t-SNE cannot be computed. The training has "
                "diverged: lower the learning rate."
            )
        outcome = predictions_of(scene, indices)
        labels, predictions = np.array(outcome.labels), np.array(outcome.predictions)
        points = embed_in_plane(features, _start(scene, indices), self.iterations, scene.seed)
        nearest = nearest_neighbors(features)
        scores = {
            "trustworthiness": trustworthiness(features, points),
            "knn_accuracy": knn_accuracy(points, labels),
            "knn_accuracy_embedding": knn_accuracy(features, labels, nearest),
        }
        title = f"{scene.title}: t-SNE embedding"
        summary = f"t-SNE of {count:,} test images: " + ", ".join(
            f"{meaning} {'–' if scores[name] is None else format(scores[name], '.1%')}"
            for name, meaning in (("trustworthiness", "trustworthiness"), ("knn_accuracy", "10-NN accuracy"))
        )
        yield Artifact(
            caption=f"{title}. {summary}. Circled: misclassified.",
            figure=scatter(points, labels, predictions, scene.classes, (title, summary)),
            arrays={
                "points": points,
                "indices": indices,
                "neighbors": nearest[:, :NEIGHBORS].astype(np.int32),
                "thumbnails": thumbnails(scene.test[indices.tolist()], PAGE_SIDE),
            },
            numbers={
                **outcome.numbers,
                "losses": losses_of(scene, indices),
                "lossless_size": lossless_size(scene.test, PAGE_SIDE),
                **scores,
            },
            scalars={name: value for name, value in scores.items() if value is not None},
        )


def _start(scene: Scene, indices: np.ndarray) -> np.ndarray | None:
    """Return the previous positions, if they are finite and of the same images."""
    previous = scene.previous or {}
    # a run can be resumed with other code, such as another number of points
    is_same = "points" in previous and np.array_equal(previous.get("indices", ()), indices)
    return previous["points"] if is_same and np.isfinite(previous["points"]).all() else None
