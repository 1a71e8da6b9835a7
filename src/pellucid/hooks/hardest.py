"""The hardest test images: those with the largest loss, with an explanation of each prediction."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pellucid.attribution._explanation import without_warnings
from pellucid.core.errors import PellucidError
from pellucid.engine.model import dtype_of
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import TOO_EXPENSIVE, Allowance
from pellucid.hooks._hook import left_out
from pellucid.hooks._methods import bounded_options, create_fitted, price_of, stated_options
from pellucid.hooks._predictions import by_loss, predictions_of
from pellucid.plots._outline import outline_note
from pellucid.plots._text import class_names
from pellucid.plots.colours import PALE, WRONG, gray_or_rgb, scale_limit
from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label

__all__ = ["Hardest"]

METHOD = "lrp.epsilon_plus_flat"
"""Attribution method, unless `--methods` is given."""
FALLBACK = "gradient"
"""Attribution method for models that the first choice doesn't support."""
NAMED_CLASSES = 3
"""Maximum number of selected classes that the title lists by name."""


@HOOKS.register("hardest")
@dataclass(frozen=True)
class Hardest(Hook):
    """Test images with the largest loss, each with an explanation of its predicted class; one column per image."""

    images: int = 12
    """Maximum number of test images."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the arrays `source` and `relevance` (image, channel, height, width) and numbers.

        The loss is the cross-entropy in nats. `method` is the first of `--methods`, or LRP; if it does not apply to the
        model, `refused` has the reason and the gradient is used instead. `scale_limits` has one value per image: the
        relevance at the end of its color scale. `chosen_classes` are the classes selected by `--classes`, to which the
        images are restricted, or None.
        """
        order, losses = by_loss(scene)
        if not order:
            return
        method, relevance, refused = _explain(scene, order[: self.images])
        if method is None:
            yield left_out(scene, "; ".join(refused.values()))
            return
        indices = order[: len(relevance)]
        outcome, source = predictions_of(scene, indices), scene.test.shown(indices)
        truth = scene.logits[indices].float().softmax(1)[torch.arange(len(indices)), outcome.labels]
        numbers = {
            **outcome.numbers,
            "true_probabilities": [round(value, 6) for value in truth.tolist()],
            "losses": losses[indices].tolist(),
            "method": method,
            "refused": refused,
            **stated_options(scene, [method]),
            "chosen_classes": None if scene.chosen_classes is None else list(scene.chosen_classes),
            "scale_limits": [scale_limit(one.sum(0)) for one in relevance],
        }
        title = f"{scene.title}: hardest test images{_among(scene)}"
        yield Artifact(
            caption=f"{title}: the {len(indices)} of {len(scene.test):,} with the largest loss, and explanations of "
            f"the predicted class by {method}.",
            figure=_figure(scene, source.numpy(), relevance, numbers, title),
            arrays={"source": source.numpy(), "relevance": relevance},
            numbers=numbers,
        )


def _among(scene: Scene) -> str:
    """Return a phrase for the classes selected by `--classes`, to be appended to the title."""
    if scene.chosen_classes is None:
        return ""
    names = [scene.classes[label] for label in scene.chosen_classes]
    return f" of {', '.join(names)}" if len(names) <= NAMED_CLASSES else f" of {len(names)} selected classes"


def _explain(scene: Scene, indices: list[int]) -> tuple[str | None, np.ndarray, dict[str, str]]:
    """Return the method used, its relevance maps and, for the fallback, the reason why the first did not apply.

    Under a budget, only the first images may be explained. There is no method if the budget covers none.
    """
    allowance, options = Allowance(scene, "hardest"), partial(bounded_options, scene)
    wanted = (scene.methods or (METHOD,))[0]
    refused: dict[str, str] = {}
    # a dict drops the repetition if the gradient itself was wanted
    for name in dict.fromkeys((wanted, FALLBACK)):
        try:
            price = price_of(scene, allowance, name, options(name)) if allowance.is_limited else 0.0
            kept = indices[: allowance.affordable(price, len(indices))]
            if not kept:
                refused[name] = TOO_EXPENSIVE.format(name=name)
                continue
            images = scene.test.floats(kept).to(scene.device, dtype_of(scene.model))
            targets = scene.logits[kept].argmax(1).to(scene.device)
            with without_warnings(), allowance.spending():
                relevance = create_fitted(scene, name, **options(name)).analyze(images, targets)
            return name, relevance.float().cpu().numpy(), refused
        except PellucidError as error:
            refused[name] = str(error)
    if allowance.is_limited:
        return None, np.zeros(0), refused
    raise PellucidError(f"no method applies to this model: {'; '.join(refused.values())}")


def _figure(scene: Scene, source: np.ndarray, relevance: np.ndarray, numbers: dict[str, Any], title: str) -> Figure:
    """Draw the images above their maps, each map with its own color scale."""
    shown = relevance.sum(1, keepdims=True) / np.array(numbers["scale_limits"])[:, None, None, None]
    images = gray_or_rgb(source)[None]
    blocks = [Block(images), Block(shown[None], row=1, limit=1.0, meaning="share of scale", outlined=images)]
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
    subtitle = "Above each image: true class, then → prediction (if wrong) and confidence. "
    subtitle += "Red: evidence for the predicted class; blue: evidence against it; each map has its own scale."
    subtitle += f" {len(columns)} of {len(scene.test):,} test images.{scene.scale_note}{outline_note(source)}"
    subtitle += "".join(f" {name} does not apply here." for name in numbers["refused"])
    return image_grid(blocks, rows, columns, (title, subtitle))
