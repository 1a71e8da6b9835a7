from collections.abc import Callable

import numpy as np
import pytest
import torch

from pellucid.hooks import Scene
from pellucid.hooks.saliency import Saliency

Maker = Callable[..., Scene]


def difference(scene: Scene, image: torch.Tensor, label: int, place: tuple[int, ...], step: float = 1e-6) -> float:
    """Return the derivative of a logit with respect to a pixel by central differences in float64."""
    model, shift = scene.model.double().eval(), torch.zeros_like(image, dtype=torch.float64)
    shift[place] = step
    with torch.no_grad():
        right, left = (model((image.double() + sign * shift)[None])[0, label] for sign in (1, -1))
    scene.model.float()
    return float((right - left) / (2 * step))


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_match_finite_differences(channels: int, make_scene: Maker) -> None:
    scene = make_scene(channels=channels)
    (artifact,) = Saliency().run(scene)
    arrays, numbers = artifact.arrays, artifact.numbers
    assert numbers["labels"] == [0, 1, 2]
    for column, (index, label) in enumerate(zip(numbers["indices"], numbers["labels"], strict=True)):
        image = scene.test.floats([index])[0]
        np.testing.assert_array_equal(arrays["source"][column], image.numpy())
        for place in [(0, 4, 4), (channels - 1, 2, 7), (0, 0, 0)]:
            at_image = difference(scene, image, label, place)
            at_zero = difference(scene, torch.zeros_like(image), label, place)
            assert arrays["saliency"][column][place] == pytest.approx(at_image, rel=1e-3, abs=1e-5)
            assert arrays["baseline"][column][place] == pytest.approx(at_zero, rel=1e-3, abs=1e-5)


def test_delta_and_overlay_are_exact(make_scene: Maker) -> None:
    (artifact,) = Saliency().run(make_scene(channels=3))
    arrays = artifact.arrays
    assert all(array.dtype == np.float32 and array.shape == (3, 3, 9, 9) for array in arrays.values())
    np.testing.assert_array_equal(arrays["delta"], arrays["saliency"] - arrays["baseline"])
    np.testing.assert_array_equal(arrays["overlay"], arrays["delta"] * arrays["source"])


def test_gradients_share_one_scale(make_scene: Maker) -> None:
    (artifact,) = Saliency().run(make_scene())
    assert artifact.figure is not None
    source, gradients, overlay = (axes.images[0] for axes in artifact.figure.axes if axes.images)
    limits = artifact.numbers["scale_limits"]
    assert source.get_clim() == (0, 1)
    assert gradients.get_clim() == (-limits["gradient"], limits["gradient"])
    assert overlay.get_clim() == (-limits["overlay"], limits["overlay"])
    rows = [artifact.arrays[name][1, 0] for name in ("baseline", "saliency", "delta")]
    shown = np.ma.asarray(gradients.get_array())
    step = (shown.shape[0] - 9) // 2
    for row, values in enumerate(rows):
        np.testing.assert_array_equal(shown[row * step : row * step + 9, step : step + 9], values)
    assert len(artifact.figure.axes) == 6  # three blocks, three color bars


def test_selected_classes(make_scene: Maker) -> None:
    (artifact,) = Saliency().run(make_scene(chosen_classes=(2, 3, 0)))
    assert artifact.numbers["labels"] == [2, 0]
    assert list(Saliency().run(make_scene(chosen_classes=(3,)))) == []
    assert len(next(iter(Saliency(columns=1).run(make_scene()))).numbers["indices"]) == 1
