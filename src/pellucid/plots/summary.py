"""Summary of a run as one picture for a chat or a slide: accuracy, verdict, mistakes, an explanation, the embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
SMALLEST_TILE, LARGEST_TILE = 112, 200
"""Side of an image in pixels, by the room that the sentences leave."""
ABOVE, BELOW = 26, 40
"""Height of the text above and below an image, in pixels."""
GAP = 14
APART = 16
"""Additional gap between the mistakes and the explanation."""
SIDE, LARGEST_SIDE = 400, 480
"""Side of the embedding in pixels, with images to its left and without any."""
NAMED_CLASSES = 20
"""Maximum number of classes named in the embedding."""
BIG, MEDIUM, SMALL = 40.0, 14.0, 10.5
"""Font sizes in points."""
ACCENT, FOR, AGAINST = "#1f6f8b", "#b2182b", "#2166ac"


@dataclass(frozen=True, eq=False)
class Tile:
    """A misclassified image (height, width) or (height, width, 3), in [0, 1] or as bytes."""

    image: np.ndarray
    label: str
    prediction: str


@dataclass(frozen=True, eq=False)
class Explained:
    """An image with the evidence for its prediction."""

    tile: Tile
    relevance: np.ndarray
    """(height, width), scaled to [−1, 1]."""
    method: str


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
    """The most important number, such as an accuracy."""
    meaning: tuple[str, ...] = ()
    """Meaning of the number, in up to two lines to its right."""
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
    page, shown = _Page(), len(parts.mistakes) + 2 * (parts.explained is not None)
    side = SIDE if shown else LARGEST_SIDE
    right = WIDTH - MARGIN if parts.plane is None else WIDTH - MARGIN - side - 40
    y = page.lines(parts.title, MARGIN, MARGIN, right - MARGIN, (19.0, 30, 1), weight="bold")
    if parts.number:
        y = _draw_number(page, parts, y + 8, right)
    bottom = HEIGHT - MARGIN
    y = _draw_sentences(
        page, parts.sentences, y + 14, bottom - (SMALLEST_TILE + ABOVE + BELOW + 8 if shown else 0), right
    )
    if shown:
        tile = _tile_side(parts, right - MARGIN, bottom - BELOW - ABOVE - y - 8)
        _draw_strip(page, parts, bottom - BELOW - tile, tile, right)
    if parts.plane is not None:
        _draw_plane(page, parts.plane, right + 40, side)
    return page.figure


def _tile_side(parts: Summary, width: float, height: float) -> float:
    """Return the side of the images, so that at least three mistakes fit next to the explanation."""
    count = min(len(parts.mistakes), 4 if parts.plane is None else 3) + 2 * (parts.explained is not None)
    return float(np.clip(min((width - APART - GAP * (count - 1)) / count, height), SMALLEST_TILE, LARGEST_TILE))


class _Page:
    """A white figure with parts placed in pixels from the top left corner."""

    def __init__(self) -> None:
        self.figure = Figure((WIDTH / DOTS_PER_INCH, HEIGHT / DOTS_PER_INCH), dpi=DOTS_PER_INCH, facecolor="white")

    def text(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
        """Draw one line with its top at `y`."""
        style = {"va": "top", "color": INK, "parse_math": False, **style}
        self.figure.text(x / WIDTH, 1 - y / HEIGHT, drawable(text), size=size, **style)

    def lines(self, text: str, x: float, y: float, width: float, font: tuple[float, float, int], **style: Any) -> float:
        """Draw wrapped text and return the y below it; `font` is size, line height and the maximum number of lines."""
        size, step, most = font
        is_bold = style.get("weight") == "bold"
        for line in [text] if most == 1 else wrap(drawable(text), width, size, DOTS_PER_INCH, bold=is_bold)[:most]:
            self.text(x, y, _fitted(line, width, size, bold=is_bold), size, **style)
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


def _fitted(line: str, width: float, size: float, *, bold: bool = False) -> str:
    """Shorten a line until it fits."""
    line = shorten(line, 200)
    while len(line) > 4 and text_width(line, size, DOTS_PER_INCH, bold=bold) > width:
        line = shorten(line, len(line) - 2)
    return line


def _draw_number(page: _Page, parts: Summary, y: float, right: float) -> float:
    page.text(MARGIN, y, parts.number, BIG, weight="bold", color=ACCENT)
    left = MARGIN + text_width(parts.number, BIG, DOTS_PER_INCH, bold=True) + 24
    top = y + 4
    for line in parts.meaning[:3]:
        top = page.lines(line, left, top, right - left, (SMALL + 1, 21, 1), color=PALE)
    return y + 66


def _draw_sentences(page: _Page, sentences: Sequence[str], y: float, bottom: float, right: float) -> float:
    """Draw whole sentences, as many as there is room for, and return the y below them."""
    for sentence in sentences:
        needed = 27 * len(wrap(drawable(sentence), right - MARGIN, MEDIUM, DOTS_PER_INCH))
        if y + needed > bottom:
            break
        y = page.lines(sentence, MARGIN, y, right - MARGIN, (MEDIUM, 27, 99)) + 8
    return y


def _draw_strip(page: _Page, parts: Summary, y: float, tile: float, right: float) -> None:
    """Draw the mistakes that fit, and the explanation behind them, with the top of the images at `y`."""
    x, explained = float(MARGIN), parts.explained
    room = right - (0 if explained is None else 2 * tile + GAP + APART)
    if parts.mistakes:
        page.text(MARGIN, y - ABOVE, "Mistakes" if len(parts.mistakes) > 1 else "Mistake", SMALL, color=PALE)
    for mistake in parts.mistakes:
        if x + tile > room + 1:
            break
        _draw_tile(page, mistake, (x, y), tile)
        x += tile + GAP
    if explained is None:
        return
    x += APART if parts.mistakes else 0
    title = f"Evidence for {shorten(explained.tile.prediction, 16)} by {explained.method}"
    page.text(x, y - ABOVE, _fitted(title, right - x, SMALL), SMALL, color=PALE)
    _draw_tile(page, explained.tile, (x, y), tile)
    x += tile + GAP
    page.image(explained.relevance, x, y, tile, is_signed=True)
    for part, colour, place in (("for", FOR, 0.25), ("against", AGAINST, 0.68)):
        page.text(x + tile * place, y + tile + 8, part, SMALL, color=colour, ha="center")


def _draw_tile(page: _Page, tile: Tile, place: tuple[float, float], side: float) -> None:
    """Draw an image with its classes below, on two lines if they are long."""
    x, y = place
    page.image(tile.image, x, y, side)
    whole = f"{shorten(tile.label, 40)} → {shorten(tile.prediction, 40)}"
    is_short = text_width(whole, SMALL, DOTS_PER_INCH, bold=True) <= side
    for row, line in enumerate([whole] if is_short else [tile.label, f"→ {tile.prediction}"]):
        fitted = _fitted(line, side, SMALL, bold=True)
        page.text(x + side / 2, y + side + 8 + 17 * row, fitted, SMALL, ha="center", color=WRONG, weight="bold")


def _draw_plane(page: _Page, plane: Plane, x: float, side: float) -> None:
    """Draw the embedding with the names of the classes at the median of their points."""
    y = (HEIGHT - side - 28) / 2
    axes = page.figure.add_axes((x / WIDTH, 1 - (y + side) / HEIGHT, side / WIDTH, side / HEIGHT))
    axes.set_axis_off()
    # the colors of the page's embedding, which depend on the number of classes
    colours = class_colours(max(len(plane.classes), int(plane.labels.max(initial=0)) + 1))
    size = float(np.clip(9000 / max(len(plane.points), 1), 6, 40))
    axes.scatter(plane.points[:, 0], plane.points[:, 1], s=size, c=colours[plane.labels], linewidths=0, alpha=0.85)
    low, high = plane.points.min(0), plane.points.max(0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.03, 1e-9)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    names = class_names(plane.classes, 14)
    for label in np.unique(plane.labels) if len(names) <= NAMED_CLASSES else ():
        if label < len(names):
            x_name, y_name = np.median(plane.points[plane.labels == label], axis=0)
            outline = [withStroke(linewidth=3, foreground="white")]
            axes.text(x_name, y_name, names[label], size=SMALL + 1, weight="bold", color=INK, ha="center", va="center",
                      path_effects=outline, parse_math=False)  # fmt: skip
    page.text(x + side / 2, y + side + 10, _fitted(plane.text, side, SMALL), SMALL, ha="center", color=PALE)
