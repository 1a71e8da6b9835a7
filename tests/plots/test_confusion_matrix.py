import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pellucid.plots._canvas import DOTS_PER_INCH
from pellucid.plots.confusion_matrix import confusion_matrix


def draw(count: int, name: str = "class") -> tuple[Figure, np.ndarray]:
    counts = np.random.default_rng(0).integers(0, 9, (count, count)) + 500 * np.eye(count, dtype=int)
    shares = np.full(count, 0.5)
    shares[0] = np.nan
    return confusion_matrix(counts, [f"{name} {k}" for k in range(count)], shares, shares, ("title", "sub")), counts


@pytest.mark.parametrize("count", [1, 2, 10, 26, 100])
def test_text_stays_inside_for_any_number_of_classes(count: int) -> None:
    figure, _ = draw(count, name="a $long_ name")
    canvas = FigureCanvasAgg(figure)  # without a renderer, each text makes one of its own, of several megabytes
    canvas.draw()
    width, height = figure.get_size_inches() * DOTS_PER_INCH
    assert width < 1400
    assert height < 1400
    for text in figure.texts:
        box = text.get_window_extent(canvas.get_renderer())
        assert -1 <= box.x0 <= box.x1 <= width + 1, text
        assert -1 <= box.y0 <= box.y1 <= height + 1, text


def test_cells_show_shares_of_the_row() -> None:
    figure, counts = draw(10)
    right, wrong = figure.axes[0].images
    share = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(np.diag(right.get_array().filled(0)), np.diag(share))
    np.testing.assert_allclose(wrong.get_array().filled(0), share * (1 - np.eye(10)))
    assert right.get_clim() == wrong.get_clim() == (0, 1)
    np.testing.assert_array_equal(right.get_array().mask, ~np.eye(10, dtype=bool))


@pytest.mark.parametrize(("count", "counts", "shares"), [(25, 1, 1), (30, 1, 1), (50, 1, 1), (60, 0, 1), (100, 0, 0)])
def test_numbers_are_written_if_there_is_room(count: int, counts: bool, shares: bool) -> None:
    figure, values = draw(count)
    numbers = [text for text in figure.texts if text.get_text() in {"50.0%", "–", *map(str, values.flatten())}]
    assert sum("50" in text.get_text() and len(text.get_text()) == 3 for text in numbers) == counts * count
    assert sum(text.get_text() in ("50.0%", "–") for text in numbers) == shares * 2 * count
    assert all(text.get_size() >= 6.5 for text in numbers)
