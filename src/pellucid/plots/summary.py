"""Summary of a run as one picture for a chat or a slide: accuracy, verdict, mistakes, an explanation, the embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from pellucid.plots._text import class_names, drawable, shorten, text_width, wrap
from pellucid.plots.colours import INK, PALE, WRONG, class_colours, signed_palette

__all__ = ["Explained", "Plane", "Summary", "Tile", "summary"]

WIDTH, HEIGHT = 1200, 630
"""Size in pixels, that of link previews."""
DOTS_PER_INCH = 100
MARGIN = 44
TILE = 104
"""Side of an image in pixels."""
GAP = 14
SIDE = 400
"""Side of the embedding in pixels."""
NAMED_CLASSES = 20
"""Maximum number of classes named in the embedding."""
BIG, MEDIUM, SMALL = 40.0, 14.0, 10.5
"""Font sizes in points."""
ACCENT = "#1f6f8b"


@dataclass(frozen=True, eq=False)
class Tile:
    """An image (height, width) or (height, width, 3) in [0, 1] or as bytes, with the text below it."""

    image: np.ndarray
    text: str


@dataclass(frozen=True, eq=False)
class Explained:
    """An image with its relevance map."""

    image: np.ndarray
    relevance: np.ndarray
    """(height, width), scaled to [−1, 1]."""
    title: str
    text: str


@dataclass(frozen=True, eq=False)
class Plane:
    """Points (point, 2) of an embedding with their class indices."""

    points: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    text: str


@dataclass(frozen=True, eq=False)
class Summary:
    """The parts of the picture; those that are None or empty are left out."""

    title: str
    number: str = ""
    """The most important number, such as an accuracy, and beside it what it means, in up to two lines."""
    meaning: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    mistakes: tuple[Tile, ...] = ()
    explained: Explained | None = None
    plane: Plane | None = None


def summary(parts: Summary) -> Figure:
    """Draw the parts on 1200×630 pixels; whatever is missing leaves its place to the others.

    >>> figure = summary(Summary("cnn on digits", "98.00%", ("test accuracy",)))
    >>> (figure.get_size_inches() * figure.dpi).round().tolist()
    [1200.0, 630.0]
    """
    page = _Page()
    right = WIDTH - MARGIN if parts.plane is None else WIDTH - MARGIN - SIDE - 40
    y = page.lines(parts.title, MARGIN, MARGIN, right - MARGIN, (15.0, 24, 1), weight="bold")
    if parts.number:
        y = _draw_number(page, parts, y + 8, right)
    has_strip = bool(parts.mistakes) or parts.explained is not None
    strip = HEIGHT - MARGIN - TILE - 54 if has_strip else HEIGHT - MARGIN
    _draw_sentences(page, parts.sentences, y + 14, strip - 16, right)
    x = MARGIN
    if parts.mistakes:
        taken = 2 * TILE + GAP + 30 if parts.explained is not None else 0
        x = _draw_mistakes(page, parts.mistakes, strip, right - taken)
    if parts.explained is not None:
        _draw_explained(page, parts.explained, x, strip, right)
    if parts.plane is not None:
        _draw_plane(page, parts.plane, right + 40)
    return page.figure


class _Page:
    """A white figure with parts placed in pixels from the top left corner."""

    def __init__(self) -> None:
        self.figure = Figure((WIDTH / DOTS_PER_INCH, HEIGHT / DOTS_PER_INCH), dpi=DOTS_PER_INCH, facecolor="white")

    def text(self, x: float, y: float, text: str, size: float, **style: object) -> None:
        """Draw one line with its top at `y`."""
        style = {"va": "top", "color": INK, "parse_math": False, **style}
        self.figure.text(x / WIDTH, 1 - y / HEIGHT, drawable(text), size=size, **style)

    def lines(
        self, text: str, x: float, y: float, width: float, font: tuple[float, float, int], **style: object
    ) -> float:
        """Draw wrapped text and return the y below it; `font` is size, line height and the maximum number of lines."""
        size, step, most = font
        lines = wrap(drawable(text), width, size, DOTS_PER_INCH, bold=style.get("weight") == "bold")
        if len(lines) > most:
            lines = [*lines[: most - 1], f"{lines[most - 1].rstrip('.,;:')} …"]
        for line in lines:
            self.text(x, y, _fitted(line, width, size), size, **style)
            y += step
        return y

    def image(self, image: np.ndarray, x: float, y: float, side: float, *, is_signed: bool = False) -> None:
        """Draw an image in a square, keeping its aspect."""
        axes = self.figure.add_axes((x / WIDTH, 1 - (y + side) / HEIGHT, side / WIDTH, side / HEIGHT))
        axes.set_axis_off()
        plain = image.squeeze()
        # small images show their pixels; large ones are reduced without moiré
        smooth = "nearest" if max(plain.shape[:2]) <= side / 2 else "antialiased"
        if is_signed:
            axes.imshow(plain, cmap=signed_palette(), vmin=-1, vmax=1, interpolation=smooth)
        else:
            axes.imshow(plain, cmap="gray", vmin=0, vmax=255 if plain.dtype == np.uint8 else 1, interpolation=smooth)


def _fitted(line: str, width: float, size: float) -> str:
    """Shorten a line that has no space to break it at."""
    while len(line) > 4 and text_width(line, size, DOTS_PER_INCH) > width:
        line = shorten(line, len(line) - 2)
    return line


def _draw_number(page: _Page, parts: Summary, y: float, right: float) -> float:
    page.text(MARGIN, y, parts.number, BIG, weight="bold", color=ACCENT)
    left = MARGIN + text_width(parts.number, BIG, DOTS_PER_INCH, bold=True) + 24
    top = y + 4
    for line in parts.meaning[:3]:
        top = page.lines(line, left, top, right - left, (SMALL + 1, 21, 1), color=PALE)
    return y + 66


def _draw_sentences(page: _Page, sentences: Sequence[str], y: float, bottom: float, right: float) -> None:
    """Draw whole sentences, as many as there is room for."""
    for sentence in sentences:
        needed = 27 * len(wrap(drawable(sentence), right - MARGIN, MEDIUM, DOTS_PER_INCH))
        if y + needed > bottom:
            return
        y = page.lines(sentence, MARGIN, y, right - MARGIN, (MEDIUM, 27, 99)) + 8


def _draw_mistakes(page: _Page, mistakes: Sequence[Tile], y: float, right: float) -> float:
    """Draw the images in one row and return the x behind them."""
    page.text(MARGIN, y, "Mistakes" if len(mistakes) > 1 else "Mistake", SMALL, color=PALE)
    x = float(MARGIN)
    for tile in mistakes:
        if x + TILE > right:
            break
        page.image(tile.image, x, y + 24, TILE)
        text = _fitted(tile.text, TILE, SMALL)
        page.text(x + TILE / 2, y + 24 + TILE + 8, text, SMALL, ha="center", color=WRONG, weight="bold")
        x += TILE + GAP
    return x + 30 - GAP


def _draw_explained(page: _Page, explained: Explained, x: float, y: float, right: float) -> None:
    page.text(x, y, _fitted(explained.title, right - x, SMALL), SMALL, color=PALE)
    page.image(explained.image, x, y + 24, TILE)
    page.image(explained.relevance, x + TILE + GAP, y + 24, TILE, is_signed=True)
    page.text(x, y + 24 + TILE + 8, _fitted(explained.text, right - x, SMALL), SMALL, color=PALE)


def _draw_plane(page: _Page, plane: Plane, x: float) -> None:
    """Draw the embedding with the names of the classes at the median of their points."""
    y = (HEIGHT - SIDE - 28) / 2
    axes = page.figure.add_axes((x / WIDTH, 1 - (y + SIDE) / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT))
    axes.set_axis_off()
    # the colors of the page's embedding, which depend on the number of classes
    colours = class_colours(max(len(plane.classes), int(plane.labels.max(initial=0)) + 1))
    size = float(np.clip(9000 / max(len(plane.points), 1), 6, 40))
    axes.scatter(*plane.points.T, s=size, c=colours[plane.labels], linewidths=0, alpha=0.85)
    low, high = plane.points.min(0), plane.points.max(0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.03, 1e-9)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    names = class_names(plane.classes, 14)
    for label in np.unique(plane.labels) if len(names) <= NAMED_CLASSES else ():
        if label < len(names):
            place = np.median(plane.points[plane.labels == label], axis=0)
            outline = [withStroke(linewidth=3, foreground="white")]
            axes.text(*place, names[label], size=SMALL + 1, weight="bold", color=INK, ha="center", va="center",
                      path_effects=outline, parse_math=False)  # fmt: skip
    page.text(x + SIDE / 2, y + SIDE + 10, _fitted(plane.text, SIDE, SMALL), SMALL, ha="center", color=PALE)
