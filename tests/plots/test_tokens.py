"""Colored tokens are escaped and share one scale centered at zero."""

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


def backgrounds(page: str) -> list[str]:
    return re.findall(r'<span title="[^"]*" style="background:(#\w+)', page)


def test_text_is_escaped_and_nothing_is_loaded() -> None:
    page = tokens_html(ROWS, 'what "it" says <b>')
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert "a &amp; b" in page
    assert "http" not in page
    assert "src=" not in page


def test_zero_is_white_and_signs_are_red_and_blue() -> None:
    white, blue, red, full = ([int(c[n : n + 2], 16) for n in (1, 3, 5)] for c in backgrounds(tokens_html(ROWS)))
    assert min(white) > 240
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert sum(full) < sum(red)  # 2 is darker than 1, even in another text
    assert "-2<br>against" in tokens_html(ROWS)
    assert backgrounds(tokens_html(ROWS, limit=4))[1] != backgrounds(tokens_html(ROWS))[1]


def test_dark_backgrounds_have_white_text() -> None:
    pairs = re.findall(r"background:(#\w+);color:(#\w+)", tokens_html(ROWS))
    assert pairs[0][1] != "#ffffff"
    assert pairs[1][1] == "#ffffff"


def test_terminal_text_has_the_same_colors_and_a_legend() -> None:
    text = tokens_text(ROWS, "head")
    assert text.plain.startswith("head\n\na & b\nvery <script> good\n\nbad\n\n-2 against ")
    styles = [str(span.style) for span in text.spans]
    assert all(any(ground in style for style in styles) for ground in backgrounds(tokens_html(ROWS)))
    console = Console(width=80, force_terminal=True, color_system="truecolor")
    with console.capture() as shown:
        console.print(text)
    assert "\x1b[" in shown.get()


def test_empty_zero_and_nan_tokens_are_shown() -> None:
    for row in (TokenRow([], np.zeros(0)), TokenRow(["a"], np.zeros(1)), TokenRow(["a", "b"], np.array([np.nan, 1.0]))):
        assert "</html>" in tokens_html([row])
        assert "for the class" in tokens_text([row]).plain
    assert "</html>" in tokens_html([])


def test_relevance_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"for 2 tokens, got \(2, 3\)"):
        TokenRow(["a", "b"], np.zeros((2, 3)))
