"""Tests of plots/concepts.py: tiles keep the values of maps and crops, and borders can be told from white pixels."""

import numpy as np
import pytest

from pellucid.core.errors import ShapeError
from pellucid.plots.concepts import BORDER, LARGEST, concepts_figure, enlarged, references_figure

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("sides", "tile"), [((28, 28), 84), ((64, 64), 64), ((13, 9), 91), ((224, 224), LARGEST)])
def test_tiles_are_whole_multiples_that_fit(sides, tile) -> None:
    image = RNG.random((1, *sides))
    figure = concepts_figure(image, RNG.normal(size=(2, 1, *sides)), [3, 1], [0.4, -0.1], [[], []], "t", "s")
    assert figure.axes[0].images[0].get_array().shape == (tile, tile)


def test_maps_keep_their_values_and_their_order() -> None:
    maps = RNG.normal(size=(2, 3, 12, 12))
    figure = concepts_figure(RNG.random((3, 12, 12)), maps, [7, 2], [0.5, -0.25], [[], []], "title", "subtitle")
    shown = np.asarray(figure.axes[1].images[0].get_array())
    for row in range(2):
        tile = shown[row * (len(shown) - 96) :][:96]  # two tiles and the gap between them
        np.testing.assert_allclose(tile[::8, ::8], maps[row].sum(0), rtol=1e-5)
    low, high = figure.axes[1].images[0].get_clim()
    assert low == -high
    texts = [text.get_text() for text in figure.texts]
    assert [text for text in texts if "%" in text] == ["+50%", "−25%"]
    assert texts.index("channel 7") < texts.index("channel 2")


def test_borders_differ_from_white_pixels() -> None:
    tile = enlarged(np.ones((1, 4, 8)), 16)
    assert np.unique(tile).tolist() == [BORDER, 1.0]
    assert (tile[0, 4:12] == 1).all()
    assert enlarged(-np.ones((1, 4, 8)), 16, is_signed=True)[0, 0, 0] == 0


def test_downsampling_averages() -> None:
    image = RNG.random((3, 192, 192))
    means = image.reshape(3, 96, 2, 96, 2).mean((2, 4))
    np.testing.assert_allclose(enlarged(image, 96), means, rtol=1e-5)


def test_channels_without_references_leave_a_gap() -> None:
    figure = references_figure([[np.zeros((1, 5, 5))], []], ["0", "1"], ["for cat", "no evidence"], "t", "s")
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown[:95].max() == 0
    assert shown[-95:].min() == 1
    with pytest.raises(ShapeError, match="has a reference image"):
        references_figure([[], []], ["0", "1"], ["", ""], "t", "s")


def test_values_that_are_no_image_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"Expected an image \(channel, height, width\), got \(5,\)"):
        concepts_figure(np.zeros(5), np.zeros((1, 5)), [0], [1.0], [[]], "t", "s")
