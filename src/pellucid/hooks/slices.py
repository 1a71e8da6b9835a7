"""Slices: error rates by the columns of `--metadata` and by clusters of the embedding."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pellucid.core.seeding import derive_seed
from pellucid.core.text import listed
from pellucid.diagnostics import Sampled, Slices, find_slices
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._hook import left_out, missing_embedding
from pellucid.hooks._predictions import by_loss
from pellucid.hooks._thumbnails import PAGE_SIDE, thumbnails
from pellucid.plots.slices import MOST_ROWS, Strip, slices_figure

__all__ = ["SliceErrors"]

CLUSTERS = "embedding cluster"
"""Name of the column of clusters."""
LEAST_CLUSTERS, MOST_CLUSTERS = 10, 30
IMAGES_PER_CLUSTER = 40
"""Minimum mean number of images per cluster; fewer would say nothing about an error rate."""
EXAMPLES = 8
"""Number of images that are shown of a slice."""
STRIPS = 4
"""Maximum number of clusters whose images are in the figure."""
NAMED = 3
"""Maximum number of slices that the caption lists by name."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """Clusters of the embedded test images."""

    codes: np.ndarray
    """(embedded image,): number of the cluster."""
    distances: np.ndarray
    """(embedded image,): Euclidean distance from the center of the cluster."""


@HOOKS.register("slices")
@dataclass(frozen=True)
class SliceErrors(Hook):
    """Error rates of the test images by column of `--metadata` and by cluster, corrected for multiple comparisons."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    default: ClassVar[bool] = False
    imports: ClassVar[tuple[str, ...]] = ("sklearn.cluster", "scipy.special")

    least: int = 20
    """Minimum number of images of a slice."""
    bins: int = 5
    """Number of quantile bins of numbers and dates."""
    confidence: float = 0.95
    """Confidence of all intervals together."""
    pairs: bool = False
    """True to measure pairs of columns, too."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with numbers, and the arrays `thumbnails`, `examples` and `clusters`.

        `slices` are those of `Slices.to_dict`, worst first; those of clusters also have the `majority` class and its
        `share`. `examples` (slice, image) are indices of test images of the worst 30 slices: the images nearest to the
        center of a cluster, or the misclassified ones with the largest loss; -1 fills the rows. `thumbnails` are
        bytes (image, side, side, channel) of the test images `shown`. `clusters` (embedded image, 2) has the index of a
        test image and its cluster. An image with a NaN logit counts as misclassified.
        """
        columns: dict[str, Any] = {} if scene.metadata is None else dict(scene.metadata)
        reasons = {} if scene.metadata is None else dict(scene.metadata.left_out)
        name = _unused(CLUSTERS, columns)
        clustering = cluster(scene) if len(scene.test) else "there are no test images"
        if isinstance(clustering, str):
            reasons[name] = clustering
        else:
            columns[name] = Sampled(scene.embedded, [str(code) for code in clustering.codes])
        if not columns:
            hint = "; pass --metadata for slices by the columns of a table" if scene.metadata is None else ""
            yield left_out(scene, f"there are no slices: {'; '.join(reasons.values())}{hint}")
            return
        logits, labels = scene.logits, scene.test.labels
        is_wrong = (logits.argmax(1) != labels) | logits.isnan().any(1)
        result = find_slices(
            is_wrong, columns, least=self.least, bins=self.bins, confidence=self.confidence, pairs=self.pairs
        )
        reasons |= result.left_out
        if not result.slices:
            yield left_out(scene, f"no slice has {self.least} images: {'; '.join(reasons.values())}")
            return
        yield _artifact(scene, result, reasons, (name, clustering))


