"""Jacobian maps: the gradient of every class's logit, checked against finite differences."""

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pellucid.core.errors import ModelError
from pellucid.engine.model import dtype_of, frozen
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance, price_of_jacobian
from pellucid.hooks._hook import left_out
from pellucid.jacobians import check_jacobian, jacobian
from pellucid.plots._outline import outline_note
from pellucid.plots._text import class_names
from pellucid.plots.colours import INK, WRONG, gray_or_rgb, scale_limit
from pellucid.plots.image_grid import Block, Mark, image_grid
from pellucid.plots.labels import Label

__all__ = ["JacobianMaps"]


@HOOKS.register("jacobian_maps")
@dataclass(frozen=True)
class JacobianMaps(Hook):
    """Derivative of every class's logit with respect to the pixels of test images, one row per image."""

    images: int = 10
    """Number of test images: the first of each class, then the first of the test set."""
    columns: int = 12
    """Maximum number of classes to draw."""
    samples: int = 16
    """Number of pixels per image to compare with finite differences."""
    largest_bytes: int = 256_000_000
    """Maximum size of a full Jacobian; a larger one is stored for the drawn classes only, with the norms of all of
    it."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the arrays `source` and `jacobian` (image, class, channel, height, width) and numbers.

        `frobenius_norm` and `spectral_norm` (the largest singular value) are those of each image's full Jacobian (class
        by pixel), in logits per unit of pixel. `finite_difference_error` is the largest deviation from central
        differences in float64 at sampled pixels, over images that are not on a kink (None if all are); `kink_images`
        are the test indices of the others. `jacobian_classes` are the classes of the array. Under a budget, only the
        drawn classes are differentiated, and the norms are theirs (`norms_of`).
        """
        allowance = Allowance(scene, "jacobian_maps")
        most = allowance.classes(self.images)
        indices = self._choose_images(scene, most)
        if not indices:
            return
        drawn = self._choose_classes(scene, indices, allowance)
        price = price_of_jacobian(scene, allowance, drawn)
        # once more in float64, and four forward passes for each sampled pixel; one each for the clock and the kinks
        price = 2 * price + 4 * self._samples(scene) + 2 if allowance.is_limited else 0.0
        indices = self._choose_images(scene, allowance.affordable(price, most, calls=3))
        if not indices:
            yield left_out(scene, "the budget (--budget) does not cover the Jacobian of one image.")
            return
        maps, numbers = self._compute(scene, indices, drawn)
        shown = maps.numpy()[:, [numbers["jacobian_classes"].index(label) for label in drawn]].sum(2, keepdims=True)
        numbers["scale_limit"] = scale_limit(shown)
        title = f"{scene.title}: Jacobian of the logits"
        source = scene.test.shown(indices).numpy()
        yield Artifact(
            caption=f"{title} for {len(indices)} test images. {_verdict(numbers)}{_choice(scene, drawn)}",
            figure=_figure(scene, source, shown, numbers, title),
            arrays={"source": source, "jacobian": maps.numpy()},
            numbers=numbers | scene.pixel_range,
            scalars={"mean_spectral_norm": float(np.mean(numbers["spectral_norm"]))},
        )

    def _choose_images(self, scene: Scene, count: int) -> list[int]:
        firsts = scene.first_of_each_class(count)
        others = (index for index in range(len(scene.test)) if index not in firsts)
        return firsts + [index for index, _ in zip(others, range(count - len(firsts)), strict=False)]

    def _choose_classes(self, scene: Scene, indices: list[int], allowance: Allowance) -> list[int]:
        """Return the classes to draw: those selected by the user, or by default predictions and labels first."""
        wanted = scene.chosen_classes
        if wanted is None:
            predictions = scene.logits[indices].argmax(1).tolist()
            wanted = (*predictions, *scene.test.labels[indices].tolist(), *range(scene.logits.shape[1]))
        return sorted(list(dict.fromkeys(wanted))[: allowance.classes(self.columns)])

    def _compute(self, scene: Scene, indices: list[int], drawn: list[int]) -> tuple[Tensor, dict[str, Any]]:
        """Return the Jacobian to store, and the numbers of the artifact."""
        images = scene.test.floats(indices).to(scene.device)
        started = perf_counter()
        maps, stored, norms = self._differentiate(scene, images, drawn)
        timing = _timing(scene, images, perf_counter() - started)
        is_whole = len(stored) == scene.logits.shape[1]
        numbers = {
            "indices": indices,
            "labels": scene.test.labels[indices].tolist(),
            "predictions": scene.logits[indices].argmax(1).tolist(),
            "classes": list(scene.classes),
            "jacobian_classes": stored,
            "drawn_classes": drawn,
            **norms,
            "timing": timing,
            **self._check(scene, images, indices, maps if is_whole or scene.budget else None, stored),
        }
        return maps, numbers | ({} if scene.budget is None else {"norms_of": "jacobian_classes"})

    def _differentiate(
        self, scene: Scene, images: Tensor, drawn: list[int]
    ) -> tuple[Tensor, list[int], dict[str, list[float]]]:
        """Return the Jacobian to store (image, class, channel, height, width), its classes and each image's norms."""
        count = scene.logits.shape[1]
        # 4 bytes per float32
        is_small = images.numel() * count * 4 <= self.largest_bytes
        # a budget allows for the drawn classes only, also in the norms
        outputs = drawn if scene.budget else None
        stored = list(range(count)) if is_small and outputs is None else drawn
        maps, frobenius, spectral = [], [], []
        for part in [images] if is_small else images.split(1):  # one image at a time bounds the memory
            full = jacobian(scene.model, part, outputs).cpu()
            matrices = full.flatten(2).double()
            frobenius += torch.linalg.matrix_norm(matrices).tolist()
            spectral += torch.linalg.matrix_norm(matrices, 2).tolist()
            maps.append(full if is_small or outputs else full[:, stored])
        return torch.cat(maps), stored, {"frobenius_norm": frobenius, "spectral_norm": spectral}

    def _samples(self, scene: Scene) -> int:
        return self.samples if scene.budget is None else min(self.samples, max(4, scene.budget.passes // 5))

    def _check(
        self, scene: Scene, images: Tensor, indices: list[int], maps: Tensor | None, stored: list[int]
    ) -> dict[str, Any]:
        """Compare with finite differences; returns the numbers, or the reason if the model doesn't allow it."""
        model, samples = scene.model, self._samples(scene)
        if scene.budget is not None:
            model = _Chosen(model, stored)
        try:
            check = check_jacobian(model, images, maps, samples=samples, seed=scene.seed)
        except ModelError as error:
            return {"finite_difference_error": None, "kink_images": [], "finite_difference_note": str(error)}
        return {
            "finite_difference_error": check.largest(),
            "finite_difference_error_off_kinks": check.largest(with_kinks=True),
            "kink_images": [index for index, on_kink in zip(indices, check.on_kink.tolist(), strict=True) if on_kink],
        }


class _Chosen(nn.Module):
    """A model with some of its logits."""

    def __init__(self, model: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.model, self.classes = model, classes
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits[:, self.classes]


def _choice(scene: Scene, drawn: list[int]) -> str:
    """Return a sentence on the selection of classes, with a leading space; empty if all are shown."""
    if scene.chosen_classes is not None or len(drawn) >= len(scene.classes):
        return ""
    return f" Shows {len(drawn)} of {len(scene.classes):,} classes, the predicted and the true ones first."


def _timing(scene: Scene, images: Tensor, seconds: float) -> dict[str, float]:
    """Return the time for the Jacobian and its norms, in seconds and as a multiple of a forward pass of the images."""
    passes = []
    with frozen(scene.model), torch.no_grad():
        for _ in range(3 if scene.budget is None else 1):
            started = perf_counter()
            scene.model(images.to(dtype_of(scene.model)))
            passes.append(perf_counter() - started)
    # the first pass may include one-time work, such as choosing kernels
    median = sorted(passes)[len(passes) // 2]
    return {"seconds": seconds, "forward_passes": seconds / max(median, 1e-9)}  # clocks may read zero


def _verdict(numbers: dict[str, Any]) -> str:
    """Summarize in one sentence how well the Jacobian agrees with finite differences."""
    error, kinks, images = numbers["finite_difference_error"], numbers["kink_images"], len(numbers["indices"])
    if "finite_difference_note" in numbers:
        return "Not compared with finite differences: the model does not run in float64."
    if error is None:
        return (
            f"All {images} images are on a kink (a ReLU at zero or a tie), where no derivative exists to compare with."
        )
    excluded = f", excluding {len(kinks)} of {images} images on a kink" if kinks else ""
    return f"Largest deviation from finite differences: {error:.1e}{excluded}."


def _figure(scene: Scene, source: np.ndarray, shown: np.ndarray, numbers: dict[str, Any], title: str) -> Figure:
    """Draw the source in the first column and then one column per class, with the predictions framed."""
    images = gray_or_rgb(source)[:, None]
    blocks = [
        Block(images, column=0),
        Block(shown, column=1, limit=numbers["scale_limit"], meaning="∂ logit / ∂ pixel", outlined=images),
    ]
    names = class_names(scene.classes, 28)
    rows, marks = [], []
    for row, (label, prediction) in enumerate(zip(numbers["labels"], numbers["predictions"], strict=True)):
        is_right = label == prediction
        rows.append(Label(names[label], f"‖J‖₂ {numbers['spectral_norm'][row]:.3g}"))
        if prediction in numbers["drawn_classes"]:
            column = 1 + numbers["drawn_classes"].index(prediction)
            marks.append(Mark(row, column, INK if is_right else WRONG))
    columns = [Label("source"), *(Label(names[label]) for label in numbers["drawn_classes"])]
    subtitle = (
        "Red: increasing the pixel raises the class's logit. Framed: prediction (orange if wrong). "
        f"‖J‖₂: spectral norm{' over these classes' if 'norms_of' in numbers else ''}. {len(rows)} test images. "
        f"{_verdict(numbers)}{_choice(scene, numbers['drawn_classes'])}{scene.scale_note}{outline_note(source)}"
    )
    return image_grid(blocks, rows, columns, (title, subtitle), marks)
