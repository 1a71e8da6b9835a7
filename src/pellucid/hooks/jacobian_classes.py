"""Mean absolute Jacobian by class, and the distribution of its spectral norm."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance, price_of_jacobian
from pellucid.hooks._hook import left_out
from pellucid.jacobians import ClassMeans, jacobian_class_means
from pellucid.jacobians._native.job import expected_images
from pellucid.plots.class_maps import class_maps

__all__ = ["JacobianClasses"]

BATCH = 2500
"""Maximum number of images per batch."""
MANY_CLASSES = 12
"""Number of classes above which only the drawn ones are computed: memory and time grow with its square."""
LARGEST_BYTES = 32_000_000
"""Maximum size of a batch's images."""


@HOOKS.register("jacobian_classes")
@dataclass(frozen=True)
class JacobianClasses(Hook):
    """Mean absolute Jacobian of each class, and a histogram of spectral norms."""

    images: int | None = 1000
    """Maximum number of test images, spread evenly over the test set; None: all."""
    columns: int = 12
    """Maximum number of classes to draw."""

    def derivatives(self, test_shape: tuple[int, ...], classes: int) -> int:
        """Return the size of the Jacobians of all images, for as many logits as are computed."""
        images, values = test_shape[0], math.prod(test_shape[1:])
        return min(images, self.images or images) * values * (classes if classes <= MANY_CLASSES else self.columns)

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the array `mean_absolute_jacobian` (class, logit, channel, height, width) and numbers.

        Row c, column k of the figure is the mean of |∂ logit k / ∂ pixel| over the test images of class c, summed over
        channels. `spectral_norms` and `frobenius_norms` are those of each image's full Jacobian, in logits per unit of
        pixel.

        With many classes, or under a budget, only the drawn ones are computed, as rows and as logits, in the order of
        `jacobian_classes`.
        """
        allowance = Allowance(scene, HOOKS.name_of(type(self)))
        chosen = self._choose_classes(scene, allowance)
        indices = _of_classes(scene, chosen)
        if not len(indices):
            return
        price = price_of_jacobian(scene, allowance, chosen)
        # the norms take the products of all pairs of rows
        rows = scene.logits.shape[1] if chosen is None else len(chosen)
        price += allowance.passes(2 * rows**2 * scene.test.pixels[0].numel())
        count = allowance.affordable(price, allowance.images(self.images or len(indices)))
        if not count:
            yield left_out(scene, "the budget (--budget) does not cover the Jacobian of one image.")
            return
        count = min(count, len(indices))
        # spread evenly, in case the test set is sorted by class
        indices = indices[torch.arange(count) * len(indices) // count]
        started = perf_counter()
        class_means = _means(scene, indices, chosen)
        seconds = perf_counter() - started
        classes = list(range(len(scene.classes))) if chosen is None else chosen
        drawn = self._drawn(scene, class_means, classes)
        numbers = _numbers(scene, class_means, drawn, chosen) | {"timing": {"seconds": seconds}}
        title = f"{scene.title}: mean sensitivity by class (Jacobian)"
        typical = numbers["median_spectral_norm"]
        caption = (
            f"{title}: mean of |∂ logit / ∂ pixel| over {count:,} test images; median spectral norm {typical:.3g} "
            f"logits per unit of pixel.{_choice(scene, chosen)}"
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

    def _choose_classes(self, scene: Scene, allowance: Allowance) -> list[int] | None:
        """Return the classes to compute, both as rows and as logits; None for all."""
        most = allowance.classes(self.columns)
        is_small = len(scene.classes) <= (most if allowance.is_limited else MANY_CLASSES)
        return None if is_small else sorted(scene.shown_classes(most, with_images=True))

    def _drawn(self, scene: Scene, class_means: ClassMeans, classes: list[int]) -> list[int]:
        """Return the classes selected by the user, or by default those with images first."""
        wanted = scene.chosen_classes
        if wanted is None:
            # classes without images have nothing to draw, so they come last
            present = [classes[place] for place in class_means.counts.nonzero().flatten().tolist()]
            wanted = (*present, *classes)
        # cut in order of priority, then sorted for reading
        return sorted(list(dict.fromkeys(wanted))[: self.columns])


def _of_classes(scene: Scene, chosen: list[int] | None) -> Tensor:
    """Return the indices of the test images of these classes."""
    if chosen is None:
        return torch.arange(len(scene.test))
    return torch.isin(scene.test.labels, torch.tensor(chosen, dtype=torch.int64)).nonzero().flatten()


def _means(scene: Scene, indices: Tensor, chosen: list[int] | None) -> ClassMeans:
    """Compute the mean Jacobians of all classes, or of those chosen, in their order, for their logits only."""
    count = len(scene.classes) if chosen is None else len(chosen)
    size = max(1, min(BATCH, LARGEST_BYTES // (4 * scene.test.pixels[0].numel())))
    places = None if chosen is None else torch.tensor(chosen)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for part in indices.split(size):
            labels = scene.test.labels[part]
            yield scene.test.floats(part).to(scene.device), labels if places is None else _places(labels, places)

    with expected_images(len(indices)):
        return jacobian_class_means(scene.model, batches(), classes=count, outputs=chosen)


def _places(labels: Tensor, chosen: Tensor) -> Tensor:
    """Return the position of each label in `chosen`, which is sorted."""
    return torch.searchsorted(chosen, labels)


def _choice(scene: Scene, chosen: list[int] | None) -> str:
    return "" if chosen is None else scene.choice(len(chosen))


def _numbers(scene: Scene, class_means: ClassMeans, drawn: list[int], chosen: list[int] | None) -> dict[str, Any]:
    """Return the artifact's numbers; with `chosen` classes, these are the rows and the logits of the Jacobians."""
    spectral = class_means.spectral_norms
    by_class = [spectral[class_means.labels == place] for place in range(len(class_means.counts))]
    return {
        "images": len(spectral),
        "classes": list(scene.classes),
        "drawn_classes": drawn,
        "counts": class_means.counts.tolist(),
        "spectral_norms": _listed(spectral),
        "frobenius_norms": _listed(class_means.frobenius_norms),
        "median_spectral_norm": float(spectral.median()),
        "class_median_spectral_norm": [float(norms.median()) if len(norms) else None for norms in by_class],
        **({} if chosen is None else {"jacobian_classes": chosen}),
    }


