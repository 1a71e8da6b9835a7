"""Robustness: accuracy on corrupted images, radii of attacks against their estimates, movement of explanations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.plots._canvas import MARGIN, SMALL, Canvas
from pellucid.plots._text import shorten
from pellucid.plots.colours import INK, PALE, WRONG, gray_or_rgb, scale_limit, signed_norm, signed_palette

__all__ = [
    "CorruptionCurve",
    "ExampleRow",
    "MovementPanel",
    "RadiusPanel",
    "accuracy_under_corruption",
    "movement_histograms",
    "radii_by_estimate",
]

ACCENT, CONTROL = "#2563a8", "#9aa2ad"
TILE_DOTS = 48
PANEL_DOTS = 300
EXAMPLE_DOTS = 72


@dataclass(frozen=True, eq=False)
class CorruptionCurve:
    """Accuracy and an example image at each strength of a corruption, starting with strength 0."""

    name: str
    unit: str
    strengths: Sequence[float]
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    examples: np.ndarray
    """(strength, channel, height, width) in [0, 1]."""


@dataclass(frozen=True, eq=False)
class RadiusPanel:
    """Radii of attacks and their estimates, one point per image."""

    title: str
    estimate: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True, eq=False)
class MovementPanel:
    """Movement of the explanations of one method within one radius, with an example."""

    title: str
    attack: np.ndarray
    """(image,) 1 − cosine similarity under attack."""
    noise: np.ndarray
    """(image,) 1 − cosine similarity under random noise."""
    images: np.ndarray
    """(2, channel, height, width) in [0, 1]: an image and its changed version."""
    maps: np.ndarray
    """(2, channel, height, width): their explanations, drawn on one scale."""


@dataclass(frozen=True, eq=False)
class ExampleRow:
    """A row of example images with a caption each."""

    name: str
    images: np.ndarray
    """(image, channel, height, width) in [0, 1]."""
    captions: Sequence[str]


def accuracy_under_corruption(curves: Sequence[CorruptionCurve], chance: float, headline: tuple[str, str]) -> Figure:
    """Draw one panel per corruption, with a band for the interval and the example image below each strength.

    All panels share one vertical axis; a dashed line marks `chance`, the accuracy of a constant prediction.

    >>> strengths, values = (0.0, 0.1), np.array([0.9, 0.8])
    >>> curve = CorruptionCurve("noise", "σ", strengths, values, values - 0.1, values + 0.1, np.zeros((2, 1, 8, 8)))
    >>> figure = accuracy_under_corruption([curve], 0.1, ("title", "subtitle"))
    >>> len(figure.axes)
    3
    """
    count = max(len(curve.strengths) for curve in curves)
    across, apart, row = (TILE_DOTS + 4) * count, 56, 200 + 96
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    canvas = Canvas(MARGIN + columns * (across + apart) + MARGIN, rows * row + MARGIN, *headline)
    for number, curve in enumerate(curves):
        left, top = MARGIN + 40 + (number % columns) * (across + apart), 20 + (number // columns) * row
        axes = _plain_axes(canvas, (left, top, across, 170))
        places = np.arange(len(curve.strengths))
        axes.axhline(chance, color=PALE, linewidth=0.9, linestyle="--")
        axes.fill_between(places, curve.low, curve.high, color=ACCENT, alpha=0.2, linewidth=0)
        axes.plot(places, curve.accuracy, color=ACCENT, marker="o", markersize=4)
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(0, 1.03)
        axes.set_xticks(places, [f"{strength:g}" for strength in curve.strengths])
        axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
        canvas.text(left, top - 8, curve.name.capitalize(), weight="bold", va="bottom")
        canvas.text(left + across / 2, top + 170 + 22, curve.unit, size=SMALL, color=PALE, ha="center", va="top")
        for place, image in enumerate(gray_or_rgb(curve.examples)):
            _draw_image(canvas, image, (left + place * (TILE_DOTS + 4) + 2, top + 170 + 42), TILE_DOTS)
    return canvas.figure


def radii_by_estimate(panels: Sequence[RadiusPanel], rows: Sequence[ExampleRow], headline: tuple[str, str]) -> Figure:
    """Draw the radius of the closest adversarial image found against its first-order estimate, with the diagonal.

    The axes of a panel share one scale. Points with an infinite radius or estimate are left out. The images of `rows`
    follow below, one column per image.

    >>> panel = RadiusPanel("L2", np.array([0.5, 1.0]), np.array([0.4, 1.1]))
    >>> row = ExampleRow("original", np.zeros((2, 1, 8, 8)), ["cat", "dog"])
    >>> figure = radii_by_estimate([panel], [row], ("title", "subtitle"))
    >>> figure.axes[0].get_xlim() == figure.axes[0].get_ylim()
    True
    """
    apart, below = 76, PANEL_DOTS + 76
    width = MARGIN + len(panels) * (PANEL_DOTS + apart)
    canvas = Canvas(width, below + len(rows) * (EXAMPLE_DOTS + 24) + MARGIN, *headline)
    for number, panel in enumerate(panels):
        left = MARGIN + 52 + number * (PANEL_DOTS + apart)
        axes = _plain_axes(canvas, (left, 22, PANEL_DOTS, PANEL_DOTS))
        is_finite = np.isfinite(panel.estimate) & np.isfinite(panel.radius)
        x, y = panel.estimate[is_finite], panel.radius[is_finite]
        end = 1.06 * max(float(x.max(initial=0)), float(y.max(initial=0))) or 1.0
        axes.plot([0, end], [0, end], color=PALE, linewidth=0.9, linestyle="--")
        axes.scatter(x, y, s=18, color=ACCENT, alpha=0.7, linewidths=0)
        axes.set_xlim(0, end)
        axes.set_ylim(0, end)
        axes.locator_params(nbins=5)
        axes.set_xlabel("first-order estimate from the Jacobian", size=SMALL, color=INK)
        axes.set_ylabel("closest adversarial image found (PGD)", size=SMALL, color=INK)
        canvas.text(left, 14, panel.title, weight="bold", va="bottom")
    for number, row in enumerate(rows):
        _draw_row(canvas, row, below + number * (EXAMPLE_DOTS + 24))
    return canvas.figure


def _draw_row(canvas: Canvas, row: ExampleRow, top: float) -> None:
    canvas.text(MARGIN + 86, top + EXAMPLE_DOTS / 2, row.name, ha="right", va="center", size=SMALL, weight="bold")
    for column, (image, caption) in enumerate(zip(gray_or_rgb(row.images), row.captions, strict=True)):
        x = MARGIN + 98 + column * (EXAMPLE_DOTS + 8)
        _draw_image(canvas, image, (x, top), EXAMPLE_DOTS)
        style = {"size": SMALL, "ha": "center", "va": "top", "color": PALE}
        canvas.text(x + EXAMPLE_DOTS / 2, top + EXAMPLE_DOTS + 3, shorten(caption, 13), **style)


def movement_histograms(panels: Sequence[MovementPanel], headline: tuple[str, str]) -> Figure:
    """Draw histograms of 1 − cosine similarity under attack and under random noise, each with its example below.

    All panels share the logarithmic bins and both axes; smaller values are counted in the first bin.

    >>> pair = np.zeros((2, 1, 8, 8))
    >>> panel = MovementPanel("r = 0.1", np.array([0.2, 0.3]), np.array([0.1, 0.1]), pair, pair)
    >>> figure = movement_histograms([panel], ("title", "subtitle"))
    >>> int(sum(bar.get_height() for bar in figure.axes[0].patches))
    4
    """
    across, apart, row = 380, 64, 170 + 58 + EXAMPLE_DOTS + 40
    canvas = Canvas(MARGIN + 2 * (across + apart), -(-len(panels) // 2) * row + MARGIN, *headline)
    values = np.concatenate([one for panel in panels for one in (panel.attack, panel.noise)])
    positive = values[np.isfinite(values) & (values > 0)]
    high = 1.1 * float(positive.max(initial=1e-6))
    # at most five decades, since rounding alone gives tiny values
    low = max(float(positive.min(initial=high / 10)) / 1.1, high * 1e-5)
    edges = np.geomspace(low, high, 37).tolist()
    drawn: list[Axes] = []
    for number, panel in enumerate(panels):
        left, top = MARGIN + 48 + (number % 2) * (across + apart), 20 + (number // 2) * row
        axes = _plain_axes(canvas, (left, top, across, 160))
        for data, colour, name in ((panel.noise, CONTROL, "random noise"), (panel.attack, WRONG, "attack")):
            axes.hist(data[np.isfinite(data)].clip(low, high), edges, color=colour, alpha=0.65, label=name)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xlabel("1 − cosine similarity of the explanations", size=SMALL, color=INK)
        axes.set_ylabel("images", size=SMALL, color=INK)
        canvas.text(left, top - 8, panel.title, weight="bold", va="bottom")
        _draw_pairs(canvas, panel, (left, top + 160 + 44))
        drawn.append(axes)
    drawn[0].legend(fontsize=SMALL, frameon=False, loc="upper left")
    highest = max(axes.get_ylim()[1] for axes in drawn)
    for axes in drawn:
        axes.set_ylim(0, highest)
    return canvas.figure


def _draw_pairs(canvas: Canvas, panel: MovementPanel, place: tuple[float, float]) -> None:
    """Draw the original and the changed image of the example, each with its explanation."""
    names = ("image", "explanation", "changed", "explanation")
    limit = scale_limit(panel.maps)
    for column, name in enumerate(names):
        number, is_map = divmod(column, 2)
        at = (place[0] + column * (EXAMPLE_DOTS + 22), place[1])
        if is_map:
            _draw_image(canvas, panel.maps[number].sum(0, keepdims=True) / limit, at, EXAMPLE_DOTS, is_signed=True)
        else:
            _draw_image(canvas, gray_or_rgb(panel.images)[number], at, EXAMPLE_DOTS)
        style = {"size": SMALL, "ha": "center", "va": "top", "color": PALE}
        canvas.text(at[0] + EXAMPLE_DOTS / 2, at[1] + EXAMPLE_DOTS + 3, name, **style)


def _plain_axes(canvas: Canvas, box: tuple[float, float, float, float]) -> Axes:
    axes = canvas.axes(*box)
    axes.set_axis_on()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)
    return axes


def _draw_image(
    canvas: Canvas, image: np.ndarray, place: tuple[float, float], side: float, *, is_signed: bool = False
) -> None:
    """Draw an image, or a signed map from −1 to 1, into a square, keeping its aspect."""
    height, width = image.shape[1:]
    share = side / max(height, width)
    x, y = place[0] + (side - share * width) / 2, place[1] + (side - share * height) / 2
    axes = canvas.axes(x, y, share * width, share * height)
    picture = image[0] if len(image) == 1 else np.clip(image, 0, 1).transpose(1, 2, 0)
    smooth = "nearest" if max(height, width) <= side else "antialiased"
    palette, norm = (signed_palette(), signed_norm(1)) if is_signed else (colormaps["gray"], Normalize(0, 1))
    axes.imshow(picture, cmap=palette, norm=norm, interpolation=smooth, aspect="auto")
