"""Tokens of a text colored by relevance, as an HTML page and as text for the terminal.

Red is evidence for the explained class, blue evidence against it and white zero, as in every signed picture of
pellucid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from rich.text import Text

from pellucid.core.errors import ShapeError
from pellucid.plots.colours import INK, PALE, scale_limit, signed_norm, signed_palette

__all__ = ["TokenRow", "token_colours", "token_spans", "tokens_html", "tokens_text"]


@dataclass(frozen=True, eq=False)
class TokenRow:
    """A tokenized text with the relevance of each token."""

    tokens: Sequence[str]
    relevance: np.ndarray
    """Signed relevance (token,); in units of the logit for methods that decompose it."""
    title: str = ""
    """Heading above the text, for example the explained class and its logit."""

    def __post_init__(self) -> None:
        if np.shape(self.relevance) != (len(self.tokens),):
            raise ShapeError(
                f"Expected relevance of shape ({len(self.tokens)},) for {len(self.tokens)} tokens, got "
                f"{np.shape(self.relevance)}. Pass one number per token, e.g. relevance.sum(-1) of one sequence."
            )


def _limit(rows: Sequence[TokenRow], limit: float | None) -> float:
    """Return the end of the color scale shared by all rows."""
    # the empty array allows for no rows at all
    return limit or scale_limit(np.concatenate([np.zeros(0), *(np.asarray(row.relevance) for row in rows)]))


def token_colours(value: float, limit: float) -> tuple[str, str]:
    """Return the background and text color of a token."""
    if not np.isfinite(value):
        return "#d4d7db", INK
    red, green, blue = (round(255 * part) for part in signed_palette()(signed_norm(limit)(value))[:3])
    # White text on backgrounds whose luma (ITU-R BT.601) is below 55%.
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if is_dark else INK


def tokens_html(rows: Sequence[TokenRow], headline: str = "", *, limit: float | None = None) -> str:
    """Return an HTML page with the texts, colored on one scale from −limit to limit, and a legend.

    All text is escaped, and the page loads nothing from elsewhere. The default `limit` clips at most 0.2% of the
    values. Hovering over a token shows its relevance.

    >>> page = tokens_html([TokenRow(["not", "<b>"], np.array([-1.0, 0.5]), "negative")])
    >>> "&lt;b&gt;" in page, "<b>" in page
    (True, False)
    """
    end = _limit(rows, limit)
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(headline) or "Tokens"}</title>',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{escape(headline)}</h1>" if headline else "",
            *(_row_html(row, end) for row in rows),
            _legend_html(end),
            "</body></html>",
        ]
    )


def _legend_html(end: float) -> str:
    # nine stops, because CSS interpolates linearly between them and the palette is not linear
    steps = ", ".join(token_colours(value, end)[0] for value in np.linspace(-end, end, 9))
    bar = f'<i style="background: linear-gradient(to right, {steps})"></i>'
    return (
        f'<div class="legend"><span>{-end:.3g}<br>against</span>{bar}<span>{end:.3g}<br>for the class</span>'
        "<span>white: no relevance</span></div>"
    )


def _row_html(row: TokenRow, limit: float) -> str:
    title = f"<h2>{escape(row.title)}</h2>" if row.title else ""
    return f"<section>{title}<p>{token_spans(row, limit)}</p></section>"


def token_spans(row: TokenRow, limit: float) -> str:
    """Return one escaped HTML `span` per token, with its relevance as color and title."""
    spans = []
    for token, value in zip(row.tokens, np.asarray(row.relevance).tolist(), strict=True):
        ground, ink = token_colours(value, limit)
        spans.append(f'<span title="{value:+.4g}" style="background:{ground};color:{ink}">{escape(token)}</span>')
    return " ".join(spans)


_STYLE = f"""
body {{ font: 17px/1.9 system-ui, sans-serif; color: {INK}; background: #fff; margin: 2em auto; max-width: 46em;
  padding: 0 1em; }}
h1 {{ font-size: 1.25em; line-height: 1.3; }}
h2 {{ font-size: .85em; font-weight: 600; color: {PALE}; margin: 1.6em 0 .1em; line-height: 1.3; }}
p {{ margin: 0; }}
p span {{ padding: .12em .3em; border-radius: .2em; white-space: pre-wrap; -webkit-box-decoration-break: clone;
  box-decoration-break: clone; print-color-adjust: exact; }}
.legend {{ display: flex; gap: .8em; align-items: center; margin: 2.4em 0; font-size: .8em; color: {PALE};
  line-height: 1.3; text-align: center; }}
.legend i {{ width: 16em; height: 1em; border: 1px solid {PALE}; print-color-adjust: exact; }}
"""


def tokens_text(rows: Sequence[TokenRow], headline: str = "", *, limit: float | None = None) -> Text:
    """Color tokens for the terminal; print the result with `rich.print` or a console's `print`.

    >>> print(tokens_text([TokenRow(["not", "bad"], np.array([-1.0, 0.5]), "positive")], limit=1).plain)
    positive
    not bad
    <BLANKLINE>
    -1 against         for the class 1
    """
    end = _limit(rows, limit)
    text = Text()
    if headline:
        text.append(f"{headline}\n\n", "bold")
    for row in rows:
        if row.title:
            text.append(f"{row.title}\n", "dim")
        for place, (token, value) in enumerate(zip(row.tokens, np.asarray(row.relevance).tolist(), strict=True)):
            ground, ink = token_colours(value, end)
            text.append(" " if place else "")
            text.append(token, f"{ink} on {ground}")
        text.append("\n\n")
    text.append(f"{-end:.3g} against ")
    for value in np.linspace(-end, end, 7):
        text.append(" ", f"on {token_colours(value, end)[0]}")
    return text.append(f" for the class {end:.3g}")
