"""Explanations of test images by several attribution methods, side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pellucid.attribution import Explanation
from pellucid.core.errors import PellucidError
from pellucid.engine.model import dtype_of
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._methods import (
    affordable_methods,
    bounded_options,
    create_fitted,
    explain_each,
    stated_options,
)
from pellucid.plots._outline import outline_note
from pellucid.plots.colours import PALE, WRONG, gray_or_rgb, scale_limit
from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label

__all__ = ["Explanations"]

WANTED = 6
"""Number of images for which a budget leaves out the most expensive methods."""


@HOOKS.register("explanations")
@dataclass(frozen=True)
class Explanations(Hook):
    """Attributions of the predicted class, one row per class and one column per method."""

    rows: int = 12
    """Maximum number of classes; the first test image of each is explained."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the arrays `source` and one per method (image, channel, height, width) and numbers.

        The explained class is the predicted one. `residuals` and `amplifications` hold one value per image for each
        method, or None for a method that promises no sum; `refused` maps the methods that do not apply to this model to
        the reason. Methods that need fitting are fitted to a sample of the training images at every epoch.
        """
        allowance = Allowance(scene, "explanations")
        indices = scene.first_of_each_class(allowance.classes(self.rows))
        if not indices:
            return
        options = partial(bounded_options, scene)
        selection = affordable_methods(scene, allowance, options, min(WANTED, len(indices)))
        most = allowance.affordable(selection.price, len(indices), len(selection.prices))
        indices = scene.first_of_each_class(most) if selection.prices else []
        if not indices:
            yield selection.artifact(scene)
            return
        targets = scene.logits[indices].argmax(1)
        with allowance.spending():
            explained, inapplicable = _explain(scene, selection.prices, indices, targets)
        refused = selection.refused | inapplicable
        if not explained:
            raise PellucidError(f"no method applies to this model: {'; '.join(refused.values())}")
        maps = {name: one.relevance.float().cpu().numpy() for name, one in explained.items()}
        # methods differ in unit and size, so each has a scale of its own
        limits = {name: scale_limit(values.sum(1, keepdims=True)) for name, values in maps.items()}
        title = f"{scene.title}: explanations of the predicted class"
        labels = scene.test.labels[indices].tolist()
        numbers = {
            "methods": list(maps),
            "indices": indices,
            "labels": labels,
            "targets": targets.tolist(),
            "residuals": {name: _listed(one.residual) for name, one in explained.items()},
            "amplifications": {
                name: None if one.residual is None else _listed(one.amplification) for name, one in explained.items()
            },
            "scale_limits": limits,
            **stated_options(scene, maps),
            **scene.pixel_range,
            "refused": refused,
            **selection.numbers,
        }
        source = scene.test.shown(indices).numpy()
        yield Artifact(
            caption=f"{title} by {len(maps)} methods for {len(indices)} test images, each method with its own color "
            f"scale.{scene.choice(len(indices))}{selection.note}",
            figure=_figure(scene, source, maps, numbers, (title, selection.note)),
            arrays={"source": source, **maps},
            numbers=numbers,
        )


def _explain(
    scene: Scene, names: Iterable[str], indices: list[int], targets: torch.Tensor
) -> tuple[dict[str, Explanation], dict[str, str]]:
    """Return the explanations by method, and the reason for each method that does not apply."""
    images, targets = scene.test.floats(indices).to(scene.device, dtype_of(scene.model)), targets.to(scene.device)

    def explain(name: str) -> Explanation:
        return create_fitted(scene, name, **bounded_options(scene, name)).explain(images, targets)

    return explain_each(names, explain)


def _listed(values: torch.Tensor | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _figure(
    scene: Scene, source: np.ndarray, maps: dict[str, np.ndarray], numbers: dict[str, Any], headline: tuple[str, str]
) -> Figure:
    """Draw the source in the first column and then one column per method, each with its own color scale.

    `headline` is the title and the end of the subtitle.
    """
    shown = np.stack([maps[name].sum(1, keepdims=True) / numbers["scale_limits"][name] for name in maps], axis=1)
    images = gray_or_rgb(source)[:, None]
    blocks = [
        Block(images, column=0),
        Block(shown, column=1, limit=1.0, meaning="fraction of the method's scale", outlined=images),
    ]
    rows = []
    for label, target in zip(numbers["labels"], numbers["targets"], strict=True):
        is_right = label == target
        detail = "correct" if is_right else f"predicted: {scene.classes[target]}"
        rows.append(Label(scene.classes[label], detail, PALE if is_right else WRONG))
    columns = [Label("source")]
    columns += [Label(name, f"±{numbers['scale_limits'][name]:.2g}") for name in maps]
    subtitle = "Red: evidence for the predicted class; blue: evidence against it. ±: range of the method's color scale."
    subtitle += f" {len(rows)} test images.{scene.choice(len(rows))}{scene.scale_note}{outline_note(source)}"
    subtitle += f" Not applicable: {', '.join(numbers['refused'])}." if numbers["refused"] else ""
    return image_grid(blocks, rows, columns, (headline[0], subtitle + headline[1]))
