"""Table of AUROC with histograms."""

import numpy as np
import pytest

from pellucid.core.errors import ShapeError
from pellucid.plots.labels import Label
from pellucid.plots.out_of_distribution import BINS, Column, histogram_edges, out_of_distribution

ROWS = [Label("energy", "− log Σ exp logit"), Label("softmax")]


def column(name, areas=(0.9, 0.2), **changes):
    cells = [(area, area - 0.05, area + 0.05, 1 - area) for area in areas]
    draw = np.random.default_rng(len(name))
    return Column(name, cells, draw.normal(size=50) + 2, **changes)


def axes_of(figure):
    """Return the axes of the table, then those of the histograms."""
    table = next(axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape[0] == 2)
    return table, [axes for axes in figure.axes if len(axes.patches) == 2]


def test_cells_are_colored_around_chance():
    figure = out_of_distribution(ROWS, [column("a"), column("bb")], ("energy", np.arange(9.0)), ("title", "subtitle"))
    table, _ = axes_of(figure)
    shown = table.images[0]
    np.testing.assert_array_equal(shown.get_array(), [[0.9, 0.9], [0.2, 0.2]])
    assert shown.get_clim() == (0, 1)
    # 0.5 is white, perfect separation blue, and the opposite red
    red, white, blue = shown.get_cmap()([0.0, 0.5, 1.0])[:, :3]
    assert white.min() > 0.95
    assert blue.argmax() == 2
    assert red.argmax() == 0
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("0.850 … 0.950") == texts.count("FPR 80.0%") == 2


def test_histograms_have_shares_of_each_sample():
    inside = np.random.default_rng(0).normal(size=400)
    figure = out_of_distribution(ROWS, [column("a"), column("bb")], ("energy", inside), ("title", "subtitle"))
    _, panels = axes_of(figure)
    assert len(panels) == 2
    for panel in panels:
        known, other = (patch.get_data() for patch in panel.patches)
        assert known.values.sum() == pytest.approx(1)
        assert other.values.sum() == pytest.approx(1)
        np.testing.assert_array_equal(known.edges, other.edges)
    # one scale for all panels
    assert len({panel.get_xlim() for panel in panels}) == len({panel.get_ylim() for panel in panels}) == 1


def test_heavy_tails_have_a_logarithmic_axis():
    inside = np.exp(np.random.default_rng(0).normal(size=500) * 3)
    figure = out_of_distribution(ROWS, [column("a")], ("energy", inside), ("title", "subtitle"))
    # the other sample has negative values
    assert {panel.get_xscale() for panel in axes_of(figure)[1]} == {"linear"}
    positive = Column("a", column("a").cells, inside * 10)
    figure = out_of_distribution(ROWS, [positive], ("energy", inside), ("title", "subtitle"))
    (panel,) = axes_of(figure)[1]
    assert panel.get_xscale() == "log"
    assert 1 <= len(panel.get_xticks()) <= 3


@pytest.mark.parametrize("values", [np.zeros(5), np.full(3, -7.0), np.full(4, 1e12)], ids=str)
def test_equal_values_have_a_range(values):
    edges, is_logarithmic = histogram_edges([values, values])
    assert not is_logarithmic
    assert len(edges) == BINS + 1
    assert (np.diff(edges) > 0).all()


def test_examples_are_drawn_in_gray_or_color():
    examples = [np.zeros((1, 4, 6)), np.ones((3, 300, 200)), np.ones((2, 5, 5))]
    columns = [column(str(number), example=example) for number, example in enumerate(examples)]
    figure = out_of_distribution(ROWS, columns, ("energy", np.arange(9.0)), ("title", "subtitle"))
    sizes = [axes.images[0].get_array().shape for axes in figure.axes if axes.images]
    assert sizes[:3] == [(4, 6), (300, 200, 3), (5, 5)]


def test_every_column_needs_a_cell_for_each_row():
    with pytest.raises(ShapeError, match="2 cells in the columns b"):
        out_of_distribution(ROWS, [column("a"), column("b", (0.5,))], ("energy", np.arange(9.0)), ("title", ""))
