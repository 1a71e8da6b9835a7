import numpy as np
import pytest
from matplotlib.figure import Figure

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import DOTS_PER_INCH
from pellucid.plots._grid import Grid
from pellucid.plots.image_grid import Block, Mark, image_grid
from pellucid.plots.labels import Label

RNG = np.random.default_rng(0)


def draw(*blocks: Block, rows: int, columns: int, name: str = "猫 a long name", **options: object) -> Figure:
    labels = [Label(f"row ${index}", "de_tail") for index in range(rows)], [Label(name)] * columns
    return image_grid(list(blocks), *labels, ("title $ with _ and \\alpha", "subtitle"), **options)


def test_each_block_is_drawn_as_one_array() -> None:
    signed = RNG.normal(size=(2, 3, 1, 8, 8))
    figure = draw(Block(signed, limit=2.5, meaning="unit"), rows=2, columns=3)
    (shown,) = figure.axes[0].images
    assert shown.get_clim() == (-2.5, 2.5)
    assert shown.get_interpolation() == "nearest"
    mosaic = np.ma.asarray(shown.get_array())
    assert mosaic.shape == (2 * 8 + 1, 3 * 8 + 2)
    for row in range(2):
        for column in range(3):
            tile = mosaic[row * 9 : row * 9 + 8, column * 9 : column * 9 + 8]
            np.testing.assert_array_equal(tile, signed[row, column, 0])
    assert np.ma.getmaskarray(np.ma.masked_invalid(mosaic))[8].all()


def test_gray_and_color_images_are_drawn_as_they_are() -> None:
    gray, color = RNG.random((1, 2, 1, 8, 8)), RNG.random((1, 2, 3, 8, 8))
    figure = draw(Block(gray, meaning="pixel"), Block(color, row=1), rows=2, columns=2)
    first, second = (axes.images[0] for axes in figure.axes if axes.images)
    assert first.get_clim() == (0, 1)
    np.testing.assert_array_equal(second.get_array()[:8, 9:], color[0, 1].transpose(1, 2, 0))


@pytest.mark.parametrize(("size", "zoom"), [((8, 8), 12), ((28, 28), 3), ((28, 56), 2), ((64, 64), 1)])
def test_pixels_are_whole_dots(size: tuple[int, int], zoom: int) -> None:
    grid = Grid(0, 0, size, row_starts={0}, column_starts={0, 1})
    assert grid.zoom == zoom
    assert (grid.height, grid.width) == (size[0] * zoom, size[1] * zoom)
    figure = draw(Block(np.zeros((1, 1, 1, *size)), limit=1.0), rows=1, columns=1)
    box = figure.axes[0].get_window_extent()
    assert (round(box.height, 6), round(box.width, 6)) == (size[0] * zoom, size[1] * zoom)


def test_large_images_are_downsampled() -> None:
    figure = draw(Block(np.zeros((1, 1, 1, 200, 400)), limit=1.0), rows=1, columns=1)
    box = figure.axes[0].get_window_extent()
    assert box.width < 150
    assert box.width == pytest.approx(2 * box.height)


@pytest.mark.parametrize("name", ["猫 a long name", "a name of many columns' width", "short"])
def test_all_parts_are_inside_the_figure(name: str) -> None:
    block = Block(RNG.normal(size=(3, 12, 1, 28, 28)), limit=1.0, meaning="∂ logit / ∂ pixel")
    figure = draw(block, rows=3, columns=12, name=name, marks=[Mark(2, 11)])
    figure.canvas.draw()
    width, height = figure.get_size_inches() * DOTS_PER_INCH
    for artist in [*figure.texts, *figure.axes, *figure.artists]:
        box = artist.get_window_extent()
        assert box.x0 >= 0, artist
        assert box.y0 >= 0, artist
        assert box.x1 <= width, artist
        assert box.y1 <= height, artist


def test_blocks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(4, 4\), \(8, 8\)"):
        draw(Block(np.zeros((1, 1, 1, 8, 8))), Block(np.zeros((1, 1, 1, 4, 4)), row=1), rows=2, columns=1)
