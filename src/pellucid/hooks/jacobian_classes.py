"""Mean absolute Jacobian by class, and the distribution of its spectral norm."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.jacobians import ClassMeans, jacobian_class_means
from pellucid.plots.class_maps import class_maps

__all__ = ["JacobianClasses"]

BATCH = 250


@HOOKS.register("jacobian_classes")
@dataclass(frozen=True)
class JacobianClasses(Hook):
    """Mean absolute Jacobian of each class, and a histogram of spectral norms."""

    images: int | None = 1000
    """Maximum number of test images, spread evenly over the test set; None: all."""
    columns: int = 12
    """Maximum number of classes to draw."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the array `mean_absolute_jacobian` (class, logit, channel, height, width) and numbers.

        Row c, column k of the figure is the mean of |∂ logit k / ∂ pixel| over the test images of class c, summed over
        channels. `spectral_norms` and `frobenius_norms` are those of each image's full Jacobian, in logits per unit of
        pixel.
        """
        count = len(scene.test) if self.images is None else min(len(scene.test), self.images)
        if not count:
            return
        indices = torch.arange(count) * len(scene.test) // count
        started = perf_counter()
        class_means = jacobian_class_means(scene.model, _batches(scene, indices), classes=len(scene.classes))
        seconds = perf_counter() - started
        drawn = self._choose_classes(scene, class_means)
        numbers = _numbers(scene, class_means, drawn) | {"timing": {"seconds": seconds}}
        title = f"{scene.title}: mean sensitivity by class (Jacobian)"
        typical = numbers["median_spectral_norm"]
        caption = (
            f"{title}: mean of |∂ logit / ∂ pixel| over {count:,} test images; median spectral norm {typical:.3g} "
            "logits per unit of pixel."
        )
        means = class_means.means.cpu().float().numpy()
        yield Artifact(
            caption=caption,
            figure=_figure(scene, means, numbers, title),
            # classes without images have NaN means
            arrays={"mean_absolute_jacobian": np.nan_to_num(means)},
            numbers=numbers,
            scalars={"median_spectral_norm": typical},
        )

    def _choose_classes(self, scene: Scene, class_means: ClassMeans) -> list[int]:
        """Return the classes selected by the user, or by default those with images first."""
        wanted = scene.chosen_classes
        if wanted is None:
            # classes without images have nothing to draw, so they come last
            present = class_means.counts.nonzero().flatten().tolist()
            wanted = (*present, *range(len(scene.classes)))
        # cut in order of priority, then sorted for reading
        return sorted(list(dict.fromkeys(wanted))[: self.columns])


def _batches(scene: Scene, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part in indices.split(BATCH):
        yield scene.test.floats(part).to(scene.device), scene.test.labels[part]


def _numbers(scene: Scene, class_means: ClassMeans, drawn: list[int]) -> dict[str, Any]:
    spectral = class_means.spectral_norms
    by_class = [spectral[class_means.labels == label] for label in range(len(scene.classes))]
    return {
        "images": len(spectral),
        "classes": list(scene.classes),
        "drawn_classes": drawn,
        "counts": class_means.counts.tolist(),
        "spectral_norms": _listed(spectral),
        "frobenius_norms": _listed(class_means.frobenius_norms),
        "median_spectral_norm": float(spectral.median()),
        "class_median_spectral_norm": [float(norms.median()) if len(norms) else None for norms in by_class],
    }


def _listed(norms: Tensor) -> list[float]:
    # seven digits, all that the float32 Jacobians hold; there are two norms for each test image
    return [float(f"{norm:.7g}") for norm in norms.tolist()]


def _figure(scene: Scene, means: np.ndarray, numbers: dict[str, Any], title: str) -> Figure:
    drawn = [label for label in numbers["drawn_classes"] if label < means.shape[1]]
    maps = means[np.ix_(numbers["drawn_classes"], drawn)].sum(2)
    norms = numbers["class_median_spectral_norm"]
    details = [
        "no images" if norms[label] is None else f"‖J‖₂ {norms[label]:.3g}" for label in numbers["drawn_classes"]
    ]
    subtitle = (
        f"Rows: true class; columns: logit. Mean |∂ logit / ∂ pixel| over {numbers['images']:,} test images. "
        "Below: spectral norm ‖J‖₂ of each image's Jacobian; dashed: median."
    )
    rows = [(scene.classes[label], detail) for label, detail in zip(numbers["drawn_classes"], details, strict=True)]
    columns = [scene.classes[label] for label in drawn]
    return class_maps(maps, rows, columns, np.array(numbers["spectral_norms"]), (title, subtitle))
