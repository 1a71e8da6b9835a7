"""Text layout for figures: replace missing glyphs, measure, shorten and wrap."""

from collections.abc import Sequence
from functools import cache, lru_cache
from math import floor, log10

from matplotlib.font_manager import FontProperties, findfont, get_font

__all__ = ["class_names", "drawable", "short_log_probability", "shorten", "text_width", "wrap"]

MISSING = "□"
"""Placeholder for characters missing from the font."""


def drawable(text: str) -> str:
    r"""Return `text` on one line, with characters missing from the font replaced by □.

    >>> drawable("cat\tor\ndog"), drawable("猫") in ("猫", "□")
    ('cat or dog', True)
    """
    # matplotlib warns about each missing glyph, and warnings are errors in the tests
    known = _known_characters()
    # control characters, such as line breaks in class names, become spaces
    spaced = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return "".join(character if ord(character) in known else MISSING for character in spaced)


def shorten(text: str, at_most: int) -> str:
    """Return `text`, drawable and at most `at_most` characters long; a longer text loses its middle.

    >>> shorten("golden retriever", 9)
    'gold…ever'
    """
    text = drawable(text)
    if len(text) <= at_most:
        return text
    head = at_most // 2
    return f"{text[:head]}…{text[len(text) - (at_most - head - 1) :]}"


def class_names(names: Sequence[str], at_most: int) -> list[str]:
    """Shorten each name; a name with characters missing from the font is prefixed with its index to stay unique.

    >>> class_names(["cat", "猫", "犬"], 9)
    ['cat', '#1 □', '#2 □']
    """
    return [
        shorten(f"#{index} {name}" if MISSING in drawable(name) else name, at_most) for index, name in enumerate(names)
    ]


def short_log_probability(value: float) -> str:
    """Format a log-probability in a few characters.

    >>> short_log_probability(-0.00001234), short_log_probability(-12.34), short_log_probability(-0.0)
    ('−0.00001', '−12', '0')
    """
    # anything closer to 0 rounds to 0 with five decimals
    if value > -5e-6:
        return "0"
    # two significant digits, but at most five decimals
    digits = 0 if value <= -10 else min(5, max(1, 1 - floor(log10(-value))))
    return f"{value:.{digits}f}".replace("-", "−")


@lru_cache(maxsize=10_000)
def text_width(text: str, size: float, dots_per_inch: float, *, bold: bool = False) -> float:
    """Return the width of one line in dots, at a font size of `size` points."""
    font = get_font(_font_path(bold))
    font.set_size(size, dots_per_inch)
    font.set_text(drawable(text))
    return float(font.get_width_height()[0]) / 64  # FreeType measures in 1/64 pixel


def wrap(text: str, width: float, size: float, dots_per_inch: float, *, bold: bool = False) -> list[str]:
    """Break `text` between words into lines of at most `width` dots."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, dots_per_inch, bold=bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@cache
def _font_path(bold: bool) -> str:
    return str(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")))


@cache
def _known_characters() -> frozenset[int]:
    # the same text can appear in either weight
    plain, bold = (frozenset(get_font(_font_path(is_bold)).get_charmap()) for is_bold in (False, True))
    return plain & bold
