import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pellucid.plots.colours import class_colours
from pellucid.plots.scatter import scatter

RNG = np.random.default_rng(0)


def test_dots_have_label_colors_and_rings_mark_errors() -> None:
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


def test_both_axes_have_the_same_scale() -> None:
    figure = scatter(RNG.normal(size=(9, 2)) * [10, 1], np.zeros(9, int), np.zeros(9, int), ["a"], ("title", ""))
    axes = figure.axes[0]
    box = axes.get_window_extent()
    assert np.ptp(axes.get_xlim()) / box.width == pytest.approx(np.ptp(axes.get_ylim()) / box.height)


@pytest.mark.parametrize("count", [1, 40, 41, 100])
def test_any_number_of_classes_and_points(count: int) -> None:
    labels = np.repeat(np.arange(count), 3)
    names = [f"number {k}" for k in range(count)]
    figure = scatter(np.zeros((len(labels), 2)), labels, labels, names, ("title", ""))
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].texts] == ["number 0"]  # the other names would overlap it


def test_names_stay_inside_the_plot() -> None:
    labels = np.repeat(np.arange(4), 5)
    points = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])[labels]
    figure = scatter(points, labels, labels, [f"a rather long name {k}" for k in range(4)], ("title", ""))
    figure.canvas.draw()
    plane = figure.axes[0].get_window_extent()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 4
    assert all(plane.x0 <= box.x0 <= box.x1 <= plane.x1 for box in boxes)
    assert all(plane.y0 <= box.y0 <= box.y1 <= plane.y1 for box in boxes)


def test_small_classes_are_not_hidden_by_their_names() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    figure = scatter(RNG.normal(size=(6, 2)) * 100, labels, labels, ["many", "two", "one"], ("title", ""))
    assert [text.get_text() for text in figure.axes[0].texts] == ["many"]
