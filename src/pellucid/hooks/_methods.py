"""Attribution methods, set up for the network of a scene."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch

from pellucid.attribution import Analyzer, create_analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.core.contracts import Artifact, ImageSet
from pellucid.core.errors import ConfigError, DataError, PellucidError
from pellucid.engine.model import dtype_of
from pellucid.evaluation import DEFAULT_METHODS
from pellucid.hooks._budget import TOO_EXPENSIVE, Allowance
from pellucid.hooks._hook import Scene, left_out

__all__ = [
    "FAST_OPTIONS",
    "Selection",
    "affordable_methods",
    "bounded_options",
    "create_fitted",
    "explain_each",
    "fit_to_sample",
    "price_of",
    "stated_options",
]

T = TypeVar("T")

FITTED_IMAGES = 5000
"""Maximum number of training images for methods that are fitted to data."""

FAST_OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"tolerance": 0.05},
    "smoothgrad": {"samples": 16},
    "conductance": {"steps": 16},
    "internal_influence": {"steps": 16},
}
"""Options that save most of the time when many maps are computed: integrated gradients stops refining its path at a
completeness error of 5%, SmoothGrad averages half as many noisy copies, and the others take fewer points."""

SMOOTHGRADS = ("smoothgrad", "smoothgrad.squared", "smoothgrad.variance")


def create_fitted(scene: Scene, name: str, **options: Any) -> Analyzer:
    """Create the method `name` for the scene's model, fitted to a sample of the training images if it needs fitting.

    Raises `ConfigError` if the method needs pixel bounds and they are unknown, and `DataError` if it needs training
    images and none were given.
    """
    key = f"analyzer {name} {sorted(options.items())}"
    if key in scene._computed:
        return cast("Analyzer", scene._computed[key])
    analyzer = create_analyzer(name, scene.model, **options)
    if not scene.is_displayed and analyzer.method.box() is not None:
        low, high = scene.test.scale
        raise ConfigError(
            f"{name} needs pixels in [0, 1], but the images are drawn from {low:.3g} to {high:.3g} because their "
            "normalization is unknown; pass the mean and standard deviation that they were normalized with."
        )
    if scene.train is None:
        if not analyzer.method.is_ready:
            raise DataError(f"{name} learns from data: it must be fitted to training images, but none were given.")
        return analyzer
    if scene.budget is None:
        return fit_to_sample(analyzer, scene.train)
    # kept, because the budget allows for one fit
    scene._computed[key] = fit_to_sample(analyzer, scene.train, scene.budget.images // 4)
    return cast("Analyzer", scene._computed[key])


def bounded_options(scene: Scene, name: str) -> dict[str, Any]:
    """Return options that limit the cost of a method under the scene's budget; empty without a budget."""
    if scene.budget is None:
        return {}
    count = Allowance.evaluations_of(scene.budget)
    patch = max(1, -(-max(scene.test.image_shape[1:]) // 4))
    options: dict[str, dict[str, Any]] = {
        "integrated_gradients": {"steps": count},
        "conductance": {"steps": count},
        "internal_influence": {"steps": max(2, count)},
        "expected_gradients": {"samples": count},
        "gradient_shap": {"samples": count},
        # 16 patches of a quarter of each side need at least 64 coalitions
        "kernel_shap": {"coalitions": max(64, 8 * count), "patch": patch},
        "lime": {"samples": 8 * count, "patch": patch},
        "feature_ablation": {"patch": patch},
        "feature_permutation": {"samples": max(1, count // 8), "patch": patch},
        "shapley_sampling": {"permutations": max(1, count // 8), "patch": patch},
        "occlusion": {"window": patch, "stride": patch},
        "rise": {"masks": 8 * count, "cells": 4},
        "simple_taylor": {"places": 4, "halvings": count // 2},
    }
    return {"samples": count} if name in SMOOTHGRADS else options.get(name, {})


def stated_options(scene: Scene, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the entry `options` of a hook's numbers: the bounded options by method; empty without a budget."""
    options = {name: bounded_options(scene, name) for name in names} if scene.budget else {}
    return {"options": {name: one for name, one in options.items() if one}} if scene.budget else {}


def price_of(scene: Scene, allowance: Allowance, name: str, options: Mapping[str, Any]) -> float:
    """Return the cost of explaining one image, in forward passes; 0 without a budget.

    Raises whatever the method raises if it does not apply.
    """

    def compute() -> None:
        image = scene.test.floats([0]).to(scene.device, dtype_of(scene.model))
        with without_warnings():
            create_fitted(scene, name, **options).explain(image, scene.logits[:1].argmax(1).to(scene.device))

    if allowance.left <= 0:
        raise ConfigError("nothing is left of the budget (--budget).")
    key = f"{name} {sorted(options.items())}"
    allowance.price(f"fit {key}", lambda: create_fitted(scene, name, **options))
    return allowance.price(key, compute)


@dataclass(frozen=True)
class Selection:
    """The methods that a hook uses, and the reasons for leaving out the others."""

    prices: dict[str, float]
    """Cost of explaining one image by method, in forward passes; 0 without a budget."""
    refused: dict[str, str] = field(default_factory=dict)
    """Methods that do not apply."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Methods that the budget does not cover."""

    @property
    def price(self) -> float:
        """Cost of explaining one image by all methods."""
        return sum(self.prices.values())

    @property
    def note(self) -> str:
        """Sentence about the methods left out, with a leading space; empty if there are none."""
        return f" Omitted to stay within the budget: {', '.join(self.left_out)}." if self.left_out else ""

    @property
    def numbers(self) -> dict[str, dict[str, str]]:
        """The entry `left_out` of a hook's numbers; empty if no method is left out."""
        return {"left_out": self.left_out} if self.left_out else {}

    def leave_out(self, name: str) -> None:
        """Move a method to those left out."""
        self.left_out[name] = f"It takes {self.prices.pop(name):.0f} forward passes per image (--budget)."

    def artifact(self, scene: Scene) -> Artifact:
        """Return an artifact that says why no method is shown."""
        reasons = [f"{name}: {why}" for name, why in (*self.refused.items(), *self.left_out.items())]
        reasons += [TOO_EXPENSIVE.format(name=", ".join(self.prices))] if self.prices else []
        return left_out(scene, " ".join(reasons))


def affordable_methods(
    scene: Scene, allowance: Allowance, options: Callable[[str], Mapping[str, Any]], wanted: int
) -> Selection:
    """Choose the methods to use; without a budget, all.

    The most expensive methods are left out until `wanted` images can be explained by all others.
    """
    names = scene.methods or DEFAULT_METHODS
    if not allowance.is_limited:
        return Selection(dict.fromkeys(names, 0.0))
    selection = Selection({})
    for name in names:
        if allowance.left <= 0:
            selection.left_out[name] = "Nothing is left of the budget (--budget)."
            continue
        priced, refused = explain_each([name], lambda name: price_of(scene, allowance, name, options(name)))
        selection.prices.update(priced)
        selection.refused.update(refused)
    while len(selection.prices) > 1 and allowance.left < wanted * selection.price:
        selection.leave_out(max(selection.prices, key=lambda name: selection.prices[name]))
    return selection


def fit_to_sample(analyzer: Analyzer, images: ImageSet, most: int | None = None) -> Analyzer:
    """Fit an analyzer, if it needs fitting, to at most `most` (`FITTED_IMAGES`) images, spread evenly over the set."""
    if analyzer.method.needs_fit:
        count = min(len(images), FITTED_IMAGES if most is None else most)
        analyzer.fit(_Batches(images, list((torch.arange(count) * len(images) // count).split(500))))
    return analyzer


def explain_each(names: Iterable[str], explain: Callable[[str], T]) -> tuple[dict[str, T], dict[str, str]]:
    """Return the result of `explain` by method, and the reason for each method that does not apply.

    Warnings about residuals are silenced, because the hooks return the residuals themselves.
    """
    explained, refused = {}, {}
    for name in names:
        try:
            with without_warnings():
                explained[name] = explain(name)
        except PellucidError as error:
            refused[name] = str(error)
    return explained, refused


@dataclass(frozen=True, eq=False)
class _Batches:
    """Batches of images, converted to floats one at a time."""

    images: ImageSet
    indices: list[torch.Tensor]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.images.floats(part) for part in self.indices)
