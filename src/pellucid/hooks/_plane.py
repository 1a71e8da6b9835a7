"""Points of a plane that keep neighbours together: t-SNE, the same for the same inputs, and how far to trust it."""

import numpy as np
from threadpoolctl import threadpool_limits

from pellucid.core.seeding import derive_seed

__all__ = ["embed_in_plane", "knn_accuracy", "trustworthiness"]

NEIGHBOURS = 10
"""Trustworthiness and neighbour accuracy look at so many."""
SMALLEST = 6
"""Fewer points than this have no neighbourhoods to keep: they are shown by their principal components."""


def embed_in_plane(features: np.ndarray, start: np.ndarray | None, iterations: int, seed: int) -> np.ndarray:
    """(point, 2) float32: the t-SNE of `features` (point, feature), begun from `start` and turned to match it.

    Without a start, from the two principal components. With one, clusters are pulled together only a little at first,
    so that they stay where they were, and the result is rotated and mirrored (not stretched) to lie over the start as
    well as it can (orthogonal Procrustes). Perplexity 30, or less for few points. One thread, so that
    equal inputs give equal bits. van der Maaten & Hinton, *Visualizing Data using t-SNE*, 2008.
    """
    with threadpool_limits(1):
        centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
        centred /= centred.std() or 1.0
        begin = _principal_plane(centred, seed) if start is None else start.astype(np.float64)
        begin = begin - begin.mean(0)
        if len(features) < SMALLEST:
            return begin.astype(np.float32)
        if start is None:
            return _tsne(centred, begin * (1e-4 / (begin[:, 0].std() or 1.0)), 12.0, (iterations, seed))
        return _turned_onto(_tsne(centred, begin, 4.0, (iterations, seed)), begin)


def _tsne(
    features: np.ndarray, begin: np.ndarray, exaggeration: float, iterations_and_seed: tuple[int, int]
) -> np.ndarray:
    from sklearn.manifold import TSNE

    iterations, seed = iterations_and_seed
    tsne = TSNE(
        perplexity=min(30.0, (len(features) - 1) / 3),
        early_exaggeration=exaggeration,
        init=begin.astype(np.float32),
        learning_rate="auto",
        max_iter=iterations,
        random_state=derive_seed(seed, "tsne"),
        n_jobs=1,
    )
    return np.asarray(tsne.fit_transform(features.astype(np.float32)), dtype=np.float32)


def _principal_plane(centred: np.ndarray, seed: int) -> np.ndarray:
    """(point, 2): the two principal components, their signs fixed; what has no spread gets a little noise."""
    noise = np.random.default_rng(derive_seed(seed, "plane")).normal(size=(len(centred), 2)) * 1e-4
    if len(centred) <= centred.shape[1]:
        variances, vectors = np.linalg.eigh(centred @ centred.T)
        plane = vectors[:, -2:] * np.sqrt(np.maximum(variances[-2:], 0))
    else:
        plane = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -2:]
    plane = np.pad(plane[:, ::-1], [(0, 0), (0, 2 - plane.shape[1])])
    extremes = plane[np.abs(plane).argmax(0), [0, 1]]
    return plane * np.where(extremes < 0, -1, 1) + noise


def _turned_onto(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`points` rotated and mirrored about their centre to lie over `target`."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    left, _, right = np.linalg.svd(centred.T @ (target - target.mean(0)))
    return (centred @ (left @ right)).astype(np.float32)


def trustworthiness(features: np.ndarray, points: np.ndarray) -> float | None:
    """The share, 0…1, in which neighbours in the plane are neighbours among the features too; None for few points.

    Venna & Kaski, *Neighborhood preservation in nonlinear projection methods*, 2001.
    """
    neighbours = min(NEIGHBOURS, (len(points) - 1) // 2)
    if neighbours < 1:
        return None
    from sklearn.manifold import trustworthiness as measure

    with threadpool_limits(1):
        return float(measure(features, points, n_neighbors=neighbours))


def knn_accuracy(points: np.ndarray, labels: np.ndarray) -> float | None:
    """The share, 0…1, of points that their 10 nearest other points vote right; a tie goes to the nearest. None for one.

    >>> labels = np.repeat([0, 1], 20)
    >>> knn_accuracy(labels[:, None] + np.linspace(0, 0.1, 40)[:, None], labels)
    1.0
    """
    neighbours = min(NEIGHBOURS, len(points) - 1)
    if neighbours < 1:
        return None
    from sklearn.neighbors import NearestNeighbors

    with threadpool_limits(1):
        nearest = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)
    votes = np.eye(labels.max() + 1)[labels[nearest]]
    weights = 1 - np.arange(neighbours) / neighbours / 1000
    won = (votes * weights[:, None]).sum(1).argmax(1)
    return float((won == labels).mean())
