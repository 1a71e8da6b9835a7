import numpy as np

from pellucid.plots.class_maps import class_maps


def test_maps_are_white_at_zero_and_gray_for_nan() -> None:
    maps = np.zeros((2, 2, 4, 4))
    maps[0, 0] = 2.0
    maps[1] = np.nan
    spread = np.array([1.0, 2.0, 3.0, np.inf])
    figure = class_maps(maps, [("a", ""), ("b", "no image")], ["x", "y"], spread, ("title", "subtitle"))
    shown = figure.axes[0].images[0]
    assert shown.get_clim() == (0.0, 2.0)
    assert tuple(shown.cmap(0.0)[:3]) > (0.99, 0.9, 0.9)
    assert int(sum(bar.get_height() for bar in figure.axes[2].patches)) == 3


def test_histogram_without_values() -> None:
    figure = class_maps(np.zeros((1, 1, 4, 4)), [("a", "")], ["x"], np.zeros(0), ("title", "subtitle"))
    assert figure.axes[2].patches
