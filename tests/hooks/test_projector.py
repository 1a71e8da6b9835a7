from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.core.errors import UnknownName
from pellucid.hooks import Scene
from pellucid.hooks.projector import Projector

Maker = Callable[..., Scene]


def test_points_columns_and_thumbnails(make_scene: Maker) -> None:
    scene = make_scene()
    (artifact,) = Projector().run(scene)
    table = artifact.embedding
    assert table is not None
    with torch.no_grad():
        expected = scene.model.eval()[:7](scene.test.floats())
    np.testing.assert_allclose(table.points, expected.numpy(), rtol=1e-6)
    confidence, prediction = scene.logits.softmax(1).max(1)
    labels = scene.test.labels
    assert list(table.columns) == ["label", "prediction", "correct", "confidence"]
    assert table.columns["label"] == [scene.classes[k] for k in labels]
    assert table.columns["prediction"] == [scene.classes[k] for k in prediction]
    assert table.columns["correct"] == ["yes" if right else "no" for right in (labels == prediction)]
    np.testing.assert_allclose([float(text) for text in table.columns["confidence"]], confidence, atol=5e-5)
    np.testing.assert_array_equal(table.thumbnails, scene.test.pixels.permute(0, 2, 3, 1).numpy())
    assert artifact.numbers == {"layer": "7", "points": 60, "features": 16, "projected_from": None}


@pytest.mark.parametrize(
    ("size", "channels", "shape"),
    [((7, 12), 1, (12, 12, 1)), ((12, 7), 3, (12, 12, 3)), ((80, 50), 1, (40, 40, 1)), ((9, 9), 2, (9, 9, 1))],
)
def test_thumbnails_are_small_squares(
    size: tuple[int, int], channels: int, shape: tuple[int, int, int], make_scene: Maker
) -> None:
    scene = make_scene(count=5, size=size, channels=channels)
    (artifact,) = Projector().run(scene)
    assert artifact.embedding is not None
    thumbnails = artifact.embedding.thumbnails
    assert thumbnails.dtype == np.uint8
    assert thumbnails.shape == (5, *shape)
    if size == (7, 12):
        np.testing.assert_array_equal(thumbnails[:, 2:9, :, 0], scene.test.pixels[:, 0].numpy())
        assert thumbnails[:, :2].max() == thumbnails[:, 9:].max() == 0


def test_selected_layer_is_embedded(make_scene: Maker) -> None:
    (artifact,) = Projector().run(make_scene(embedding_layer="5"))
    assert artifact.numbers["features"] == 6 * 81
    with pytest.raises(UnknownName, match="layer"):
        list(Projector().run(make_scene(embedding_layer="fc")))


def test_large_embedding_is_projected_and_preserves_distances(make_scene: Maker) -> None:
    """A linear layer on raw pixels has thousands of features."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(5000, 4))
    scene, again = (make_scene(count=20, channels=2, size=(50, 50), model=network, epoch=epoch) for epoch in (1, 2))
    (artifact,), (later,) = Projector().run(scene), Projector().run(again)
    assert artifact.embedding is not None
    assert later.embedding is not None
    assert artifact.embedding.points.shape == (20, 512)
    np.testing.assert_array_equal(artifact.embedding.points, later.embedding.points)
    distances = [
        torch.pdist(torch.from_numpy(points)) for points in (scene.embedding.numpy(), artifact.embedding.points)
    ]
    torch.testing.assert_close(distances[1], distances[0], rtol=0.15, atol=0)
    assert artifact.numbers == {"layer": "1", "points": 20, "features": 512, "projected_from": 5000}
    assert "512 features (a random projection of 5,000)." in artifact.caption
