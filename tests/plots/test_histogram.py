import numpy as np

from pellucid.plots._canvas import Canvas
from pellucid.plots.histogram import draw_histogram


def test_equal_values_share_one_bar() -> None:
    axes = draw_histogram(Canvas(400, 300, "title"), (40, 10, 300, 200), np.full(7, 3.0), "value", [3.0])
    heights = [bar.get_height() for bar in axes.patches]
    assert max(heights) == sum(heights) == 7
    assert len(axes.lines) == 1
