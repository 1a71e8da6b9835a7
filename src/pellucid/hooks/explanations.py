"""Why the network decides as it does: the same images explained by many methods, side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pellucid.attribution import Explanation
from pellucid.attribution._explanation import without_warnings
from pellucid.core.contracts import Artifact
from pellucid.core.errors import PellucidError
from pellucid.engine.freezing import dtype_of
from pellucid.evaluation import DEFAULT_METHODS
from pellucid.hooks import HOOKS
from pellucid.hooks._hook import Hook, Scene
from pellucid.hooks._methods import ready
from pellucid.plots.colours import PALE, WRONG, scale_limit
from pellucid.plots.image_grid import Block, Label, image_grid

__all__ = ["Explanations"]


@HOOKS.register("explanations")
@dataclass(frozen=True)
class Explanations(Hook):
    """One row per class, one column per method: why the predicted class was predicted."""

    rows: int = 12
    """At most so many classes: the first test image of each."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """One figure, the arrays `source` and one per method (image, channel, height, width), and the numbers.

        Explained is the predicted class. `residuals` and `amplifications` hold, for each method, one value per image
        (None for a method that promises no sum); `refused` tells which methods do not apply to this model, and why.
        Methods that learn from data are fitted on a sample of the training images each time.
        """
        indices = scene.first_of_each_class(self.rows)
        if not indices:
            return
        targets = scene.logits[indices].argmax(1)
        explained, refused = _explain(scene, indices, targets)
        if not explained:
            raise PellucidError(f"no method applies to this model: {'; '.join(refused.values())}")
        maps = {name: one.relevance.float().cpu().numpy() for name, one in explained.items()}
        limits = {name: scale_limit(values.sum(1, keepdims=True)) for name, values in maps.items()}
        title = f"{scene.title}: why the predicted class was predicted"
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
            "refused": refused,
        }
        source = scene.test.floats(indices).numpy()
        yield Artifact(
            caption=f"{title}, by {len(maps)} methods, each on its own scale.",
            figure=_figure(scene, source, maps, numbers, title),
            arrays={"source": source, **maps},
            numbers=numbers,
        )


def _explain(scene: Scene, indices: list[int], targets: torch.Tensor) -> tuple[dict[str, Explanation], dict[str, str]]:
    """The explanations by method, and why the other methods do not apply."""
    images, targets = scene.test.floats(indices).to(scene.device, dtype_of(scene.model)), targets.to(scene.device)
    explained, refused = {}, {}
    for name in scene.methods or DEFAULT_METHODS:
        try:
            with without_warnings():  # it stands in the numbers
                explained[name] = ready(scene, name).explain(images, targets)
        except PellucidError as error:
            refused[name] = str(error)
    return explained, refused


def _listed(values: torch.Tensor | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _figure(
    scene: Scene, source: np.ndarray, maps: dict[str, np.ndarray], numbers: dict[str, Any], title: str
) -> Figure:
    """The source in the first column, then one column per method, each in units of its own scale."""
    shown = np.stack([maps[name].sum(1, keepdims=True) / numbers["scale_limits"][name] for name in maps], axis=1)
    plain = source if source.shape[1] == 3 else source.mean(1, keepdims=True)
    blocks = [Block(plain[:, None], column=0), Block(shown, column=1, limit=1.0, meaning="share of the method's scale")]
    rows = []
    for label, target in zip(numbers["labels"], numbers["targets"], strict=True):
        is_right = label == target
        detail = "recognised" if is_right else f"taken for {scene.classes[target]}"
        rows.append(Label(scene.classes[label], detail, PALE if is_right else WRONG))
    columns = [Label("source")]
    columns += [Label(name, f"±{numbers['scale_limits'][name]:.2g}") for name in maps]
    subtitle = "Red: speaks for the predicted class; blue: against it. Below each method, where its scale ends."
    subtitle += f" Not applicable: {', '.join(numbers['refused'])}." if numbers["refused"] else ""
    return image_grid(blocks, rows, columns, (title, subtitle))
