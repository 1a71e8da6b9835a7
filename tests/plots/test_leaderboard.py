import numpy as np

from pellucid.plots.leaderboard import Cell, Column, Curves, Line, leaderboard


def test_bars_grow_with_quality_and_controls_are_at_the_bottom():
    cells = [
        Cell(0.2, 0.1, 0.3, is_best=True),
        Cell(0.4, 0.3, 0.5, is_beaten=True),
        Cell(),
        Cell(0.3, 0.2, 0.4),
        Cell(0.0, 0.0, 0.0, is_trivial=True),
    ]
    methods = ["a", "b(steps=3)", "c", "random", "constant"]
    share = np.linspace(0, 1, 5)
    curves = Curves({name: {"share": share, "most": 1 - share, "least": 1 - share**2} for name in methods}, "logit")
    lines = [Line(methods[0], "= d"), *map(Line, methods[1:])]
    figure = leaderboard(lines, [Column("x_metric", False, cells)], 2, curves, ("title", "subtitle"))
    widths = sorted(bar.get_width() for bar in figure.axes[0].patches)
    assert np.allclose(np.array(widths) / widths[-1], [0, 0.25, 0.5, 1])
    texts = {text.get_text(): text for text in figure.texts}
    assert texts["0.200"].get_weight() == "bold"
    assert texts["0.400"].get_color() == texts["0.000"].get_color() != texts["0.300"].get_color()
    assert texts["steps 3"].get_size() < texts["b"].get_size()
    assert texts["= d"].get_size() == texts["steps 3"].get_size()
    assert len(figure.axes[1].lines) == len(methods) + 1
