import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.path import Path

from pellucid.plots._outline import outline, outline_note
from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label

SIDE = 12


def ring() -> np.ndarray:
    """Return a gray ring with soft edges on black (1, height, width)."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return np.clip(1.5 - np.abs(np.hypot(x, y) - 3.2), 0, 1)[None] * 0.9


@pytest.mark.parametrize("image", [ring(), 1 - ring()], ids=["on black", "on white"])
def test_outline_separates_the_shape_from_the_background(image: np.ndarray) -> None:
    lines = outline(image)
    assert len(lines) == 2
    inside = abs(image[0] - image[0, 0, 0])
    paths = [Path(line) for line in lines]
    for y, x in np.ndindex(SIDE, SIDE):
        crossings = sum(path.contains_point((x, y)) for path in paths)
        if abs(inside[y, x] - 0.45) > 0.02:
            assert crossings % 2 == (inside[y, x] > 0.45), (x, y)


def test_shape_at_the_edge_has_a_closed_outline() -> None:
    image = np.zeros((1, SIDE, SIDE))
    image[0, 4:6, :3] = 1
    (line,) = outline(image)
    assert (line[0] == line[-1]).all()
    assert line.min(0).tolist() == [-0.5, 3.5]


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).random((1, SIDE, SIDE)),
        np.stack([ring()[0]] * 3),
        np.zeros((1, SIDE, SIDE)),
        ring() * 0.1,
        np.full((1, SIDE, SIDE), np.nan),
        np.pad(np.ones((1, 10, 10)), [(0, 0), (120, 120), (120, 120)]),
    ],
    ids=["noise", "color", "empty", "faint", "NaN", "large"],
)
def test_other_images_have_no_outline(image: np.ndarray) -> None:
    assert outline(image) == []
    assert outline_note(image[None]) == ""


def test_maps_carry_the_outline_of_their_image() -> None:
    images = np.stack([ring(), np.zeros((1, SIDE, SIDE))])[:, None]
    maps = np.random.default_rng(0).normal(size=(2, 3, 1, SIDE, SIDE))
    block = Block(maps, limit=1.0, outlined=images)
    figure = image_grid([block], [Label("a"), Label("b")], [Label("x")] * 3, ("title", "subtitle"))
    (lines,) = [artist for artist in figure.axes[0].collections if isinstance(artist, LineCollection)]
    # two lines of the ring in each of the three maps of the first row
    corners = [np.array([column * (SIDE + 1), 0]) for column in range(3)]
    expected = [line + corner for corner in corners for line in outline(ring())]
    drawn = [segment for segment in lines.get_segments() if len(segment)]
    assert len(drawn) == 6
    for segment, line in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(segment, line)
    # the picture itself is not resized
    assert figure.axes[0].get_xlim() == (-0.5, 3 * SIDE + 2 - 0.5)
    assert outline_note(images[:, 0]) == " Thin line: outline of the test image."
