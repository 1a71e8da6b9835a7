import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pellucid.plots.colours import class_colours
from pellucid.plots.scatter import scatter

RNG = np.random.default_rng(0)


def test_dots_are_labels_and_rings_are_errors() -> None:
    points, labels = RNG.normal(size=(30, 2)), np.arange(30) % 3
    predictions = labels.copy()
    predictions[[4, 7]] = 0
    figure = scatter(points, labels, predictions, ["$a", "_b", "c"], ("title", ""))
    dots, rings, _ = figure.axes[0].collections
    np.testing.assert_array_equal(dots.get_offsets(), points)
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], class_colours(3)[labels])
    np.testing.assert_array_equal(rings.get_offsets(), points[[4, 7]])
    assert {to_rgb(colour) for colour in rings.get_edgecolors()} == {tuple(class_colours(3)[0])}
    assert not figure.axes[0].axison
    figure.canvas.draw()


def test_one_unit_is_as_long_in_both_directions() -> None:
    figure = scatter(RNG.normal(size=(9, 2)) * [10, 1], np.zeros(9, int), np.zeros(9, int), ["a"], ("title", ""))
    axes = figure.axes[0]
    box = axes.get_window_extent()
    assert np.ptp(axes.get_xlim()) / box.width == pytest.approx(np.ptp(axes.get_ylim()) / box.height)


@pytest.mark.parametrize("count", [1, 40, 41, 100])
def test_any_number_of_classes_and_points(count: int) -> None:
    labels = np.arange(count)
    figure = scatter(np.zeros((count, 2)), labels, labels, [f"number {k}" for k in labels], ("title", ""))
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].texts] == ["number 0"]  # the others would cover it