def cluster(scene: Scene) -> Clustering | str:
    """Return k-means clusters (Lloyd, 1982) of the embedding; a part of a sentence with the reason if there are none.

    The clusters depend on the images and the network, not on the labels or errors. There are twice as many as classes,
    but 10 to 30, and at most one per 40 images.
    """
    if (reason := missing_embedding(scene)) is not None:
        return reason
    features = scene.embedding.double().numpy()
    if not np.isfinite(features).all():
        return "the embedding contains NaN or infinite values"
    wanted = min(max(2 * len(scene.classes), LEAST_CLUSTERS), MOST_CLUSTERS, len(features) // IMAGES_PER_CLUSTER)
    count = min(wanted, len(np.unique(features, axis=0)))
    if count < 2:
        return f"there are too few different images for clusters of {IMAGES_PER_CLUSTER}"
    from sklearn.cluster import KMeans

    with threadpool_limits(1):  # equal inputs then give equal bits
        means = KMeans(count, n_init=2, random_state=derive_seed(scene.seed, "slices")).fit(features)
    # numbered by size, so that the numbers do not depend on the random start alone
    order = np.argsort(-np.bincount(means.labels_, minlength=count), kind="stable")
    number = np.empty(count, np.int64)
    number[order] = np.arange(1, count + 1)
    distances = np.linalg.norm(features - means.cluster_centers_[means.labels_], axis=1)
    return Clustering(number[means.labels_], distances)


def _unused(name: str, columns: Iterable[str]) -> str:
    """Return a name that no column of the user has."""
    taken = set(columns)
    while name in taken:
        name += " "
    return name


def _artifact(
    scene: Scene, result: Slices, reasons: dict[str, str], clusters: tuple[str, Clustering | str]
) -> Artifact:
    name, clustering = clusters
    record = result.to_dict() | {"left_out": reasons}
    examples, codes = _examples(scene, result, name, clustering), np.zeros((0, 2), np.int64)
    if not isinstance(clustering, str):
        codes = np.stack([scene.embedded.numpy(), clustering.codes], 1)
        for row, one in zip(record["slices"], result.slices, strict=True):
            row |= _majority(scene, one.indices) if one.column == name else {}
    shown = np.unique(examples[examples >= 0])
    title = f"{scene.title}: error rate by slice"
    worse = [f"{one.column} = {one.value} ({one.error_rate:.1%} of {one.images:,})" for one in result.worse]
    more = f" and {len(worse) - NAMED} more" if len(worse) > NAMED else ""
    said = f"significantly more errors than the rest in {listed(worse[:NAMED])}{more}" if worse else "no slice has "
    said += "" if worse else "significantly more errors than the rest"
    return Artifact(
        caption=" ".join(
            f"{title}. {result.looks} slices of {result.images:,} test images, {result.error_rate:.2%} misclassified: "
            f"{said} (Fisher's exact test, Holm's correction).".split()
        ),
        figure=slices_figure(record, title, _strips(scene, record, examples, name)),
        arrays={
            "examples": examples,
            "thumbnails": thumbnails(scene.test[shown.tolist()], PAGE_SIDE),
            "clusters": codes,
        },
        numbers=record | {"shown": shown.tolist(), "cluster_column": name},
    )


def _examples(scene: Scene, result: Slices, name: str, clustering: Clustering | str) -> np.ndarray:
    """Return the indices (slice, image) of the images to show of the worst slices; -1 fills the rows."""
    rows = result.slices[:MOST_ROWS]
    examples = np.full((len(rows), EXAMPLES), -1, np.int64)
    _, losses = by_loss(scene)
    is_wrong = (scene.logits.argmax(1) != scene.test.labels) | scene.logits.isnan().any(1)
    hardness = losses.nan_to_num(torch.inf).where(is_wrong, -torch.inf).numpy()
    distance = np.full(len(scene.test), np.inf)
    if not isinstance(clustering, str):
        distance[scene.embedded.numpy()] = clustering.distances
    for number, one in enumerate(rows):
        if one.column == name:
            chosen = one.indices[np.argsort(distance[one.indices], kind="stable")]
        else:
            order = one.indices[np.argsort(-hardness[one.indices], kind="stable")]
            chosen = order[is_wrong.numpy()[order]]
        examples[number, : len(chosen[:EXAMPLES])] = chosen[:EXAMPLES]
    return examples


def _majority(scene: Scene, indices: np.ndarray) -> dict[str, Any]:
    """Return the most frequent true class of a cluster and its share."""
    counts = torch.bincount(scene.test.labels[torch.from_numpy(indices)])
    label = int(counts.argmax())
    return {"majority": scene.classes[label], "share": round(int(counts[label]) / len(indices), 6)}


def _strips(scene: Scene, record: dict[str, Any], examples: np.ndarray, name: str) -> list[Strip]:
    """Return the central images of the worst clusters."""
    strips: list[Strip] = []
    for row, chosen in zip(record["slices"], examples, strict=False):
        if row["column"] == name and len(strips) < STRIPS:
            detail = f"{row['error_rate']:.2%} misclassified; {row['share']:.0%} of its images are {row['majority']}"
            images = scene.test.shown(chosen[chosen >= 0].tolist()).numpy()
            strips.append(Strip(f"{name} {row['value']}", f"{detail}. Nearest to its center:", images))
    return strips
