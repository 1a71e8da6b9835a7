"""How the network arranges test images in space, as a picture that can be compared with the one before."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.core.contracts import Artifact
from pellucid.core.errors import ModelError
from pellucid.hooks import HOOKS
from pellucid.hooks._answers import answers
from pellucid.hooks._hook import Hook, Scene
from pellucid.hooks._plane import embed_in_plane, knn_accuracy, trustworthiness
from pellucid.hooks._thumbnails import PAGE_SIDE, thumbnails
from pellucid.plots.scatter import scatter

__all__ = ["TSNE"]


@HOOKS.register("tsne")
@dataclass(frozen=True)
class TSNE(Hook):
    """The embedding of up to 1,000 test images in the plane, begun from the previous picture's positions."""

    points: int = 1000
    """At most so many test images, spread evenly over the embedded ones."""
    iterations: int = 400
    """Of gradient descent."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """One figure; the arrays `points`, `indices` and `thumbnails` (point, side, side, channel); and the numbers.

        `trustworthiness` and `knn_accuracy` (10 nearest neighbours, leave-one-out) are of the picture, in 0…1;
        `knn_accuracy_embedding` is of the embedding itself. Raises `ModelError` where the embedding is not finite.
        """
        count = min(self.points, len(scene.embedded))
        if not count:
            return
        chosen = torch.arange(count) * len(scene.embedded) // count
        indices, features = scene.embedded[chosen].numpy(), scene.embedding[chosen].numpy()
        if not np.isfinite(features).all():
            raise ModelError(
                "the embedding is not finite for every test image, so it cannot be drawn; "
                "the training has diverged: lower the learning rate."
            )
        told = answers(scene, indices)
        labels, predictions = np.array(told.labels), np.array(told.predictions)
        points = embed_in_plane(features, _start(scene, indices), self.iterations, scene.seed)
        scores = {
            "trustworthiness": trustworthiness(features, points),
            "knn_accuracy": knn_accuracy(points, labels),
            "knn_accuracy_embedding": knn_accuracy(features, labels),
        }
        title = f"{scene.title}: how the network arranges the classes"
        summary = f"t-SNE of the embedding of {count:,} test images: " + ", ".join(
            f"{meaning} {'–' if scores[name] is None else format(scores[name], '.1%')}"
            for name, meaning in (("trustworthiness", "trustworthiness"), ("knn_accuracy", "10 neighbours agree"))
        )
        yield Artifact(
            caption=f"{title}. {summary}. Errors are ringed.",
            figure=scatter(points, labels, predictions, scene.classes, (title, summary)),
            arrays={
                "points": points,
                "indices": indices,
                "thumbnails": thumbnails(scene.test[indices.tolist()], PAGE_SIDE),
            },
            numbers={**told.numbers, **scores},
            scalars={name: value for name, value in scores.items() if value is not None},
        )


def _start(scene: Scene, indices: np.ndarray) -> np.ndarray | None:
    """The positions of the same images in the previous picture."""
    previous = scene.previous or {}
    is_same = "points" in previous and np.array_equal(previous.get("indices", ()), indices)
    return previous["points"] if is_same and np.isfinite(previous["points"]).all() else None
