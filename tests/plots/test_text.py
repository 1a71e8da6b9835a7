import warnings

import pytest
from matplotlib.figure import Figure

from pellucid.plots._text import class_names, drawable, shorten, text_width, wrap


@pytest.mark.parametrize("text", ["猫 and 犬", "a\tb\nc", "\x00\x1b[31m", "😀", "$x^2$ _y_", "Ünïcödé", ""])
def test_drawable_text_can_be_drawn(text: str) -> None:
    figure = Figure()
    figure.text(0, 0, drawable(text), parse_math=False, weight="bold")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    assert not {"\t", "\n"} & set(drawable(text))


@pytest.mark.parametrize("at_most", [1, 2, 5, 12, 40])
def test_shortened_text_keeps_both_ends(at_most: int) -> None:
    text = "number one hundred and two"
    short = shorten(text, at_most)
    assert len(short) <= at_most
    assert text.startswith(short.split("…")[0])
    assert text.endswith(short.split("…")[-1])


def test_wrapped_lines_fit_and_keep_every_word() -> None:
    text = "what each pixel does to the true class's logit " * 4
    lines = wrap(text, 200, 9, 100)
    assert len(lines) > 3
    assert all(text_width(line, 9, 100) <= 200 for line in lines)
    assert " ".join(lines).split() == text.split()
    assert wrap("Donaudampfschifffahrtsgesellschaft", 20, 9, 100) == ["Donaudampfschifffahrtsgesellschaft"]


def test_bold_is_wider() -> None:
    assert text_width("recall", 9, 100, bold=True) > text_width("recall", 9, 100) > 0


def test_names_with_missing_glyphs_are_prefixed_with_their_index() -> None:
    assert class_names(["猫", "犬", "cat", "a very long name of 鳥"], 12) == ["#0 □", "#1 □", "cat", "#3 a v… of □"]
