"""Test images on the page of a comparison: disagreements, pixels, and points of the embedding."""

from collections.abc import Sequence

import numpy as np
import torch

from pellucid.core.errors import SaveError
from pellucid.hooks._thumbnails import PAGE_SIDE, thumbnails
from pellucid.report.comparison import Comparison, Disagreements, Pair
from pellucid.run.compared import Loaded
from pellucid.storage.store import Store

__all__ = ["disagreements", "embedded", "pictures"]

MOST_DISAGREEMENTS = 40
"""Maximum number of images per pair that one model gets right and the other wrong."""
ALL_DISAGREEMENTS = 240
"""Maximum number of such images over all pairs, which bounds the size of the page."""
LEAST_DISAGREEMENTS = 8
LARGEST_SOURCES = 2_500_000
"""Maximum number of bytes of all images with maps, before compression."""
LARGEST_SIDE = 96


def embedded(loaded: Loaded, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the run's t-SNE points of the common test images, in their order; None if it has none, or a damaged file.

    The first array has the rows among the common test images, the second the points (point, 2).
    """
    store, wanted = Store(loaded.folder), ("tsne", "tsne", "arrays", loaded.weights_epoch)
    for entry in store.manifest()["artifacts"]:
        if (entry["hook"], entry["name"], entry["kind"], entry["epoch"]) == wanted:
            try:
                arrays = store.read_arrays(entry["path"])
            except SaveError:
                return None
            return _shared(arrays.get("points"), arrays.get("indices"), rows)
    return None


def _shared(
    points: np.ndarray | None, indices: np.ndarray | None, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the points whose image, one of `indices`, is among `rows`; None for invalid arrays."""
    if points is None or indices is None or points.shape != (len(indices), 2) or not np.isfinite(points).all():
        return None
    place = {int(index): number for number, index in enumerate(indices)}
    pairs = [(row, place[int(own)]) for row, own in enumerate(rows) if int(own) in place]
    if not pairs:
        return None
    common, chosen = (np.array(values) for values in zip(*pairs, strict=True))
    return common, points[chosen].astype(float)


def disagreements(comparison: Comparison, pair: Pair, pairs: int) -> Disagreements:
    """Choose images that one model gets right and the other wrong: those with the most confident wrong predictions.

    `pairs` is the number of pairs on the page; the more there are, the fewer images each has.
    """
    most = max(LEAST_DISAGREEMENTS, min(MOST_DISAGREEMENTS, ALL_DISAGREEMENTS // pairs))
    correct = [comparison.correct(number) for number in (pair.first, pair.second)]
    only = [correct[0] & ~correct[1], correct[1] & ~correct[0]]
    wrong = [comparison.models[number] for number in (pair.second, pair.first)]
    chosen = [
        np.flatnonzero(mask)[np.argsort(-np.nan_to_num(model.confidences[mask]), kind="stable")]
        for mask, model in zip(only, wrong, strict=True)
    ]
    # both directions get half of the places, and what the other leaves free
    first = min(len(chosen[0]), max(most // 2, most - len(chosen[1])))
    kept = [chosen[0][:first], chosen[1][: most - first]]
    rows = np.concatenate(kept)
    mistaken = np.concatenate([model.predictions[own] for own, model in zip(kept, wrong, strict=True)])
    return Disagreements(rows, np.stack([comparison.labels[rows], mistaken], 1), None, None, None)


def pictures(comparison: Comparison, loaded: Sequence[Loaded], rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the pixels of the images that the page shows, from the first model that has them."""
    number = next((number for number, one in enumerate(loaded) if one.images is not None), None)
    if number is None:
        return {}
    images, own = loaded[number].images, rows[number]
    assert images is not None
    shown = np.unique(np.concatenate([pair.disagreements.rows for pair in comparison.pairs]))
    points = comparison.point_rows()
    made: dict[str, np.ndarray] = {}
    if len(shown):
        channels = 3 if images.image_shape[0] == 3 else 1
        side = int(min(LARGEST_SIDE, max(28, (LARGEST_SOURCES / (channels * len(shown))) ** 0.5)))
        made |= {"rows": shown, "source": thumbnails(images[torch.from_numpy(own[shown])], side)}
    if len(points):
        made |= {"point_rows": points, "thumbnails": thumbnails(images[torch.from_numpy(own[points])], PAGE_SIDE)}
    return made
