"""Saliency maps: gradients of the true class's logit, at an empty image and at the test image."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from pellucid.attribution import create_analyzer
from pellucid.engine.model import dtype_of
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import TOO_EXPENSIVE, Allowance
from pellucid.hooks._hook import left_out
from pellucid.hooks._methods import price_of
from pellucid.plots._outline import outline_note
from pellucid.plots._text import class_names
from pellucid.plots.colours import PALE, WRONG, gray_or_rgb, scale_limit
from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label

__all__ = ["Saliency"]


@HOOKS.register("saliency")
@dataclass(frozen=True)
class Saliency(Hook):
    """Saliency maps of the first test image of each class, one column per class."""

    columns: int = 12
    """Maximum number of classes."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the arrays `source`, `baseline`, `saliency`, `delta` and `overlay`, shaped as the images.

        `baseline` is the gradient at an empty image (all zeros) and `saliency` the gradient at the image, both in
        logits per unit of pixel; `delta` = saliency − baseline, `overlay` = delta × source.
        """
        allowance = Allowance(scene, "saliency")
        # two gradients per column
        price = 2 * price_of(scene, allowance, "gradient", {}) if allowance.is_limited and len(scene.test) else 0.0
        most = allowance.affordable(price, allowance.classes(self.columns), calls=2)
        indices = scene.first_of_each_class(most)
        if not indices:
            if not most:
                yield left_out(scene, TOO_EXPENSIVE.format(name="the gradient"))
            return
        labels, predictions = scene.test.labels[indices], scene.logits[indices].argmax(1)
        arrays = _gradients(scene, indices, labels)
        limits = {
            # one scale for the three gradients, so that they can be compared; the product has another unit
            "gradient": scale_limit(np.stack([_signed(arrays[row]) for row in ("baseline", "saliency", "delta")])),
            "overlay": scale_limit(_signed(arrays["overlay"])),
        }
        title = f"{scene.title}: saliency maps of the true class"
        names = class_names(scene.classes, 28)
        columns = [
            Label(
                names[label],
                "" if label == prediction else f"→ {names[prediction]}",
                PALE if label == prediction else WRONG,
            )
            for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True)
        ]
        yield Artifact(
            caption=f"{title}. Rows: test image, gradient of the logit at an empty image, gradient at the test image, "
            f"their difference, and difference × image, for {_of_each(indices)}.{scene.choice(len(indices))}",
            figure=_figure(arrays, limits, columns, (title, scene.choice(len(indices)) + scene.scale_note)),
            arrays=arrays,
            numbers={
                "classes": [scene.classes[label] for label in labels.tolist()],
                "indices": indices,
                "labels": labels.tolist(),
                "predictions": predictions.tolist(),
                "scale_limits": limits,
                **scene.pixel_range,
            },
        )


def _gradients(scene: Scene, indices: list[int], labels: torch.Tensor) -> dict[str, np.ndarray]:
    inputs = scene.test.floats(indices)
    images, targets = inputs.to(scene.device, dtype_of(scene.model)), labels.to(scene.device)
    gradient = create_analyzer("gradient", scene.model)
    baseline = gradient.analyze(torch.zeros_like(images), targets).float().cpu().numpy()
    saliency = gradient.analyze(images, targets).float().cpu().numpy()
    delta = saliency - baseline
    overlay = delta * inputs.numpy()
    source = scene.test.shown(indices).numpy()
    return {"source": source, "baseline": baseline, "saliency": saliency, "delta": delta, "overlay": overlay}


def _of_each(indices: list[int]) -> str:
    return f"the first test image of each of {len(indices)} classes" if len(indices) > 1 else "one test image"


def _figure(
    arrays: Mapping[str, np.ndarray], limits: Mapping[str, float], columns: list[Label], headline: tuple[str, str]
) -> Figure:
    """Draw one column per image; `headline` is the title and the choice of the classes."""
    gradients = np.stack([_signed(arrays[row]) for row in ("baseline", "saliency", "delta")])
    is_colour = arrays["source"].shape[1] == 3
    source = gray_or_rgb(arrays["source"])
    blocks = [
        Block(source[None], row=0, meaning="" if is_colour else "pixel"),
        Block(gradients, row=1, limit=limits["gradient"], meaning="∂ logit / ∂ pixel", outlined=source[None]),
        Block(_signed(arrays["overlay"])[None], row=4, limit=limits["overlay"], meaning="logit", outlined=source[None]),
    ]
    rows = [
        Label("source", "test image"),
        Label("baseline", "gradient at an empty image"),
        Label("saliency", "gradient at the image"),
        Label("delta", "saliency − baseline"),
        Label("overlay", "delta × source"),
    ]
    subtitle = "Red: increasing the pixel raises the logit; blue: it lowers the logit."
    subtitle += " → prediction, if wrong." if any(label.detail for label in columns) else ""
    subtitle += " Summed over channels." if arrays["source"].shape[1] > 1 else ""
    subtitle += f" {len(columns)} test images.{headline[1]}{outline_note(source)}"
    return image_grid(blocks, rows, columns, (headline[0], subtitle))


def _signed(values: np.ndarray) -> np.ndarray:
    """Sum (image, channel, height, width) over channels, keeping one."""
    return values.sum(1, keepdims=True)
