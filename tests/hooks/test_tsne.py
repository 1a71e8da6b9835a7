from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.core.errors import ModelError
from pellucid.hooks import Scene
from pellucid.hooks._plane import embed_in_plane, knn_accuracy, trustworthiness
from pellucid.hooks.tsne import TSNE

Maker = Callable[..., Scene]


def clusters(count: int = 120, features: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(count) % 4
    return (random.normal(size=(4, features)) * 6)[labels] + random.normal(size=(count, features)), labels


def test_tsne_preserves_clusters() -> None:
    features, labels = clusters()
    points = embed_in_plane(features, None, 300, 0)
    assert points.shape == (120, 2)
    assert points.dtype == np.float32
    assert knn_accuracy(points, labels) == 1
    assert trustworthiness(features, points) > 0.95


def test_start_keeps_clusters_in_place() -> None:
    features, labels = clusters()
    first = embed_in_plane(features, None, 300, 0)
    turned = first @ np.array([[0, 1], [1, 0]], dtype=np.float32) + 100  # mirrored and shifted
    for start in (first, turned):
        second = embed_in_plane(features + np.random.default_rng(1).normal(size=features.shape) / 3, start, 300, 0)
        middles = [[np.median(plane[labels == k], axis=0) for k in range(4)] for plane in (start, second)]
        shift = np.array(middles[0]) - start.mean(0) - np.array(middles[1])
        assert np.abs(shift).max() < 0.5 * start.std(0).max()


def test_tsne_is_deterministic() -> None:
    features, _ = clusters()
    first = embed_in_plane(features, None, 260, 0)
    assert first.tobytes() == embed_in_plane(features.copy(), None, 260, 0).tobytes()
    again = [embed_in_plane(features, start, 260, 0).tobytes() for start in (first, first.copy())]
    assert again[0] == again[1] != first.tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 20])
@pytest.mark.parametrize("kind", ["random", "constant", "one_feature", "huge"])
def test_few_points_and_degenerate_features(count: int, kind: str) -> None:
    features = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    features = {"constant": features * 0 + 3, "one_feature": features[:, :1], "huge": features * 1e15}.get(
        kind, features
    )
    points = embed_in_plane(features, None, 260, 0)
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()
    assert np.isfinite(embed_in_plane(features, points, 260, 0)).all()
    score = trustworthiness(features, points)
    assert (score is None) == (count < 3)


def test_knn_accuracy_is_leave_one_out() -> None:
    points = np.array([[0.0], [1.0], [2.5], [10.0], [11.0]])
    assert knn_accuracy(points[:1], np.array([0])) is None
    assert knn_accuracy(points[:2], np.array([0, 1])) == 0
    slow = []
    labels = np.array([0, 0, 1, 1, 1])
    for index in range(5):
        others = [other for other in range(5) if other != index]
        others.sort(key=lambda other: abs(points[other, 0] - points[index, 0]))
        votes = [labels[other] for other in others]
        best = max(votes.count(vote) for vote in votes)
        slow.append(next(vote for vote in votes if votes.count(vote) == best) == labels[index])
    assert knn_accuracy(points, labels) == np.mean(slow)


def test_artifact_and_next_epoch(make_scene: Maker) -> None:
    scene = make_scene()
    (first,) = TSNE(points=40, iterations=260).run(scene)
    assert first.arrays["points"].shape == (40, 2)
    indices = first.numbers["indices"]
    assert indices == first.arrays["indices"].tolist() == sorted(set(indices))
    assert first.numbers["labels"] == scene.test.labels[indices].tolist()
    assert first.numbers["predictions"] == scene.logits[indices].argmax(1).tolist()
    np.testing.assert_allclose(first.numbers["confidences"], scene.logits[indices].softmax(1).max(1).values, atol=1e-6)
    np.testing.assert_array_equal(first.arrays["thumbnails"], scene.test.pixels[indices].permute(0, 2, 3, 1))
    assert set(first.scalars) == {"trustworthiness", "knn_accuracy", "knn_accuracy_embedding"}
    (next_one,) = TSNE(points=40, iterations=260).run(replace(scene, previous=first.arrays))
    expected = embed_in_plane(scene.embedding[indices].numpy(), first.arrays["points"], 260, 0)
    assert next_one.arrays["points"].tobytes() == expected.tobytes()
    (other,) = TSNE(points=30, iterations=260).run(
        replace(scene, previous=first.arrays)
    )  # other images need a new start
    (fresh,) = TSNE(points=30, iterations=260).run(scene)
    assert other.arrays["points"].tobytes() == fresh.arrays["points"].tobytes()


def test_nonfinite_embedding_is_refused(make_scene: Maker) -> None:
    scene = make_scene()
    with torch.no_grad():
        scene.model[5].weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN or infinite"):
        list(TSNE().run(scene))
