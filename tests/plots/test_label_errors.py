"""Figure of images with suspicious labels."""

import numpy as np
import pytest

from pellucid.core.errors import ShapeError
from pellucid.plots.label_errors import SuspiciousImage, suspicious_images


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (200, 100)])
def test_each_image_has_its_text(channels, size):
    images = np.random.default_rng(0).random((10, channels, *size))
    texts = [SuspiciousImage(f"${row}", "a very long name of a class" * 3, ("score +1.0",)) for row in range(10)]
    figure = suspicious_images(images, texts, ("title", "subtitle"))
    figure.canvas.draw()
    assert len(figure.axes) == 10
    written = [text.get_text() for text in figure.texts]
    assert written[2] == "$0"
    assert written[3].startswith("→ a ")
    assert "…" in written[3]
    assert written.count("score +1.0") == 10
    width = figure.get_size_inches()[0] * figure.dpi
    assert all(text.get_window_extent().x1 <= width for text in figure.texts)
    # eight in the first row
    tops = [round(axes.get_position().y1, 6) for axes in figure.axes]
    assert tops.count(max(tops)) == 8


def test_image_with_nan_is_drawn():
    images = np.full((1, 3, 4, 4), np.nan)
    suspicious_images(images, [SuspiciousImage("a", "b")], ("title", "")).canvas.draw()


def test_numbers_of_images_and_texts_have_to_agree():
    with pytest.raises(ShapeError, match="0 texts"):
        suspicious_images(np.zeros((1, 1, 4, 4)), [], ("title", ""))
