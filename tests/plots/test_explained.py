"""Inputs beside their relevance: what the axes hold, for each kind of input."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from pellucid.core.errors import ShapeError
from pellucid.plots import explained_image
from pellucid.plots._explained import pooled
from pellucid.plots.encoding import encode, small_picture
from pellucid.plots.explained import Explained, explained
from pellucid.plots.explained_volume import largest_slices

RANDOM = np.random.default_rng(0)


def images_of(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_image_is_drawn_beside_its_map_summed_over_channels() -> None:
    values, relevance = RANDOM.random((3, 6, 7)), RANDOM.normal(size=(3, 6, 7))
    figure = explained([Explained(values, relevance, "logits", "heading", ("line",))], "title", "subtitle")
    picture, plane, overlay = images_of(figure)[:3]
    np.testing.assert_allclose(picture, values.transpose(1, 2, 0))
    np.testing.assert_allclose(plane, relevance.sum(0))
    np.testing.assert_array_equal(overlay, plane)
    low, high = figure.axes[1].images[0].get_clim()
    assert -low == high == pytest.approx(np.quantile(np.abs(plane), 0.998))
    assert {"title", "subtitle", "heading", "line", "logits", "relevance, summed over channels"} <= set(
        texts_of(figure)
    )


def test_scale_maps_values_to_black_and_white() -> None:
    values = np.array([[[-2.0, 0.0, 2.0, 5.0]]])
    figure = explained([Explained(values, np.ones((1, 1, 4)), scale=(-2, 2))])
    np.testing.assert_allclose(images_of(figure)[0], [[0, 0.5, 1, 1]])
    assert "relevance (no unit)" in texts_of(figure)


def test_outline_lies_on_the_edges() -> None:
    values = np.zeros((1, 40, 40))
    values[:, :, 20:] = 1
    strength = explained_image._outline(values, (160, 160))
    assert strength[:, 76:84].max(1).min() > 0.5  # a line along the edge, in every row
    assert strength[:, :70].max() == strength[:, 90:].max() == 0
    assert explained_image._outline(np.full((3, 5, 5), 0.7), (50, 50)).max() == 0


def test_colors_of_equal_brightness_have_an_edge() -> None:
    values = np.zeros((3, 40, 40))
    values[0, :, :20] = values[1, :, 20:] = 1
    assert explained_image._outline(values, (160, 160))[:, 76:84].max(1).min() > 0.5


def test_large_maps_are_averaged() -> None:
    relevance = RANDOM.normal(size=(1, 1000, 465))
    figure = explained([Explained(np.zeros((1, 1000, 465)), relevance)])
    plane = images_of(figure)[1]
    assert plane.shape == (334, 155)
    np.testing.assert_allclose(plane[5, 7], relevance[0, 15:18, 21:24].mean())
    assert "relevance, means of 3×3 pixels" in texts_of(figure)


def test_pooling_keeps_constants_at_the_edges() -> None:
    small, side = pooled(np.ones((2, 7, 11)), 4)
    assert side == 3
    assert small.shape == (2, 3, 4)
    np.testing.assert_allclose(small, 1)


def test_signal_is_a_line_over_its_relevance() -> None:
    values, relevance = RANDOM.normal(size=(2, 50)), RANDOM.normal(size=(2, 50))
    figure = explained([Explained(values, relevance, "logits")])
    for channel in range(2):
        axes = figure.axes[channel]
        np.testing.assert_allclose(axes.lines[0].get_ydata(), values[channel])
        np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), relevance[channel][None])
        low, high = axes.images[0].get_clim()
        assert -low == high
    # one scale for both channels
    assert figure.axes[0].images[0].get_clim() == figure.axes[1].images[0].get_clim()


def test_volume_shows_the_most_relevant_slices() -> None:
    relevance = RANDOM.normal(size=(2, 9, 5, 6)) * 0.01
    relevance[:, [1, 3, 4, 8]] += 1
    values = RANDOM.random((2, 9, 5, 6))
    assert largest_slices(relevance) == [1, 3, 4, 8]
    drawn = images_of(explained([Explained(values, relevance)]))
    np.testing.assert_allclose(drawn[0], values[:, 1].mean(0))
    for number, depth in enumerate((1, 3, 4, 8)):
        np.testing.assert_allclose(drawn[2 * number + 1], relevance[:, depth].sum(0))


def test_values_are_bars_and_the_rest_is_stated() -> None:
    relevance = np.arange(20.0) - 3
    figure = explained([Explained(np.arange(20.0), relevance)])
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    # the sixteen largest by size, in order: without 1, 2, 3 and one of −2, −1, 0
    kept = sorted(np.argsort(-np.abs(relevance), kind="stable")[:16].tolist())
    np.testing.assert_allclose(widths, relevance[kept])
    rest = relevance.sum() - relevance[kept].sum()
    assert f"The 16 most relevant of 20 values; the others sum to {rest:.4g}." in texts_of(figure)


def test_values_without_relevance_have_no_sign() -> None:
    figure = explained([Explained(np.ones(3), np.array([1.5, -0.0, -1e-9]), "logits")])
    assert [text.get_text() for text in figure.axes[0].texts] == ["+1.50", "0", "0"]


def test_tokens_are_boxes_colored_by_relevance() -> None:
    tokens = ("not", "b$d$", "猫")
    figure = explained([Explained(np.array([5, 6, 7]), np.array([-1.0, 1.0, 0.0]), tokens=tokens)])
    against, before, neutral = (patch.get_facecolor() for patch in figure.axes[0].patches)
    assert against[2] > against[0]
    assert before[0] > before[2]
    assert min(neutral[:3]) > 0.95
    assert {"not", "b$d$", "□"} <= set(texts_of(figure))
    many = explained([Explained(np.zeros(300, int), np.zeros(300), tokens=("a",) * 300)])
    assert len(many.axes[0].patches) == 256
    assert any("The first 256 of 300 tokens." in text for text in texts_of(many))


@pytest.mark.parametrize("shape", [(1,), (40,), (1, 1), (3, 5000), (1, 1, 1), (3, 2, 900), (1, 2, 3, 1)])
@pytest.mark.parametrize("value", [0.0, 1e-30, np.nan])
def test_degenerate_maps_are_drawn(shape: tuple[int, ...], value: float) -> None:
    figure = explained([Explained(np.full(shape, 0.5), np.full(shape, value))])
    assert encode(figure, "png")[:4] == b"\x89PNG"


def test_rows_of_all_kinds_share_a_figure() -> None:
    shapes = [(4,), (2, 30), (3, 8, 8), (1, 3, 8, 8)]
    rows = [Explained(np.ones(shape), np.ones(shape), heading=str(shape)) for shape in shapes]
    figure = explained([*rows, Explained(np.arange(2), np.ones(2), tokens=("a", "b"), heading="tokens")], "all")
    assert {*map(str, shapes), "tokens", "all"} <= set(texts_of(figure))
    assert encode(figure, "svg") == encode(figure, "svg")


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="one shape with 1 to 4 axes"):
        Explained(np.zeros(3), np.zeros(4))
    with pytest.raises(ShapeError, match="one number per token"):
        Explained(np.zeros(3), np.zeros(3), tokens=("a",))
    with pytest.raises(ShapeError, match="nothing to draw"):
        explained([])


def test_small_picture_keeps_to_its_limit() -> None:
    noise = RANDOM.normal(size=(3, 150, 150))
    figure = explained([Explained(RANDOM.random((3, 150, 150)), noise)])
    for most in (10_000_000, 60_000, 3_000):
        content, kind, width = small_picture(figure, most)
        assert len(content) <= most
        assert kind == ("png" if most > 1e6 else "webp")
        assert width == round(figure.get_figwidth() * 100)
