"""Deterministic t-SNE into the plane, and scores of how well it preserves neighborhoods."""

import numpy as np
from threadpoolctl import threadpool_limits

from pellucid.core.seeding import derive_seed

__all__ = ["embed_in_plane", "knn_accuracy", "nearest_neighbors", "trustworthiness"]

NEIGHBOURS = 10
"""Number of neighbors in the trustworthiness and the k-NN accuracy."""
SMALLEST = 6
"""Minimum number of points for t-SNE; fewer are projected on their principal components."""


def embed_in_plane(features: np.ndarray, start: np.ndarray | None, iterations: int, seed: int) -> np.ndarray:
    """Compute t-SNE of `features` (point, feature) as (point, 2) float32, initialized from `start` and aligned to it.

    Without a start, t-SNE begins from the two principal components. With one, the early exaggeration is reduced so that
    clusters stay where they were, and the result is rotated and mirrored, but not scaled, to match the start as closely
    as possible (orthogonal Procrustes). The perplexity is 30, or less for few points. Runs on one thread, so that equal
    inputs give bit-identical results. van der Maaten & Hinton, *Visualizing Data using t-SNE*, 2008.
    """
    with threadpool_limits(1):
        centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
        # equal points have a deviation of 0
        centred /= centred.std() or 1.0
        begin = _principal_plane(centred, seed) if start is None else start.astype(np.float64)
        begin = begin - begin.mean(0)
        if len(features) < SMALLEST:
            return begin.astype(np.float32)
        if start is None:
            # A tiny initial spread (as in scikit-learn's PCA initialization) and the usual early exaggeration of 12.
            return _tsne(centred, begin * (1e-4 / (begin[:, 0].std() or 1.0)), 12.0, (iterations, seed))
        return _turned_onto(_tsne(centred, begin, 4.0, (iterations, seed)), begin)


def _tsne(
    features: np.ndarray, begin: np.ndarray, exaggeration: float, iterations_and_seed: tuple[int, int]
) -> np.ndarray:
    from sklearn.manifold import TSNE

    iterations, seed = iterations_and_seed
    tsne = TSNE(
        # scikit-learn requires a perplexity below the number of points
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
    """Return the two principal components (point, 2) with fixed signs, plus a little noise to separate equal points."""
    noise = np.random.default_rng(derive_seed(seed, "plane")).normal(size=(len(centred), 2)) * 1e-4
    # rounding can make the smallest variances negative; `eigh` sorts them in ascending order
    if len(centred) <= centred.shape[1]:  # the smaller of the Gram and the covariance matrix
        variances, vectors = np.linalg.eigh(centred @ centred.T)
        plane = vectors[:, -2:] * np.sqrt(np.maximum(variances[-2:], 0))
    else:
        plane = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -2:]
    # a single feature or point has only one component
    plane = np.pad(plane[:, ::-1], [(0, 0), (0, 2 - plane.shape[1])])
    extremes = plane[
        np.abs(plane).argmax(0), [0, 1]
    ]  # eigenvectors have arbitrary signs: make the largest entry positive
    return plane * np.where(extremes < 0, -1, 1) + noise


def _turned_onto(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return `points`, rotated and mirrored about their center to match `target`."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    # the determinant is not corrected to 1, so reflections are allowed
    left, _, right = np.linalg.svd(centred.T @ (target - target.mean(0)))
    return (centred @ (left @ right)).astype(np.float32)


def trustworthiness(features: np.ndarray, points: np.ndarray) -> float | None:
    """Return the trustworthiness, 0…1: the extent to which neighbors in the plane are neighbors in feature space.

    None for fewer than three points. Venna & Kaski, *Neighborhood preservation in nonlinear projection methods*, 2001.
    """
    # scikit-learn requires fewer neighbors than half the number of points
    neighbours = min(NEIGHBOURS, (len(points) - 1) // 2)
    if neighbours < 1:
        return None
    from sklearn.manifold import trustworthiness as measure

    with threadpool_limits(1):
        return float(measure(features, points, n_neighbors=neighbours))


def nearest_neighbors(points: np.ndarray, count: int = NEIGHBOURS) -> np.ndarray:
    """Return the positions (point, neighbor) of the nearest other points by Euclidean distance, nearest first.

    There are `count` neighbors, or fewer if there are fewer other points.

    >>> nearest_neighbors(np.array([[0.0], [1.0], [5.0]])).tolist()
    [[1, 2], [0, 2], [1, 0]]
    """
    neighbours = min(count, len(points) - 1)
    if neighbours < 1:
        return np.zeros((len(points), 0), np.int64)
    from sklearn.neighbors import NearestNeighbors

    with threadpool_limits(1):
        # without a query, a point is no neighbor of itself
        return np.asarray(NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False))


def knn_accuracy(points: np.ndarray, labels: np.ndarray, nearest: np.ndarray | None = None) -> float | None:
    """Return the leave-one-out accuracy, 0…1, of a classifier by 10 nearest neighbors; None for a single point.

    `nearest` is the result of `nearest_neighbors(points)`, if it is known.

    >>> labels = np.repeat([0, 1], 20)
    >>> knn_accuracy(labels[:, None] + np.linspace(0, 0.1, 40)[:, None], labels)
    1.0
    """
    nearest = nearest_neighbors(points) if nearest is None else nearest
    if not nearest.size:
        return None
    votes = np.eye(labels.max() + 1)[labels[nearest]]
    # Nearer neighbors weigh slightly more, which decides ties without overruling a majority.
    weights = 1 - np.arange(nearest.shape[1]) / nearest.shape[1] / 1000
    won = (votes * weights[:, None]).sum(1).argmax(1)
    return float((won == labels).mean())
