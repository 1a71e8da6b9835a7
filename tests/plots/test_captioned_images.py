import numpy as np
import pytest
from PIL import Image

from pellucid.core.errors import ShapeError
from pellucid.plots.captioned_images import captioned_images
from pellucid.plots.labels import Label
from pellucid.storage.pictures import to_png

HEADLINE = ("Bars, epoch 2: a title", "a subtitle")


def test_pixels_are_gray_squares_with_captions_below() -> None:
    images = np.random.default_rng(0).random((2, 3, 1, 8, 8))
    captions = [["−0.1", "−2", "–"], ["a", "b", "c"]]
    figure = captioned_images(images, captions, [Label("l2", "small"), Label("mean")], ["0", "1", "2"], HEADLINE)
    assert len(figure.axes) == 6
    for axes, image in zip(figure.axes, images.reshape(6, 8, 8), strict=True):
        (shown,) = axes.images
        assert shown.get_clim() == (0, 1)
        assert shown.get_interpolation() == "nearest"
        np.testing.assert_array_equal(shown.get_array(), image)
        box = axes.get_window_extent()
        assert box.width == pytest.approx(96, abs=0.01)
        assert box.height == pytest.approx(96, abs=0.01)
    texts = {text.get_text(): text.get_position()[1] for text in figure.texts}
    assert {"−0.1", "a", "l2", "small", "0"} <= set(texts)
    assert texts["0"] > texts["l2"] > texts["−0.1"] > texts["mean"] > texts["a"]


def test_color_images_stay_in_color_and_nan_leaves_a_gap(tmp_path) -> None:
    images = np.zeros((1, 2, 3, 4, 6))
    images[0, 0, 1] = 1
    images[0, 1] = np.nan
    figure = captioned_images(images, [["1", "–"]], [Label("x")], ["a", "b"], HEADLINE)
    (axes,) = figure.axes
    assert axes.images[0].get_array().shape == (4, 6, 3)
    (tmp_path / "picture.png").write_bytes(to_png(figure))
    with Image.open(tmp_path / "picture.png") as picture:
        assert any(colour[:3] == (0, 255, 0) for _, colour in picture.convert("RGB").getcolors(10_000))


def test_captions_that_do_not_match_the_images_are_refused() -> None:
    with pytest.raises(ShapeError, match="Pass one caption per image"):
        captioned_images(np.zeros((1, 2, 1, 4, 4)), [["only one"]], [Label("x")], ["a", "b"], HEADLINE)
