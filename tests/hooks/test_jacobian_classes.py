from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from pellucid.hooks import Scene
from pellucid.hooks.jacobian_classes import JacobianClasses

Maker = Callable[..., Scene]


@pytest.mark.parametrize("channels", [1, 3])
def test_class_means_and_norms_match_the_jacobian(channels: int, make_scene: Maker) -> None:
    scene = make_scene(channels=channels)
    (artifact,) = JacobianClasses().run(scene)
    numbers, means = artifact.numbers, artifact.arrays["mean_absolute_jacobian"]
    model, images, labels = scene.model.double().eval(), scene.test.floats().double(), scene.test.labels
    exact = vmap(jacrev(lambda image: model(image[None])[0]))(images).detach()
    for label in range(3):
        np.testing.assert_allclose(means[label], exact[labels == label].abs().mean(0).numpy(), atol=1e-6)
    assert not means[3].any()  # no image
    norms = torch.linalg.matrix_norm(exact.flatten(2), 2)
    np.testing.assert_allclose(numbers["spectral_norms"], norms.numpy(), rtol=1e-5)
    assert numbers["median_spectral_norm"] == pytest.approx(float(norms.median()), rel=1e-5)
    assert numbers["class_median_spectral_norm"][3] is None
    assert numbers["counts"] == [int((labels == label).sum()) for label in range(4)]
    assert numbers["timing"]["seconds"] > 0


def test_number_of_images_is_limited(make_scene: Maker) -> None:
    (artifact,) = JacobianClasses(images=7).run(make_scene())
    assert artifact.numbers["images"] == 7
    assert sum(artifact.numbers["counts"]) == 7


def test_figure_shows_maps_and_histogram(make_scene: Maker) -> None:
    (artifact,) = JacobianClasses(columns=2).run(make_scene())
    assert artifact.figure is not None
    maps, _, histogram = artifact.figure.axes
    assert maps.images[0].get_clim()[0] == 0
    assert sum(bar.get_height() for bar in histogram.patches) == 60
    assert artifact.numbers["drawn_classes"] == [0, 1]
