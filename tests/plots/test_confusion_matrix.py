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


def test_correct_cells_show_shares_and_errors_numbers_on_a_scale_of_their_own() -> None:
    figure, counts = draw(10)
    right, wrong = figure.axes[0].images
    share = counts / counts.sum(1, keepdims=True)
    errors = counts * (1 - np.eye(10))
    np.testing.assert_allclose(np.diag(right.get_array().filled(0)), np.diag(share))
    np.testing.assert_allclose(wrong.get_array().filled(0), errors)
    assert right.get_clim() == (0, 1)
    assert wrong.get_clim() == (0, errors.max())
    np.testing.assert_array_equal(right.get_array().mask, ~np.eye(10, dtype=bool))
    np.testing.assert_array_equal(wrong.get_array().mask, errors == 0)


def test_other_classes_do_not_set_the_scale_of_the_errors() -> None:
    counts = np.array([[90, 3, 400], [7, 90, 500], [300, 200, 9000]])
    shares = np.full(3, 0.5)
    for has_others, most in ((True, 7), (False, 500)):
        figure = confusion_matrix(counts, ["a", "b", "other"], shares, shares, ("t", ""), has_others=has_others)
        assert figure.axes[0].images[1].get_clim() == (0, most)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_matrix_without_errors_has_one_scale(count: int) -> None:
    shares = np.ones(count)
    figure = confusion_matrix(7 * np.eye(count, dtype=int), [str(k) for k in range(count)], shares, shares, ("t", ""))
    texts = [text.get_text() for text in figure.texts]
    assert "correct: share of the row" in texts
    assert "errors: number of images" not in texts


@pytest.mark.parametrize(("count", "counts", "shares"), [(25, 1, 1), (30, 1, 1), (50, 1, 1), (60, 0, 1), (100, 0, 0)])
def test_numbers_are_written_if_there_is_room(count: int, counts: bool, shares: bool) -> None:
    figure, values = draw(count)
    numbers = [text for text in figure.texts if text.get_text() in {"50.0%", "–", *map(str, values.flatten())}]
    assert sum("50" in text.get_text() and len(text.get_text()) == 3 for text in numbers) == counts * count
    assert sum(text.get_text() in ("50.0%", "–") for text in numbers) == shares * 2 * count
    assert all(text.get_size() >= 6.5 for text in numbers)
