"""HTML cards for displaying results in notebooks: self-contained, in light and dark mode, with all text escaped.

The functions that end in `_html` return markup to be passed to `card`; every other argument is plain text.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["card", "facts_html", "heading_html", "page", "picture_html", "table_html", "text_html"]

STYLE = """
.pellucid-card { --ink: #1b1f24; --pale: #5c666d; --line: #dfe3e5; --warn: #b3440a; color: var(--ink); background: #fff;
  border: 1px solid var(--line); border-radius: 8px; padding: .9em 1.1em; max-width: 56em; font: 14px/1.45 system-ui,
  sans-serif; text-align: left; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  .pellucid-card { --ink: #e6eaec; --pale: #a2adb4; --line: #333c42; --warn: #ffb077; background: #1c2226; }
}
.pellucid-card h3 { font-size: 1.15em; margin: 0 0 .35em; color: inherit; }
.pellucid-card h4 { font-size: 1em; margin: .9em 0 .1em; color: inherit; }
.pellucid-card p { margin: .2em 0 .5em; color: var(--pale); }
.pellucid-card p.warning { color: var(--warn); font-weight: 600; }
.pellucid-card img { display: block; max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
.pellucid-card dl { display: flex; flex-wrap: wrap; gap: .4em 1.8em; margin: .3em 0 .6em; }
.pellucid-card dt { color: var(--pale); font-size: .85em; font-weight: normal; }
.pellucid-card dd { margin: 0; font-weight: 600; }
.pellucid-card .scroll { overflow-x: auto; }
.pellucid-card table { border-collapse: collapse; margin: .3em 0; background: none; color: inherit; }
.pellucid-card th, .pellucid-card td { padding: .2em .7em; border: 0; border-bottom: 1px solid var(--line);
  text-align: right; background: none; color: inherit; white-space: nowrap; }
.pellucid-card th:first-child, .pellucid-card td:first-child { text-align: left; }
.pellucid-card .tokens { line-height: 1.9; color: inherit; }
.pellucid-card .tokens span { padding: .12em .3em; border-radius: .2em; white-space: pre-wrap; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>html {{ color-scheme: light dark; }} body {{ margin: 1.5em; display: grid; justify-content: center; }}</style>
</head><body>
{body}
</body></html>
"""


def card(title: str, *parts: str) -> str:
    """Return a card with a title and parts of markup below it.

    >>> "&lt;script&gt;" in card("<script>", text_html("a & b"))
    True
    """
    body = "\n".join(part for part in parts if part)
    return f'<div class="pellucid-card"><style>{STYLE}</style>\n<h3>{escape(title)}</h3>\n{body}\n</div>'


def page(title: str, body: str) -> str:
    """Return a complete HTML page around markup; the page can neither run scripts nor load anything."""
    return PAGE.format(title=escape(title), body=body)


def heading_html(text: str) -> str:
    """Return a heading; empty for an empty text."""
    return f"<h4>{escape(text)}</h4>" if text else ""


def text_html(text: str, *, is_warning: bool = False) -> str:
    """Return a paragraph; empty for an empty text."""
    kind = ' class="warning"' if is_warning else ""
    return f"<p{kind}>{escape(text)}</p>" if text else ""


def facts_html(facts: Iterable[tuple[str, object]]) -> str:
    """Return a definition list of names and values.

    >>> facts_html([("seed", 0)])
    '<dl><div><dt>seed</dt><dd>0</dd></div></dl>'
    """
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts if value is not None
    )
    return f"<dl>{shown}</dl>" if shown else ""


def table_html(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first column is flush left, the others flush right.

    >>> table_html(["a"], [["<"]])
    '<div class="scroll"><table><tr><th>a</th></tr><tr><td>&lt;</td></tr></table></div>'
    """
    lines = [_row("th", heading), *(_row("td", row) for row in rows)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def picture_html(content: bytes, kind: str, description: str, width: int) -> str:
    """Return an embedded image of a `kind` such as "png", `width` CSS pixels wide; `description` is its alt text."""
    uri = f"data:image/{kind};base64,{b64encode(content).decode()}"
    return f'<img width="{width}" alt="{escape(description)}" src="{uri}">'
