"""Figures of layer statistics and attention heads."""

import numpy as np
import pytest

from pellucid.plots.heads import heads_figure
from pellucid.plots.layers import MOST_ROWS, layers_figure

ROW = {
    "title": "0 (ReLU)",
    "is_activation": True,
    "units": 10,
    "dead": 3,
    "saturated": None,
    "rank_bound": 8,
    "effective_rank": 3.5,
    "gradient_norm": 0.1,
    "quantiles": [0, 0, 0, 1, 2],
}


def record(rows):
    return {"layers": rows, "images": 100, "active_bound": 0.03}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [one.get_text() for one in figure.texts]


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_bars_have_the_values():
    rows = [ROW, {**ROW, "saturated": 5, "dead": 0}, {**ROW, "is_activation": False, "effective_rank": 8.0}]
    figure = layers_figure(record(rows), "Layers")
    _, lost, rank, gradients = figure.axes
    assert widths(lost) == pytest.approx([0.3, 0, 0, 0.5])
    assert widths(rank) == pytest.approx([3.5 / 8, 3.5 / 8, 1])
    assert {"3 of 10", "5 sat.", "3.5 of 8", "8.0 of 8"} <= set(texts(figure))
    assert gradients.get_xscale() == "log"


def test_missing_values_are_said():
    row = {**ROW, "quantiles": [None] * 5, "effective_rank": None, "gradient_norm": None}
    shown = texts(layers_figure(record([row, {**row, "gradient_norm": 0.0}]), "Layers"))
    assert {"NaN or infinite", "–", "no gradients"} <= set(shown)


def test_deep_networks_are_thinned_out():
    rows = [{**ROW, "title": f"{number} (ReLU)"} for number in range(200)]
    shown = texts(layers_figure(record(rows), "Layers"))
    assert sum(one.endswith("(ReLU)") for one in shown) == MOST_ROWS
    assert {"0 (ReLU)", "199 (ReLU)"} <= set(shown)
    assert f"Shows {MOST_ROWS} of 200 layers." in " ".join(shown)


def test_similarity_is_drawn_from_zero_to_one():
    cka = np.array([[1.0, -0.1], [-0.1, np.nan]])
    figure = layers_figure(record([ROW]), "Layers", "", (["a", "b"], cka))
    image = figure.axes[4].images[0]
    assert image.get_clim() == (0, 1)
    drawn = image.get_array()
    assert drawn[0, 1] == 0
    assert bool(drawn.mask[1, 1])


def test_heads_share_one_scale():
    shares, maps = np.array([[0.5, -0.2], [np.nan, 0.1]]), np.array([[[0.0, 0.2]], [[0.1, 0.4]]])
    figure = heads_figure(shares, ["a", "b" * 80], ("Heads", ""), np.zeros((2, 1, 1, 2)), maps)
    table = figure.axes[0].images[0]
    assert table.get_clim() == pytest.approx((-0.5, 0.5), abs=0.005)
    assert [text.get_text() for text in figure.axes[0].texts] == ["50%", "-20%", "10%"]
    drawn = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_clim() for image in drawn[1:]] == [(0, 1), (0, 0.4), (0, 1), (0, 0.4)]
