"""Layers of the network, and the filters of the first one."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from matplotlib.figure import Figure

from pellucid.engine.layers import Layer, first_filters, layers
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.plots.colours import scale_limit
from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label

__all__ = ["Network"]

ACROSS = 8
"""Filters per row of the figure."""


@HOOKS.register("network")
@dataclass(frozen=True)
class Network(Hook):
    """Layers with their output shapes and numbers of parameters, and the filters of the first layer."""

    filters: int = 64
    """Maximum number of filters."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield the numbers `layers` and `parameters`, and the array `filters` (filter, channel, height, width).

        Each layer has a `name`, `kind`, `detail`, output `shape` for one image, `parameters` and `calls`, as in
        `pellucid.engine.layers.Layer`. Without filters that can be seen as images, there is no figure.
        """
        if not len(scene.test):
            return
        image = scene.test.floats([0]).to(scene.device)
        rows = layers(scene.model, image)
        found = first_filters(scene.model, image)
        filters = np.zeros((0, 1, 1, 1), np.float32) if found is None else found[: self.filters].cpu().numpy()
        count = 0 if found is None else len(found)
        total = sum(layer.parameters for layer in rows)
        shown = f" {len(filters)} of the {count} filters of its first layer." if count else ""
        yield Artifact(
            caption=f"{scene.title}: network of {len(rows)} layers with {total:,} parameters.{shown}",
            figure=_figure(scene, filters, count) if count else None,
            arrays={"filters": filters} if count else {},
            numbers={"layers": [_row(layer) for layer in rows], "parameters": total, "filters": count},
        )


def _row(layer: Layer) -> dict[str, object]:
    row = asdict(layer)
    return row | {"shape": None if layer.shape is None else list(layer.shape)}


def _figure(scene: Scene, filters: np.ndarray, count: int) -> Figure:
    """Draw the filters in rows: signed values in red and blue, or three channels as a color around gray."""
    limit = scale_limit(filters)
    rows = -(-len(filters) // ACROSS)
    across = min(ACROSS, len(filters))
    filled = np.zeros((rows * across, *filters.shape[1:]), filters.dtype)
    filled[: len(filters)] = filters
    tiles = filled.reshape(rows, across, *filters.shape[1:])
    if filters.shape[1] == 1:
        block = Block(tiles, limit=limit, meaning="weight")
        reading = "Red: positive weights; blue: negative."
    else:
        block = Block((0.5 + tiles / (2 * limit)).clip(0, 1))
        reading = f"Gray: a weight of 0; the three channels range over ±{limit:.2g}."
    labels = [Label(f"{row * across}–{min((row + 1) * across, len(filters)) - 1}") for row in range(rows)]
    title = f"{scene.title}: filters of the first layer"
    subtitle = f"{reading} {len(filters)} of {count} filters."
    return image_grid([block], labels, [Label("")] * across, (title, subtitle))
