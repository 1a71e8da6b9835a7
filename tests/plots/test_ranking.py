"""The figure of mean ranks: positions, colors and texts are those of its rows."""

import numpy as np

from pellucid.plots.ranking import CHOSEN, RankLine, ranking

LINES = [
    RankLine("deeplift", 1.4, 1.2, 1.7, "recommended", is_chosen=True),
    RankLine("integrated_gradients(steps=8)", 1.6, 1.3, 1.9, "tied"),
    RankLine("gradient", 4.5, 4.1, 4.8, "dropped after 16 images", is_faded=True),
]


def test_points_and_intervals_are_at_the_ranks():
    (axes,) = ranking(LINES, ("title", "subtitle")).axes
    intervals, points = axes.lines[0:6:2], axes.lines[1:6:2]
    for line, interval, point in zip(LINES, intervals, points, strict=True):
        assert list(interval.get_xdata()) == [line.low, line.high]
        assert list(point.get_xdata()) == [line.rank]
        assert interval.get_ydata()[0] == point.get_ydata()[0]
    heights = [point.get_ydata()[0] for point in points]
    assert heights == sorted(heights)
    # a rule between the remaining and the dropped methods
    (rule,) = axes.lines[6:]
    assert heights[1] < rule.get_ydata()[0] < heights[2]
    low, high = axes.get_xlim()
    assert low < 1
    assert high > 4.8


def test_only_the_chosen_method_is_bold():
    texts = {text.get_text(): text for text in ranking(LINES, ("title", "subtitle")).texts}
    assert {"title", "subtitle", "recommended", "tied", "gradient"} <= set(texts)
    assert texts["deeplift"].get_color() == CHOSEN
    bold = {name for name, text in texts.items() if text.get_weight() == "bold"}
    assert bold == {"title", "deeplift"}


def test_no_rows_and_equal_rows_can_be_drawn():
    assert len(ranking([], ("title", "")).axes) == 1
    figure = ranking([RankLine("gradient", 1.0, 1.0, 1.0)], ("title", ""))
    assert np.all(np.isfinite(figure.axes[0].get_xlim()))
