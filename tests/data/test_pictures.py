"""Images of every mode are decoded to the values that a viewer displays."""

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.errors import DataError
from pellucid.data._pictures import picture_pixels

GRAYS = np.array([[0, 100], [200, 255], [7, 8]], np.uint8)
COLORS = np.stack([GRAYS, GRAYS[::-1], 255 - GRAYS], -1)


def test_grayscale_and_rgb_are_unchanged() -> None:
    assert picture_pixels(Image.fromarray(GRAYS)).tolist() == [GRAYS.tolist()]
    assert picture_pixels(Image.fromarray(COLORS)).tolist() == COLORS.transpose(2, 0, 1).tolist()


def test_binary_images_become_black_and_white() -> None:
    assert picture_pixels(Image.fromarray(GRAYS > 50)).tolist() == [[[0, 255], [255, 255], [0, 0]]]


def test_16_bit_grayscale_is_scaled_to_8_bit() -> None:
    deep = GRAYS.astype(np.uint16) * 257
    assert picture_pixels(Image.fromarray(deep)).tolist() == [GRAYS.tolist()]
    assert picture_pixels(Image.fromarray(deep.astype(np.int32))).tolist() == [GRAYS.tolist()]


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[-1]]), np.int32([[70000]])])
def test_other_depths_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="are not 8-bit or 16-bit grayscale"):
        picture_pixels(Image.fromarray(values))


def test_transparent_images_are_composited_over_white() -> None:
    clear = np.concatenate([COLORS, np.uint8([[[0], [255]]] * 3)], -1)
    shown = picture_pixels(Image.fromarray(clear))
    assert shown[:, :, 0].tolist() == [[255] * 3] * 3
    assert torch.equal(shown[:, :, 1], torch.from_numpy(COLORS[:, 1].T.copy()))
    faint = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)])
    assert picture_pixels(faint).tolist() == [[[204]]]


def test_a_palette_is_grayscale_if_its_colors_are_gray() -> None:
    assert picture_pixels(Image.fromarray(COLORS).convert("P")).shape == (3, 3, 2)
    assert picture_pixels(Image.fromarray(GRAYS).convert("P")).tolist() == [GRAYS.tolist()]


def test_cmyk_is_converted_to_rgb() -> None:
    assert picture_pixels(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).flatten().tolist() == [255, 0, 0]


def test_the_exif_orientation_is_applied() -> None:
    image = Image.fromarray(GRAYS)
    image.getexif()[0x0112] = 6  # a quarter turn clockwise is needed
    assert picture_pixels(image).tolist() == [np.rot90(GRAYS, -1).tolist()]


def test_images_are_resized_to_a_square() -> None:
    assert picture_pixels(Image.new("RGB", (7, 3), (10, 20, 30)), size=5).tolist() == [
        [[v] * 5] * 5 for v in (10, 20, 30)
    ]
