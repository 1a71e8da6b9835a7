"""The test images that the network finds hardest, and why it says of them what it says."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pellucid.attribution._explanation import without_warnings
from pellucid.core.contracts import Artifact
from pellucid.core.errors import PellucidError
from pellucid.engine.freezing import dtype_of
from pellucid.hooks import HOOKS
from pellucid.hooks._answers import answers, by_loss
from pellucid.hooks._hook import Hook, Scene
from pellucid.hooks._methods import ready
from pellucid.plots._text import class_names
from pellucid.plots.colours import PALE, WRONG, scale_limit
from pellucid.plots.image_grid import Block, Label, image_grid

__all__ = ["Hardest"]

METHOD = "lrp.epsilon_plus_flat"
"""Explains where `--methods` chooses nothing."""
FALLBACK = "gradient"
"""Explains where that method does not apply to the model."""
NAMED_CLASSES = 3
"""More chosen classes than this are only counted."""


@HOOKS.register("hardest")
@dataclass(frozen=True)
class Hardest(Hook):
    """One column per image, the largest loss first: the image, and why the predicted class was predicted."""

    images: int = 12
    """At most so many test images."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """One figure, the arrays `source` and `relevance` (image, channel, height, width), and the numbers.

        The loss is the cross entropy in nats. `method` is the first of `--methods`, or LRP; where it does not apply to
        the model it stands in `refused` with the reason, and the gradient explains. `scale_limits` has one value per
        image: the relevance at which its colours end. `chosen_classes` is what `--classes` chose, or None: images of
        other classes are left out.
        """
        order, losses = by_loss(scene)
        indices = order[: self.images]
        if not indices:
            return
        told = answers(scene, indices)
        source = scene.test.floats(indices)
        method, relevance, refused = _explain(scene, source, torch.tensor(told.predictions))
        truth = scene.logits[indices].float().softmax(1)[torch.arange(len(indices)), told.labels]
        numbers = {
            **told.numbers,
            "true_probabilities": [round(value, 6) for value in truth.tolist()],
            "losses": losses[indices].tolist(),
            "method": method,
            "refused": refused,
            "chosen_classes": None if scene.chosen_classes is None else list(scene.chosen_classes),
            "scale_limits": [scale_limit(one.sum(0)) for one in relevance],
        }
        title = f"{scene.title}: the hardest test images{_among(scene)}"
        yield Artifact(
            caption=f"{title}, the {len(indices)} with the largest loss, and why the predicted class was predicted, "
            f"by {method}.",
            figure=_figure(scene, source.numpy(), relevance, numbers, title),
            arrays={"source": source.numpy(), "relevance": relevance},
            numbers=numbers,
        )


def _among(scene: Scene) -> str:
    """Of which classes images are shown, where `--classes` chose some."""
    if scene.chosen_classes is None:
        return ""
    names = [scene.classes[label] for label in scene.chosen_classes]
    return f" of {', '.join(names)}" if len(names) <= NAMED_CLASSES else f" of {len(names)} chosen classes"


def _explain(scene: Scene, source: torch.Tensor, targets: torch.Tensor) -> tuple[str, np.ndarray, dict[str, str]]:
    """The method that applied, its maps, and why the one before it did not apply."""
    images, targets = source.to(scene.device, dtype_of(scene.model)), targets.to(scene.device)
    wanted = (scene.methods or (METHOD,))[0]
    refused: dict[str, str] = {}
    for name in dict.fromkeys((wanted, FALLBACK)):
        try:
            with without_warnings():
                return name, ready(scene, name).analyze(images, targets).float().cpu().numpy(), refused
        except PellucidError as error:
            refused[name] = str(error)
    raise PellucidError(f"no method applies to this model: {'; '.join(refused.values())}")


def _figure(scene: Scene, source: np.ndarray, relevance: np.ndarray, numbers: dict[str, Any], title: str) -> Figure:
    """The images above, the maps below, each in units of its own scale."""
    shown = relevance.sum(1, keepdims=True) / np.array(numbers["scale_limits"])[:, None, None, None]
    plain = source if source.shape[1] == 3 else source.mean(1, keepdims=True)
    blocks = [Block(plain[None]), Block(shown[None], row=1, limit=1.0, meaning="share of scale")]
    names = class_names(scene.classes, 28)
    keys = ("labels", "predictions", "confidences")
    columns = [
        Label(
            names[label],
            f"{confidence:.0%}" if label == prediction else f"→ {names[prediction][:12]} {confidence:.0%}",
            PALE if label == prediction else WRONG,
        )
        for label, prediction, confidence in zip(*(numbers[key] for key in keys), strict=True)
    ]
    losses = numbers["losses"]
    rows = [Label("image", f"loss {losses[0]:.3g} … {losses[-1]:.3g}"), Label("relevance", numbers["method"])]
    subtitle = "Above each image its class, and what it is taken for with which confidence. "
    subtitle += "Red: speaks for the predicted class; blue: against it; each map on its own scale."
    subtitle += "".join(f" {name} does not apply to this model." for name in numbers["refused"])
    return image_grid(blocks, rows, columns, (title, subtitle))