def _listed(norms: Tensor) -> list[float]:
    # seven digits, all that the float32 Jacobians hold; there are two norms for each test image
    return [float(f"{norm:.7g}") for norm in norms.tolist()]


def _figure(scene: Scene, means: np.ndarray, numbers: dict[str, Any], title: str) -> Figure:
    classes = numbers.get("jacobian_classes", range(len(scene.classes)))
    # positions of the classes in the arrays; a model may have fewer logits than there are classes
    rows_at = [classes.index(label) for label in numbers["drawn_classes"]]
    drawn = [label for label, place in zip(numbers["drawn_classes"], rows_at, strict=True) if place < means.shape[1]]
    maps = means[np.ix_(rows_at, [classes.index(label) for label in drawn])].sum(2)
    norms = numbers["class_median_spectral_norm"]
    details = ["no images" if norms[place] is None else f"‖J‖₂ {norms[place]:.3g}" for place in rows_at]
    subtitle = (
        f"Rows: true class; columns: logit. Mean |∂ logit / ∂ pixel| over {numbers['images']:,} test images. "
        "Below: spectral norm ‖J‖₂ of each image's Jacobian; dashed: median."
        f"{_choice(scene, numbers.get('jacobian_classes'))}"
    )
    rows = [(scene.classes[label], detail) for label, detail in zip(numbers["drawn_classes"], details, strict=True)]
    columns = [scene.classes[label] for label in drawn]
    return class_maps(maps, rows, columns, np.array(numbers["spectral_norms"]), (title, subtitle))
