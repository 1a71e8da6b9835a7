"""Coloured tokens: escaped, centred at zero, on one scale, with a legend."""

import re

import numpy as np
import pytest
from rich.console import Console

from pellucid.core.errors import ShapeError
from pellucid.plots.tokens import TokenRow, tokens_html, tokens_text

ROWS = [
    TokenRow(["very", "<script>", "good"], np.array([0.0, -2.0, 1.0]), "a & b"),
    TokenRow(["bad"], np.array([2.0])),
]


def grounds(page: str) -> list[str]:
    return re.findall(r'<span title="[^"]*" style="background:(#\w+)', page)


def test_everything_given_is_escaped_and_nothing_is_loaded() -> None:
    page = tokens_html(ROWS, 'what "it" says <b>')
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert "a &amp; b" in page
    assert "http" not in page
    assert "src=" not in page


def test_zero_is_white_and_the_signs_are_red_and_blue_on_one_scale() -> None:
    white, blue, red, full = ([int(c[n : n + 2], 16) for n in (1, 3, 5)] for c in grounds(tokens_html(ROWS)))
    assert min(white) > 240
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert sum(full) < sum(red)  # 2 is darker than 1, in another text too
    assert "-2<br>against" in tokens_html(ROWS)
    assert grounds(tokens_html(ROWS, limit=4))[1] != grounds(tokens_html(ROWS))[1]


def test_dark_grounds_have_white_ink() -> None:
    pairs = re.findall(r"background:(#\w+);color:(#\w+)", tokens_html(ROWS))
    assert pairs[0][1] != "#ffffff"
    assert pairs[1][1] == "#ffffff"


def test_the_terminal_has_the_same_colours_and_a_legend() -> None:
    text = tokens_text(ROWS, "head")
    assert text.plain.startswith("head\n\na & b\nvery <script> good\n\nbad\n\n-2 against ")
    styles = [str(span.style) for span in text.spans]
    assert all(any(ground in style for style in styles) for ground in grounds(tokens_html(ROWS)))
    console = Console(width=80, force_terminal=True, color_system="truecolor")
    with console.capture() as shown:
        console.print(text)
    assert "\x1b[" in shown.get()


def test_no_tokens_all_zero_and_no_number_are_shown_too() -> None:
    for row in (TokenRow([], np.zeros(0)), TokenRow(["a"], np.zeros(1)), TokenRow(["a", "b"], np.array([np.nan, 1.0]))):
        assert "</html>" in tokens_html([row])
        assert "for the class" in tokens_text([row]).plain
    assert "</html>" in tokens_html([])


def test_numbers_that_do_not_fit_are_told() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\) for 2 tokens"):
        TokenRow(["a", "b"], np.zeros((2, 3)))
