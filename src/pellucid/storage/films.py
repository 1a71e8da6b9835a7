"""Animations over the epochs, built from the pictures and arrays that the hooks wrote to the save folder."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pellucid.core.contracts import Artifact
from pellucid.core.raster import open_raster
from pellucid.plots.scatter import move_points, scatter
from pellucid.storage.pictures import pixels_per_dot, to_webp
from pellucid.storage.reading import parse_json
from pellucid.storage.store import Store

__all__ = ["FILMS", "Film"]

EPOCH_MS = 1000
"""Duration of an epoch, including the transition to the next one."""
LAST_MS = 2500
"""Duration of the last epoch."""
STEPS = 10
"""Number of interpolation steps from one embedding to the next."""
STEP_MS = 50
"""Duration of a frame of the transition."""
MORPH_DOTS_PER_INCH = 75
"""Resolution of the embedding's frames: three quarters of a still picture's, because there are many."""
SHADES = 16
"""Number of levels per color channel in the embedding's frames: fine gradations are barely visible but make up most of
the file size."""


@dataclass(frozen=True, eq=False)
class Film:
    """An animation with its entry in the manifest."""

    artifact: Artifact
    epoch: int
    """Last epoch shown."""
    content: bytes
    """Bytes of the animated WebP."""


def _of_pictures(store: Store, hook: str, subject: str) -> Film | None:
    """Animate the pictures of a hook; None if there are fewer than two."""
    entries = _entries(store, hook, "figure")
    if len(entries) < 2:
        return None
    frames = [_frame(store.read_existing(entry["path"])) for entry in entries.values()]
    return _film(store, subject, list(entries), [(frame, EPOCH_MS) for frame in frames])


def _frame(content: bytes) -> Image.Image:
    """Return a picture with one pixel per dot: the films of sharper ones would be several times as large."""
    picture = open_raster(io.BytesIO(content))
    share = pixels_per_dot(picture)
    return picture.convert("RGB").reduce(share) if share > 1 else picture


def _of_embedding(store: Store) -> Film | None:
    """Animate the t-SNE embedding, interpolating from epoch to epoch on one common scale."""
    stops = _stops(store)
    if len(stops) < 2:
        return None
    frames = list(_morph(store, stops))
    return _film(store, "t-SNE embedding", [stop.epoch for stop in stops], frames, is_flat=True)


FILMS: Mapping[str, Callable[[Store], Film | None]] = {
    "saliency": partial(_of_pictures, hook="saliency", subject="gradient of the true class's logit"),
    "explanations": partial(
        _of_pictures, hook="explanations", subject="attributions of the predicted class by several methods"
    ),
    "prototypes": partial(_of_pictures, hook="prototypes.each_epoch", subject="class prototypes"),
    "tsne": _of_embedding,
}
"""Functions that make the film of each name from a save folder; they return None if there is nothing to show."""


def _film(
    store: Store, subject: str, epochs: list[int], frames: list[tuple[Image.Image, int]], *, is_flat: bool = False
) -> Film:
    milliseconds = [*(shown for _, shown in frames[:-1]), LAST_MS]
    title = store.run().get("dataset", {}).get("title", "")
    artifact = Artifact(
        # the title is empty if run.json names none
        caption=f"{title}, epochs {epochs[0]} to {epochs[-1]}: {subject}.".removeprefix(", "),
        numbers={"epochs": epochs, "seconds": sum(milliseconds) / 1000},
    )
    return Film(artifact, epochs[-1], to_webp([frame for frame, _ in frames], milliseconds, is_flat=is_flat))


def _entries(store: Store, hook: str, kind: str) -> dict[int, dict[str, Any]]:
    """Return the manifest entries of a hook's main artifact of one kind, sorted by epoch."""
    entries = {
        int(entry["epoch"]): entry
        for entry in store.manifest()["artifacts"]
        if (entry["hook"], entry["name"], entry["kind"]) == (hook, hook, kind)
    }
    return dict(sorted(entries.items()))


@dataclass(frozen=True, eq=False)
class _Stop:
    """Embedding at one epoch."""

    epoch: int
    points: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray


def _stops(store: Store) -> list[_Stop]:
    """Return the epochs that show the same images as the last one, so that every point can be interpolated."""
    arrays, numbers = _entries(store, "tsne", "arrays"), _entries(store, "tsne", "data")
    stops: dict[int, _Stop] = {}
    shown: dict[int, list[int]] = {}
    for epoch in arrays.keys() & numbers.keys():
        summary = parse_json(store.read_existing(numbers[epoch]["path"]))
        points = store.read_arrays(arrays[epoch]["path"])["points"]
        stops[epoch] = _Stop(epoch, points, np.array(summary["labels"]), np.array(summary["predictions"]))
        shown[epoch] = summary["indices"]
    return [stops[epoch] for epoch in sorted(stops) if shown[epoch] == shown[max(shown)]]


def _morph(store: Store, stops: list[_Stop]) -> Iterator[tuple[Image.Image, int]]:
    """Yield each frame and its duration in milliseconds."""
    data = store.run().get("dataset", {})
    classes = data.get("classes", [])
    extent = np.concatenate([stop.points for stop in stops])
    note = f"t-SNE of {len(stops[0].points):,} test images. Circled: misclassified."
    for stop, steps in groupby(_timeline(stops), key=lambda step: step[0]):
        title = f"{data.get('title', '')}, epoch {stop.epoch}: t-SNE embedding".removeprefix(", ")
        figure = scatter(stop.points, stop.labels, stop.predictions, classes, (title, note), extent)
        positions, milliseconds = zip(*((points, shown) for _, points, shown in steps), strict=True)
        move = partial(move_points, figure, labels=stop.labels, predictions=stop.predictions, classes=classes)
        yield from zip(_rendered(figure, move, positions), milliseconds, strict=True)


def _timeline(stops: list[_Stop]) -> Iterator[tuple[_Stop, np.ndarray, int]]:
    """Yield each frame's epoch, the positions of its points and its duration in milliseconds."""
    for before, after in pairwise(stops):
        # the still frame and the transition take EPOCH_MS together
        yield before, before.points, EPOCH_MS - (STEPS - 1) * STEP_MS
        for step in range(1, STEPS):
            share = _eased(step / STEPS)
            # predictions can't be interpolated: switch halfway
            yield before if share < 0.5 else after, before.points + share * (after.points - before.points), STEP_MS
    yield stops[-1], stops[-1].points, LAST_MS


def _eased(share: float) -> float:
    """Map 0…1 to 0…1, slow at both ends."""
    return share * share * (3 - 2 * share)  # smoothstep


def _rendered(
    figure: Figure, move: Callable[[np.ndarray], None], positions: Iterable[np.ndarray]
) -> Iterator[Image.Image]:
    """Render a scatter plot with its points at each of the positions, with `SHADES` levels per color channel."""
    figure.set_dpi(MORPH_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    plot = figure.axes[0]
    # everything but the points is drawn once, because a whole figure takes several times as long
    plot.set_visible(False)
    canvas.draw()  # type: ignore[no-untyped-call]
    background = canvas.copy_from_bbox(figure.bbox)  # type: ignore[no-untyped-call]
    plot.set_visible(True)
    # `point` takes one table of 256 entries per channel
    shades = [round(round(value / 255 * (SHADES - 1)) * 255 / (SHADES - 1)) for value in range(256)] * 3
    for points in positions:
        canvas.restore_region(background)  # type: ignore[no-untyped-call]
        move(points)
        figure.draw_artist(plot)
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").point(shades)  # type: ignore[no-untyped-call]
