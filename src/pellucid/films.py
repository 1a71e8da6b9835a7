"""What a network learned, as films over the epochs: made of what the hooks left in the save folder."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pellucid.artifacts.film import to_webp
from pellucid.artifacts.store import Store
from pellucid.core.contracts import Artifact
from pellucid.plots.scatter import scatter

__all__ = ["FILMS", "Film"]

EPOCH_MS = 1000
"""How long the film stays at an epoch, the way to it included."""
LAST_MS = 2500
"""And at the last one."""
STEPS = 10
"""Frames on the way from one embedding to the next."""
STEP_MS = 50
MORPH_DOTS_PER_INCH = 75
"""Three quarters of a picture's: the film has many frames."""
SHADES = 16
"""Of each of red, green and blue in the moving pictures: what the eye hardly sees costs most of the bytes."""


@dataclass(frozen=True, eq=False)
class Film:
    """A film, and what its line of the manifest says."""

    artifact: Artifact
    epoch: int
    """The last one shown."""
    content: bytes
    """The animated WebP."""


def _of_pictures(store: Store, hook: str, subject: str) -> Film | None:
    """The pictures of a hook, one after another; None where there are fewer than two."""
    entries = _entries(store, hook, "figure")
    if len(entries) < 2:
        return None
    frames = [Image.open(io.BytesIO((store.folder / entry["path"]).read_bytes())) for entry in entries.values()]
    return _film(store, subject, list(entries), [(frame, EPOCH_MS) for frame in frames])


def _of_embedding(store: Store) -> Film | None:
    """The points of t-SNE, wandering from each epoch's places to the next's, all on one scale."""
    stops = _stops(store)
    if len(stops) < 2:
        return None
    frames = [(_drawn(figure), milliseconds) for figure, milliseconds in _morph(store, stops)]
    return _film(store, "how the network arranges the classes", [stop.epoch for stop in stops], frames)


FILMS: Mapping[str, Callable[[Store], Film | None]] = {
    "saliency": partial(_of_pictures, hook="saliency", subject="what each pixel does to the true class's logit"),
    "explanations": partial(
        _of_pictures, hook="explanations", subject="why the predicted class was predicted, by several methods"
    ),
    "prototypes": partial(
        _of_pictures, hook="prototypes.each_epoch", subject="what each class looks like to the network"
    ),
    "tsne": _of_embedding,
}
"""By the film's name: what makes it from a save folder, or tells by None that there is nothing to show."""


def _film(store: Store, subject: str, epochs: list[int], frames: list[tuple[Image.Image, int]]) -> Film:
    milliseconds = [*(shown for _, shown in frames[:-1]), LAST_MS]
    title = store.run().get("dataset", {}).get("title", "")
    artifact = Artifact(
        caption=f"{title}, epochs {epochs[0]} to {epochs[-1]}: {subject}.".removeprefix(", "),
        numbers={"epochs": epochs, "seconds": sum(milliseconds) / 1000},
    )
    return Film(artifact, epochs[-1], to_webp([frame for frame, _ in frames], milliseconds))


def _entries(store: Store, hook: str, kind: str) -> dict[int, dict[str, Any]]:
    """The manifest's lines of a hook's own pictures, arrays or numbers, by epoch in their order."""
    found = {
        int(entry["epoch"]): entry
        for entry in store.manifest()["artifacts"]
        if (entry["hook"], entry["name"], entry["kind"]) == (hook, hook, kind)
    }
    return dict(sorted(found.items()))


@dataclass(frozen=True, eq=False)
class _Stop:
    """The embedding at an epoch."""

    epoch: int
    points: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray


def _stops(store: Store) -> list[_Stop]:
    """The epochs whose points are those of the last one, so that each has a place to come from."""
    arrays, numbers = _entries(store, "tsne", "arrays"), _entries(store, "tsne", "data")
    stops: dict[int, _Stop] = {}
    shown: dict[int, list[int]] = {}
    for epoch in arrays.keys() & numbers.keys():
        told = json.loads((store.folder / numbers[epoch]["path"]).read_bytes())
        with np.load(store.folder / arrays[epoch]["path"], allow_pickle=False) as content:
            points = content["points"]
        stops[epoch] = _Stop(epoch, points, np.array(told["labels"]), np.array(told["predictions"]))
        shown[epoch] = told["indices"]
    return [stops[epoch] for epoch in sorted(stops) if shown[epoch] == shown[max(shown)]]


def _morph(store: Store, stops: list[_Stop]) -> Iterator[tuple[Figure, int]]:
    """Each frame, and for how many milliseconds it is shown."""
    data = store.run().get("dataset", {})
    extent = np.concatenate([stop.points for stop in stops])
    note = f"t-SNE of the embedding of {len(stops[0].points):,} test images. Errors are ringed."

    def frame(points: np.ndarray, stop: _Stop, epoch: str) -> Figure:
        title = f"{data.get('title', '')}, epoch {epoch}: how the network arranges the classes".removeprefix(", ")
        return scatter(points, stop.labels, stop.predictions, data.get("classes", []), (title, note), extent)

    for before, after in pairwise(stops):
        yield frame(before.points, before, str(before.epoch)), EPOCH_MS - (STEPS - 1) * STEP_MS
        for step in range(1, STEPS):
            share = _eased(step / STEPS)
            told = before if share < 0.5 else after
            yield frame(before.points + share * (after.points - before.points), told, str(told.epoch)), STEP_MS
    yield frame(stops[-1].points, stops[-1], str(stops[-1].epoch)), LAST_MS


def _eased(share: float) -> float:
    """0…1 to 0…1, slow at both ends."""
    return share * share * (3 - 2 * share)


def _drawn(figure: Figure) -> Image.Image:
    figure.set_dpi(MORPH_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(np.asarray(pixels)).convert("RGB")
    return picture.point([round(round(value / 255 * (SHADES - 1)) * 255 / (SHADES - 1)) for value in range(256)] * 3)
