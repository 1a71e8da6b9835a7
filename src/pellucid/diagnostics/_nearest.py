"""Labels of the nearest neighbors in an embedding, among a sample of the examples."""

import torch
from torch import Tensor

from pellucid.core.seeding import generator

__all__ = ["FEATURES", "neighbor_labels", "projection"]

REFERENCES = 2000
"""Maximum number of examples among which neighbors are searched: more cost in proportion, and find little more."""
FEATURES = 64
"""Larger embeddings are projected to this number of features."""
DISTANCES_AT_ONCE = 1_000_000
"""Approximate number of distances per step: they fit into the processor's cache."""


def projection(features: int, seed: int) -> Tensor | None:
    """Return a random matrix (feature, 64) that approximately preserves distances; None for at most 64 features.

    Its entries are Gaussian with variance 1/64 (Johnson and Lindenstrauss, 1984).
    """
    if features <= FEATURES:
        return None
    draws = generator(seed, "label_errors", "projection", features)
    return torch.randn(features, FEATURES, generator=draws, dtype=torch.float32, device="cpu") / FEATURES**0.5


def neighbor_labels(embedding: Tensor, labels: Tensor, neighbors: int, seed: int) -> Tensor | None:
    """Return the labels (example, neighbor) of the nearest other examples by Euclidean distance, in no order.

    All examples are compared, or a random sample of 2,000 of them. If there are fewer than `neighbors` others, all of
    them are neighbors. Returns None for a single example.
    """
    points = embedding.float()
    matrix = projection(points.shape[1], seed)
    points = points if matrix is None else points @ matrix.to(points.device)
    sample = _sample(len(points), seed).to(points.device)
    count = min(neighbors, len(sample) - 1)
    if count < 1:
        return None
    # centered, because squares of large coordinates would cancel in float32
    references = points[sample] - (center := points[sample].mean(0))
    squares = references.square().sum(1)
    result = labels.new_empty(len(points), count)
    place = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    place[sample] = torch.arange(len(sample), device=points.device)
    for part in torch.arange(len(points), device=points.device).split(max(1, DISTANCES_AT_ONCE // len(sample))):
        # without the square of the example itself, which does not change the order
        distances = torch.addmm(squares, points[part] - center, references.T, alpha=-2)
        own = place[part]
        rows = (own >= 0).nonzero()[:, 0]
        distances[rows, own[rows]] = torch.inf
        nearest = distances.topk(count, 1, largest=False, sorted=False).indices
        result[part] = labels[sample[nearest]]
    return result


def _sample(count: int, seed: int) -> Tensor:
    """Return the indices of all examples, or of a sorted random sample."""
    if count <= REFERENCES:
        return torch.arange(count, device="cpu")
    draws = generator(seed, "label_errors", "references", count)
    return torch.randperm(count, generator=draws, device="cpu")[:REFERENCES].sort().values
