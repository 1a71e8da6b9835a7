"""The figure of the flow of relevance."""

from pellucid.plots.flow import MOST_JUNCTIONS, flow_figure


def test_bars_end_at_the_sums_of_shares() -> None:
    figure = flow_figure({"a: sum": [("conv", 0.7), ("skip", 0.5), ("other", -0.4)]}, "Flow")
    bars = figure.axes[0].patches
    assert [(bar.get_x(), round(bar.get_x() + bar.get_width(), 6)) for bar in bars] == [(0, 0.7), (0.7, 1.2), (0, -0.4)]
    left, right = figure.axes[0].get_xlim()
    assert left < -0.4
    assert right > 1.2


def test_many_junctions_and_branches_are_shortened() -> None:
    heads = [(f"head {number}", 0.1) for number in range(12)]
    figure = flow_figure({f"{'layers.' * 9}{number}: heads": heads for number in range(MOST_JUNCTIONS + 5)}, "Flow")
    texts = [text.get_text() for text in figure.texts]
    assert "head 0 …" in texts
    assert "head 11" in texts
    assert "head 5" not in texts
    assert any(text.startswith("…") and text.endswith(f"{MOST_JUNCTIONS + 4}: heads") for text in texts)
    assert any("junctions nearest to the output" in text for text in texts)
