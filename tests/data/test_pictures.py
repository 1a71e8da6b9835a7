"""Pictures of every mode become bytes with the values a viewer shows."""

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.errors import DataError
from pellucid.data._pictures import picture_pixels

GREYS = np.array([[0, 100], [200, 255], [7, 8]], np.uint8)
COLOURS = np.stack([GREYS, GREYS[::-1], 255 - GREYS], -1)


def test_grey_and_colour_are_taken_as_they_are() -> None:
    assert picture_pixels(Image.fromarray(GREYS)).tolist() == [GREYS.tolist()]
    assert picture_pixels(Image.fromarray(COLOURS)).tolist() == COLOURS.transpose(2, 0, 1).tolist()


def test_black_and_white() -> None:
    assert picture_pixels(Image.fromarray(GREYS > 50)).tolist() == [[[0, 255], [255, 255], [0, 0]]]


def test_16_bits_are_scaled_to_8() -> None:
    deep = GREYS.astype(np.uint16) * 257
    assert picture_pixels(Image.fromarray(deep)).tolist() == [GREYS.tolist()]
    assert picture_pixels(Image.fromarray(deep.astype(np.int32))).tolist() == [GREYS.tolist()]


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[-1]]), np.int32([[70000]])])
def test_other_depths_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="no 8 or 16-bit greys"):
        picture_pixels(Image.fromarray(values))


def test_transparency_is_laid_over_white() -> None:
    clear = np.concatenate([COLOURS, np.uint8([[[0], [255]]] * 3)], -1)
    shown = picture_pixels(Image.fromarray(clear))
    assert shown[:, :, 0].tolist() == [[255] * 3] * 3
    assert torch.equal(shown[:, :, 1], torch.from_numpy(COLOURS[:, 1].T.copy()))
    faint = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)])
    assert picture_pixels(faint).tolist() == [[[204]]]


def test_a_palette_is_grey_if_its_colours_are() -> None:
    assert picture_pixels(Image.fromarray(COLOURS).convert("P")).shape == (3, 3, 2)
    assert picture_pixels(Image.fromarray(GREYS).convert("P")).tolist() == [GREYS.tolist()]


def test_print_colours_become_screen_colours() -> None:
    assert picture_pixels(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).flatten().tolist() == [255, 0, 0]


def test_a_picture_is_turned_upright() -> None:
    image = Image.fromarray(GREYS)
    image.getexif()[0x0112] = 6  # a quarter turn clockwise is needed
    assert picture_pixels(image).tolist() == [np.rot90(GREYS, -1).tolist()]


def test_scaled_to_a_square() -> None:
    assert picture_pixels(Image.new("RGB", (7, 3), (10, 20, 30)), size=5).tolist() == [
        [[v] * 5] * 5 for v in (10, 20, 30)
    ]
