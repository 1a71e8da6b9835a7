"""Parts of the hook `robustness` that attack images: the predictions, and the explanations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.core.contracts import Artifact
from pellucid.diagnostics.robustness import (
    LEADING,
    NORMS,
    Adversarial,
    Attack,
    Movement,
    MovementSearch,
    adversarial_radius,
    explanation_movement,
)
from pellucid.hooks._hook import Scene
from pellucid.hooks._methods import bounded_options, create_fitted, explain_each
from pellucid.plots.robustness import RadiusPanel, movement_histograms, radii_by_estimate

__all__ = ["FIXED_SHARE", "METHODS", "Attacked", "adversarial_artifact", "attack_images", "movement_artifact"]

METHODS = ("gradient", "lrp.epsilon_plus_flat")
"""Attribution methods whose maps are attacked, unless `--methods` is given."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {"integrated_gradients": {"steps": 12}, "smoothgrad": {"samples": 12}}
"""Options of the methods, because every image is explained a hundred times."""
FIXED_SHARE = 0.02
"""Fixed radius of the attacks on explanations, as a share of the pixel range."""
TITLES = {"l2": "L2: root of the sum of squares", "linf": "L∞: largest change of a pixel"}
EXAMPLES = 8
"""Number of images whose adversarial images are stored."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """Correctly classified test images, attacked in both norms."""

    indices: Tensor
    images: Tensor
    found: Mapping[str, Adversarial]


def attack_images(scene: Scene, indices: Tensor, attack: Attack) -> Attacked:
    """Search for the closest adversarial images of the test images at `indices`."""
    images, labels = scene.test.floats(indices), scene.test.labels[indices]
    found = {
        norm: adversarial_radius(scene.model, images, labels, norm=norm, pixel_range=scene.test.scale, attack=attack)
        for norm in NORMS
    }
    return Attacked(indices, images, found)


def adversarial_artifact(scene: Scene, attacked: Attacked) -> Artifact:
    """Return the figure of the radii against their estimates, with the numbers of each image."""
    count, parts, sentences = len(attacked.indices), {}, []
    for norm, found in attacked.found.items():
        radius, estimate = found.radius, found.first_order.radius
        is_found = radius.isfinite()
        parts[norm] = {
            "radii": _json(radius),
            "estimates": _json(estimate),
            "predictions": found.predictions.tolist(),
            "nearest_classes": found.first_order.nearest.tolist(),
            "median_radius": _median(radius[is_found]),
            "median_ratio": _median((radius / estimate)[is_found & estimate.isfinite() & (estimate > 0)]),
            "found": int(is_found.sum()),
        }
        name = "L2" if norm == "l2" else "L∞"
        median, ratio = parts[norm]["median_radius"], parts[norm]["median_ratio"]
        if median is not None:
            sentences.append(
                f"{name}: median {median:.3g}" + ("" if ratio is None else f", {ratio:.2f} times the estimate")
            )
        if not is_found.all():
            sentences.append(f"{name}: none found for {count - int(is_found.sum())} images")
    title = f"{scene.title}: smallest adversarial changes"
    some = f"{count} test images, all classified correctly"
    panels = [
        RadiusPanel(TITLES[norm], found.first_order.radius.numpy(), found.radius.numpy())
        for norm, found in attacked.found.items()
    ]
    subtitle = (
        f"One point per image; {some}. Vertical: norm of the change to the closest adversarial image found by PGD within "
        "the pixel range, an upper bound. Horizontal: |f_a − f_b| / ‖∇f_a − ∇f_b‖, nearest of the "
        f"{min(LEADING, scene.logits.shape[1])} leading classes, without the pixel range. Dashed: equal. "
        f"{'. '.join(sentences)}.{scene.scale_note}"
    )
    examples = slice(0, EXAMPLES)
    return Artifact(
        caption=f"{title} of {some}, found by PGD, beside their first-order estimates. {'. '.join(sentences)}.",
        name="adversarial",
        figure=radii_by_estimate(panels, (title, subtitle)),
        arrays={
            "source": attacked.images[examples].numpy(),
            **{f"adversarial_{norm}": found.images[examples].float().numpy() for norm, found in attacked.found.items()},
        },
        numbers={
            "indices": attacked.indices.tolist(),
            "labels": scene.test.labels[attacked.indices].tolist(),
            **parts,
            **scene.pixel_range,
        },
    )


def movement_artifact(scene: Scene, attacked: Attacked, count: int) -> tuple[Artifact | None, dict[str, str]]:
    """Return the figure of the movement of the explanations of at most `count` images, and why methods do not apply.

    The radius is a fixed one, and half of each image's adversarial radius in L∞.
    """
    low, high = scene.test.scale
    chosen = (attacked.found["linf"].radius.isfinite() & (attacked.found["linf"].radius > 0)).nonzero()[:count, 0]
    if not len(chosen):
        return None, {"explanations": "no image has an adversarial radius."}
    radii = {
        "fixed": torch.full((len(chosen),), FIXED_SHARE * (high - low), dtype=torch.float64, device="cpu"),
        "half_of_adversarial": attacked.found["linf"].radius[chosen] / 2,
    }
    images = attacked.images[chosen]

    def measure(name: str) -> dict[str, Movement]:
        analyzer = create_fitted(scene, name, **(OPTIONS.get(name) or bounded_options(scene, name)))
        search = MovementSearch(seed=scene.seed)
        return {
            kind: explanation_movement(
                scene.model, analyzer.analyze, images, radius, pixel_range=scene.test.scale, search=search
            )
            for kind, radius in radii.items()
        }

    measured, refused = explain_each((scene.methods or METHODS)[:2], measure)
    if not measured:
        return None, {"explanations": "; ".join(refused.values())}
    numbers = {
        name: {kind: _movement_numbers(movement) for kind, movement in moved.items()}
        for name, moved in measured.items()
    }
    titles = {
        "fixed": f"r = {FIXED_SHARE * (high - low):.2g}",
        "half_of_adversarial": "r = half of the adversarial radius",
    }
    panels = [
        (f"{name}, {titles[kind]}", movement.attack.numpy(), movement.noise.numpy())
        for name, moved in measured.items()
        for kind, movement in moved.items()
    ]
    title = f"{scene.title}: movement of explanations while the prediction stays"
    medians = "; ".join(
        f"{name}, {titles[kind]}: {one['median_attack']:.2g} under attack, {one['median_noise']:.2g} under noise"
        for name, kinds in numbers.items()
        for kind, one in kinds.items()
        if one["median_noise"] is not None
    )
    subtitle = (
        f"1 − cosine similarity of the explanation of {len(chosen)} test images with that of a changed image, whose "
        "pixels differ by at most r and whose prediction is the same. Orange: the largest found by a search, a lower "
        f"bound. Gray: mean over random noise of the same size. Medians: {medians}.{scene.scale_note}"
    )
    return (
        Artifact(
            caption=f"{title}, {len(chosen)} test images. Median 1 − cosine similarity: {medians}.",
            name="explanations",
            figure=movement_histograms(panels, (title, subtitle)),
            numbers={
                "indices": attacked.indices[chosen].tolist(),
                "radii": {kind: _json(radius) for kind, radius in radii.items()},
                "methods": numbers,
                "refused": refused,
                **scene.pixel_range,
            },
        ),
        {},
    )


def _movement_numbers(movement: Movement) -> dict[str, Any]:
    lists = ("attack", "attack_rank", "noise", "noise_rank")
    values = {name: getattr(movement, name) for name in lists}
    return {
        **{name: _json(one) for name, one in values.items()},
        **{f"median_{name}": _median(one[one.isfinite()]) for name, one in values.items()},
    }


def _median(values: Tensor) -> float | None:
    return float(np.median(values.numpy())) if len(values) else None


def _json(values: Tensor) -> list[float | None]:
    """Return six significant digits of each value, and None for infinity and NaN."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]
