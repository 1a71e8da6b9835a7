from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ModelError
from pellucid.hooks import Scene
from pellucid.hooks._plane import embed_in_plane, knn_accuracy, nearest_neighbors, trustworthiness
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


@pytest.mark.parametrize(("count", "features"), [(1, 3), (2, 3), (5, 1), (9, 4), (60, 3), (200, 40)])
def test_nearest_neighbors_match_brute_force(count: int, features: int) -> None:
    points = np.random.default_rng(count).normal(size=(count, features)).astype(np.float32)
    nearest = nearest_neighbors(points, 8)
    distances = np.linalg.norm(points[:, None].astype(float) - points, axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert nearest.tolist() == distances.argsort(1)[:, : min(8, count - 1)].tolist()


def test_equal_points_are_neighbors_but_never_of_themselves() -> None:
    nearest = nearest_neighbors(np.zeros((20, 3)), 8)
    assert nearest.shape == (20, 8)
    assert all(index not in row and len(set(row)) == 8 for index, row in enumerate(nearest.tolist()))


def test_stored_neighbors_are_those_of_the_embedding(make_scene: Maker) -> None:
    scene = make_scene()
    (artifact,) = TSNE(points=40, iterations=260).run(scene)
    places = [scene.embedded.tolist().index(index) for index in artifact.numbers["indices"]]
    features = scene.embedding[places].double().numpy()
    neighbors = artifact.arrays["neighbors"]
    assert (neighbors.shape, neighbors.dtype) == ((40, 8), np.int32)
    for point, row in enumerate(neighbors):
        distances = np.linalg.norm(features - features[point], axis=1)
        distances[point] = np.inf
        np.testing.assert_allclose(distances[row], np.sort(distances)[:8], rtol=1e-4, atol=1e-4)
    assert artifact.numbers["knn_accuracy_embedding"] == knn_accuracy(features, scene.test.labels[list(places)].numpy())


def test_losses_are_cross_entropies(make_scene: Maker) -> None:
    scene = make_scene()
    scene.logits[3] = torch.nan
    (artifact,) = TSNE(points=len(scene.embedded), iterations=260).run(scene)
    expected = torch.nn.functional.cross_entropy(scene.logits, scene.test.labels, reduction="none")
    np.testing.assert_allclose(artifact.numbers["losses"], expected[artifact.numbers["indices"]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "kind", "scale", "size"),
    [
        ((1, 28, 28), torch.uint8, (0.0, 1.0), [28, 28]),
        ((3, 9, 14), torch.uint8, (0.0, 1.0), [9, 14]),
        ((1, 29, 28), torch.uint8, (0.0, 1.0), None),
        ((2, 28, 28), torch.uint8, (0.0, 1.0), None),
        ((1, 28, 28), torch.float32, (0.0, 1.0), None),
        ((1, 28, 28), torch.float32, (-1.0, 2.0), None),
    ],
)
def test_only_exact_thumbnails_are_called_lossless(
    make_scene: Maker, shape: tuple[int, ...], kind: torch.dtype, scale: tuple[float, float], size: list[int] | None
) -> None:
    scene = make_scene()
    pixels = torch.randint(0, 2, (len(scene.test), *shape)).to(kind)
    test = ImageSet(pixels, scene.test.labels, scale=scale)
    scene = replace(scene, test=test, _computed={"embedding": scene.embedding})
    (artifact,) = TSNE(points=10, iterations=260).run(scene)
    assert artifact.numbers["lossless_size"] == size


def test_nonfinite_embedding_is_refused(make_scene: Maker) -> None:
    scene = make_scene()
    with torch.no_grad():
        scene.model[5].weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN or infinite"):
        list(TSNE().run(scene))
