"""Part of the hook `robustness` that attacks predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pellucid.core.contracts import Artifact
from pellucid.diagnostics.robustness import LEADING, NORMS, Adversarial, Attack, Norm, adversarial_radius
from pellucid.hooks._hook import Scene
from pellucid.plots._text import class_names
from pellucid.plots.robustness import ExampleRow, RadiusPanel, radii_by_estimate

__all__ = ["Attacked", "adversarial_artifact", "attack_images", "display", "json_values", "median_of"]

TITLES: Mapping[Norm, str] = {"l2": "L2: root of the sum of squares", "linf": "L∞: largest change of a pixel"}
EXAMPLES = 8
"""Number of images whose adversarial images are stored."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """Correctly classified test images, attacked in both norms."""

    indices: Tensor
    images: Tensor
    found: Mapping[Norm, Adversarial]


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
    count = len(attacked.indices)
    parts: dict[str, dict[str, Any]] = {norm: _radius_numbers(found) for norm, found in attacked.found.items()}
    summary = " ".join(_radius_sentence(norm, numbers, count) for norm, numbers in parts.items())
    title = f"{scene.title}: smallest adversarial changes"
    panels = [
        RadiusPanel(TITLES[norm], found.first_order.radius.numpy(), found.radius.numpy())
        for norm, found in attacked.found.items()
    ]
    subtitle = (
        f"One point per image; {count} test images, all classified correctly. Vertical: distance to the "
        "closest adversarial image found by PGD within the pixel range, an upper bound. Horizontal: "
        f"|f_a − f_b| / ‖∇f_a − ∇f_b‖, nearest of the {min(LEADING, scene.logits.shape[1])} leading classes, without "
        "the pixel range. Dashed: equal. "
        f"{summary} Below: examples with their predictions.{scene.scale_note}"
    )
    shown = slice(0, EXAMPLES)
    return Artifact(
        caption=f"{title} of {count} test images, found by PGD, with their first-order estimates. {summary}",
        name="adversarial",
        figure=radii_by_estimate(panels, _example_rows(scene, attacked), (title, subtitle)),
        arrays={
            "source": attacked.images[shown].numpy(),
            **{f"adversarial_{norm}": found.images[shown].float().numpy() for norm, found in attacked.found.items()},
        },
        numbers={
            "indices": attacked.indices.tolist(),
            "labels": scene.test.labels[attacked.indices].tolist(),
            **parts,
            **scene.pixel_range,
        },
    )


def _radius_numbers(found: Adversarial) -> dict[str, Any]:
    radius, estimate = found.radius, found.first_order.radius
    is_found = radius.isfinite()
    return {
        "radii": json_values(radius),
        "estimates": json_values(estimate),
        "predictions": found.predictions.tolist(),
        "nearest_classes": found.first_order.nearest.tolist(),
        "median_radius": median_of(radius[is_found]),
        "median_ratio": median_of((radius / estimate)[is_found & estimate.isfinite() & (estimate > 0)]),
        "found": int(is_found.sum()),
    }


def _radius_sentence(norm: str, numbers: dict[str, Any], count: int) -> str:
    """Summarize the radii in one norm."""
    median, ratio, missing = numbers["median_radius"], numbers["median_ratio"], count - numbers["found"]
    parts = [] if median is None else [f"median {median:.3g}"]
    parts += [] if ratio is None else [f"{ratio:.2f} times the estimate"]
    parts += [f"none found for {missing} images"] if missing else []
    return f"{'L2' if norm == 'l2' else 'L∞'}: {', '.join(parts)}."


def _example_rows(scene: Scene, attacked: Attacked) -> list[ExampleRow]:
    shown, names = slice(0, EXAMPLES), class_names(scene.classes, 28)
    labels = scene.test.labels[attacked.indices[shown]].tolist()
    rows = [ExampleRow("original", display(scene, attacked.images[shown]), [_named(names, label) for label in labels])]
    for norm, found in attacked.found.items():
        captions = [f"→ {_named(names, label)}" for label in found.predictions[shown].tolist()]
        rows.append(ExampleRow("L2" if norm == "l2" else "L∞", display(scene, found.images[shown]), captions))
    return rows


def _named(names: Sequence[str], label: int) -> str:
    # a model can have more logits than the data set has names
    return names[label] if label < len(names) else f"#{label}"


def display(scene: Scene, images: Tensor) -> np.ndarray:
    """Return images as they are drawn, in [0, 1]."""
    low, high = scene.test.scale
    return ((images.float() - low) / (high - low)).clamp(0, 1).numpy()


def median_of(values: Tensor) -> float | None:
    """Return the median of the finite values, with six significant digits; None if there are none."""
    values = values[values.isfinite()]
    return float(f"{np.median(values.numpy()):.6g}") if len(values) else None


def json_values(values: Tensor) -> list[float | None]:
    """Return six significant digits of each value, and None for infinity and NaN."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]
