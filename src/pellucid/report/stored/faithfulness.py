"""Faithfulness: how far the sums of the maps are from what the methods promise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pellucid.plots.colours import scale_limit
from pellucid.report import Section
from pellucid.report._tiles import Frame, LabelData, Tiles, packed_frames, tile_size
from pellucid.report.stored._maps import EDGES, FLOOR, Extreme
from pellucid.report.stored._survey import Survey

__all__ = ["extremes", "residuals"]

DEFINITION = f"|residual| / max(|promised sum|, {FLOOR:g} logits)"
MOST_METHODS = 6


def residuals(made: Survey) -> Section | None:
    """Build the section with the distribution of the relative residuals; None without methods that promise a sum."""
    if not made.histograms or not made.readable:
        return None
    without = [name for name in made.stored.methods if name not in made.histograms]
    notes = [f"No sum is promised by {', '.join(without)}, which {_are(without)} left out."] if without else []
    return Section(
        name="residuals",
        kind="histograms",
        title="Residuals: do the maps add up?",
        label="Residuals",
        lead=f"A residual is the sum of a map minus the sum that its method promises. Relative residual: {DEFINITION}. "
        "Residuals near 10⁻⁷ are rounding errors; larger ones are approximation errors of the method.",
        data={"charts": [_chart(method, counts) for method, counts in made.histograms.items()]},
        notes=tuple(notes),
        hook="",
    )


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _chart(method: str, counts: np.ndarray) -> dict[str, Any]:
    """Return a histogram: the number of images in each bin, and in words."""
    total, most = int(counts.sum()), max(1, int(counts.max()))
    bars = [
        {
            "height": round(100 * int(count) / most, 2),
            "text": f"{_bin(place)}: {int(count):,} image{'' if count == 1 else 's'}",
        }
        for place, count in enumerate(counts)
    ]
    above = {share: int(counts[np.searchsorted(EDGES, share, "right") :].sum()) for share in (0.01, 0.1)}
    words = ", ".join(f"{count:,} ({count / total:.1%}) above {share:.0%}" for share, count in above.items())
    return {
        "method": method,
        "bars": bars,
        "ticks": [
            {"at": round(100 * (np.flatnonzero(np.isclose(EDGES, 10.0**power))[0] + 1) / len(counts), 2), "text": text}
            for power, text in ((-9, "10⁻⁹"), (-7, "10⁻⁷"), (-5, "10⁻⁵"), (-3, "0.1%"), (-1, "10%"))
        ],
        "summary": f"Median {_quantile(counts, 0.5)}, 99th percentile {_quantile(counts, 0.99)}. Of {total:,} images, "
        f"{words}.",
        "most": f"{most:,}",
    }


def _bin(place: int) -> str:
    if place == 0:
        return f"below {EDGES[0]:.2g}"
    if place == len(EDGES):
        return f"{EDGES[-1]:.2g} or more"
    return f"{EDGES[place - 1]:.2g} to {EDGES[place]:.2g}"


def _quantile(counts: np.ndarray, share: float) -> str:
    """Return the bin of a quantile in words."""
    place = int(np.searchsorted(counts.cumsum(), share * counts.sum()))
    return f"at {EDGES[-1]:.2g} or more" if place == len(EDGES) else f"below {EDGES[place]:.2g}"


def extremes(made: Survey) -> Section | None:
    """Build the section with the images of the smallest and the largest residuals; None without such methods."""
    shown = [method for method in made.histograms if made.largest[method].images][:MOST_METHODS]
    if not shown:
        return None
    frames = [_frame(made, method) for method in shown]
    size, pool = tile_size(frames), dict[str, int]()
    sheets = [
        {"hook": method, "label": method, "moment": f"Ordered by the relative residual of {method}, the largest first.",
         "frames": packed_frames({0: frame}, size, pool)}
        for method, frame in zip(shown, frames, strict=True)
    ]  # fmt: skip
    return Section(
        name="extremes",
        kind="grid",
        title="Least and most faithful images",
        label="Extremes",
        lead=f"Images whose maps miss the promised sum by most, then those that miss it by least, by {DEFINITION}. "
        "Next to each image: residual and promised sum, in logits. Maps of a column share one scale; red pixels are "
        "evidence for the explained class, blue ones against it.",
        data={"size": size, "sheets": sheets, "pool": list(pool), "switch": "Ordered by"},
        hook="",
    )


def _frame(made: Survey, method: str) -> Frame:
    largest, smallest = made.largest[method].images, made.smallest[method].images
    known = {one.index for one in largest}
    # in a small store, an image can be among both
    images = [*largest, *reversed([one for one in smallest if one.index not in known])]
    maps = np.stack([one.maps for one in images])[:, :MOST_METHODS]
    names = made.stored.methods[:MOST_METHODS]
    return Frame(
        "",
        rows=[_row(made, one) for one in images],
        columns=[{"text": name} for name in names],
        blocks=[
            Tiles(maps[:, number : number + 1, None], column=number, limit=scale_limit(maps[:, number]),
                  meaning=f"{name}: relevance, {made.stored.unit(name)}")
            for number, name in enumerate(names)
        ],
    )  # fmt: skip


def _relative(value: float) -> str:
    """Format a relative residual.

    >>> _relative(0.0123), _relative(2e-7)
    ('1.23%', '2e-07')
    """
    return f"{value:.2%}" if value >= 0.001 else f"{value:.1g}"


def _row(made: Survey, one: Extreme) -> LabelData:
    classes = made.stored.classes
    label, prediction = classes[one.label] if one.label >= 0 else "?", classes[one.prediction]
    is_wrong = one.label >= 0 and one.label != one.prediction
    return {
        "text": one.key,
        "detail": f"{label} → {prediction}" if is_wrong or one.label < 0 else label,
        "wrong": is_wrong,
        "more": f"{_relative(one.relative)}: {one.residual:+.2g} of {one.expected:.3g}".replace("-", "−"),
    }
