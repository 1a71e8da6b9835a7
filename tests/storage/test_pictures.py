import io

import numpy as np
import pytest
from PIL import Image

from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label
from pellucid.report._pictures import pack_picture
from pellucid.storage.pictures import SHARP, on_white, pixels_per_dot, to_png, to_webp


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def shown(film: bytes) -> list[tuple[np.ndarray, int]]:
    """Return each frame with its duration in milliseconds."""
    frames = []
    with Image.open(io.BytesIO(film)) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            picture.load()
            frames.append((np.asarray(picture.convert("RGB")), picture.info["duration"]))
    return frames


def test_film_is_lossless_and_loops() -> None:
    frames = pictures((40, 30), (40, 30), (40, 30))
    film = to_webp(frames, [70, 1000, 30])
    for (pixels, milliseconds), frame, expected in zip(shown(film), frames, [70, 1000, 30], strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(frame))
        assert milliseconds == expected
    with Image.open(io.BytesIO(film)) as picture:
        assert picture.info["loop"] == 0
    assert to_webp(frames, [70, 1000, 30]) == film


def test_smaller_frames_are_padded_with_white() -> None:
    wide, high = pictures((40, 20), (30, 50))
    first, second = (pixels for pixels, _ in shown(to_webp([wide, high], [10, 10])))
    assert first.shape == second.shape == (50, 40, 3)
    np.testing.assert_array_equal(first[:20], np.asarray(wide))
    np.testing.assert_array_equal(second[:, :30], np.asarray(high))
    assert (first[20:] == 255).all()
    assert (second[:, 30:] == 255).all()
    assert on_white([wide])[0].size == (40, 20)


def test_too_large_film_is_downsampled() -> None:
    frames = pictures((200, 100), (200, 100))
    whole = to_webp(frames, [10, 10])
    small = to_webp(frames, [10, 10], at_most=len(whole) // 3)
    assert len(small) <= len(whole) // 3
    (pixels, _), _ = shown(small)
    height, width = pixels.shape[:2]
    assert width == pytest.approx(2 * height, abs=2)
    assert 80 < width < 200


def test_frames_of_other_modes_become_rgb() -> None:
    gray, transparent = Image.new("L", (4, 4), 100), Image.new("P", (4, 4), 0)
    assert {frame.mode for frame in on_white([gray, transparent])} == {"RGB"}


def test_sharp_figure_has_the_same_layout_with_more_pixels() -> None:
    images = np.random.default_rng(0).random((2, 3, 1, 8, 8))
    labels = [Label("first"), Label("second")], [Label("a"), Label("b"), Label("c")]
    figure = image_grid([Block(images, meaning="pixel")], *labels, ("title", "subtitle"))
    plain, sharp = (Image.open(io.BytesIO(to_png(figure, sharpness))) for sharpness in (1, SHARP))
    assert sharp.size == tuple(SHARP * side for side in plain.size)
    assert (pixels_per_dot(plain), pixels_per_dot(sharp)) == (1, SHARP)
    assert to_png(figure, SHARP) == to_png(figure, SHARP)
    assert figure.dpi == 100
    # downsampled, it is the plain picture, except for the edges of letters and ticks
    small, expected = (np.asarray(picture.convert("L"), float) for picture in (sharp.reduce(SHARP), plain))
    assert np.abs(small - expected).mean() < 1.5
    box = figure.axes[0].get_window_extent()
    left, bottom, right, top = (round(side) for side in box.extents)
    rows = slice(plain.height - top, plain.height - bottom)
    np.testing.assert_array_equal(small[rows, left:right], expected[rows, left:right])
    # the page shows both at the same size
    shown = [pack_picture(to_png(figure, sharpness)) for sharpness in (1, SHARP)]
    assert {(one.width, one.height) for one in shown} == {plain.size}
