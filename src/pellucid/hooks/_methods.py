"""Attribution methods, set up for the network of a scene."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pellucid.attribution import Analyzer, create_analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import PellucidError
from pellucid.hooks._hook import Scene

__all__ = ["FAST_OPTIONS", "create_fitted", "explain_each", "fit_to_sample"]

T = TypeVar("T")

FITTED_IMAGES = 5000
"""Maximum number of training images for methods that are fitted to data."""

FAST_OPTIONS: dict[str, dict[str, Any]] = {"integrated_gradients": {"tolerance": 0.05}, "smoothgrad": {"samples": 16}}
"""Options that save most of the time when many maps are computed: integrated gradients stops refining its path at a
completeness error of 5%, and SmoothGrad averages half as many noisy copies."""


def create_fitted(scene: Scene, name: str, **options: Any) -> Analyzer:
    """Create the method `name` for the scene's model, fitted to a sample of the training images if it needs fitting."""
    analyzer = create_analyzer(name, scene.model, **options)
    return analyzer if scene.train is None else fit_to_sample(analyzer, scene.train)


def fit_to_sample(analyzer: Analyzer, images: ImageSet) -> Analyzer:
    """Fit an analyzer, if it needs fitting, to at most `FITTED_IMAGES` images, spread evenly over the set."""
    if analyzer.method.needs_fit:
        count = min(len(images), FITTED_IMAGES)
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
