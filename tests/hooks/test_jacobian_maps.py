from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pellucid.hooks import Scene
from pellucid.hooks.jacobian_maps import JacobianMaps

Maker = Callable[..., Scene]


@pytest.mark.parametrize("channels", [1, 3])
def test_jacobian_norms_and_error(channels: int, make_scene: Maker) -> None:
    scene = make_scene(channels=channels)
    (artifact,) = JacobianMaps().run(scene)
    numbers, maps = artifact.numbers, artifact.arrays["jacobian"]
    assert maps.shape == (10, 4, channels, 9, 9)
    assert len(set(numbers["indices"])) == 10
    model, images = scene.model.double().eval(), scene.test.floats(numbers["indices"]).double()
    exact = vmap(jacrev(lambda image: model(image[None])[0]))(images).detach().numpy()
    np.testing.assert_allclose(maps, exact, atol=1e-5)
    flat = exact.reshape(10, 4, -1)
    np.testing.assert_allclose(numbers["spectral_norm"], [np.linalg.svd(j)[1][0] for j in flat], rtol=1e-4)
    np.testing.assert_allclose(numbers["frobenius_norm"], np.sqrt((flat**2).sum((1, 2))), rtol=1e-4)
    assert artifact.scalars["mean_spectral_norm"] == pytest.approx(np.mean(numbers["spectral_norm"]))
    assert numbers["kink_images"] == []
    assert 0 < numbers["finite_difference_error"] < 1e-5
    assert numbers["jacobian_classes"] == numbers["drawn_classes"] == [0, 1, 2, 3]


def test_maps_share_one_scale_and_predictions_are_framed(make_scene: Maker) -> None:
    (artifact,) = JacobianMaps().run(make_scene())
    assert artifact.figure is not None
    _, maps = (axes.images[0] for axes in artifact.figure.axes if axes.images)
    limit = artifact.numbers["scale_limit"]
    assert maps.get_clim() == (-limit, limit)
    np.testing.assert_array_equal(np.ma.asarray(maps.get_array())[:9, :9], artifact.arrays["jacobian"][0, 0, 0])
    assert len(artifact.figure.artists) + len(artifact.figure.patches) == 10


def test_images_on_a_kink_are_reported_separately(make_scene: Maker) -> None:
    class Bare(nn.Module):
        """All ReLU inputs are exactly zero for a zero image."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(81, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(x * (x + 1)).flatten(1))

    scene = make_scene(model=Bare())
    scene.test.pixels[:] = scene.test.pixels.clamp(min=1)
    scene.test.pixels[3] = 0
    (artifact,) = JacobianMaps().run(scene)
    assert artifact.numbers["kink_images"] == [3]
    assert artifact.numbers["finite_difference_error"] < 1e-5
    scene.test.pixels[:] = 0
    (artifact,) = JacobianMaps().run(scene)
    assert artifact.numbers["finite_difference_error"] is None
    assert len(artifact.numbers["kink_images"]) == 10
    assert "kink" in artifact.caption


def test_selected_classes_are_drawn_and_norms_include_all(make_scene: Maker) -> None:
    (full,), (chosen,) = JacobianMaps().run(make_scene()), JacobianMaps().run(make_scene(chosen_classes=(2,)))
    assert chosen.numbers["drawn_classes"] == [2]
    assert chosen.arrays["jacobian"].shape[1] == 4
    assert len(chosen.numbers["indices"]) == 10
    assert sorted(chosen.numbers["indices"]) == sorted(full.numbers["indices"]) or chosen.numbers["labels"][0] == 2
    at = chosen.numbers["indices"].index(full.numbers["indices"][2])
    assert chosen.numbers["spectral_norm"][at] == pytest.approx(full.numbers["spectral_norm"][2], rel=1e-5)


def test_large_jacobian_is_stored_for_the_drawn_classes(make_scene: Maker) -> None:
    (whole,) = JacobianMaps().run(make_scene())
    (small,) = JacobianMaps(largest_bytes=1, columns=2).run(make_scene())
    drawn = small.numbers["drawn_classes"]
    assert small.numbers["jacobian_classes"] == drawn
    np.testing.assert_allclose(small.arrays["jacobian"], whole.arrays["jacobian"][:, drawn], atol=1e-6)
    np.testing.assert_allclose(small.numbers["spectral_norm"], whole.numbers["spectral_norm"], rtol=1e-5)
    assert small.numbers["finite_difference_error"] < 1e-8  # compared with the float64 Jacobian


def test_float32_only_model_is_drawn(make_scene: Maker) -> None:
    class Single(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype == torch.float64:
                raise RuntimeError("only float32 here")
            return super().forward(x.flatten(1))

    (artifact,) = JacobianMaps().run(make_scene(model=Single(81, 4)))
    assert artifact.numbers["finite_difference_error"] is None
    assert "only float32" in artifact.numbers["finite_difference_note"]
    assert "Not compared" in artifact.caption
