"""Methods made ready for the network of a scene."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pellucid.attribution import Analyzer, create_analyzer
from pellucid.core.contracts import ImageSet
from pellucid.hooks._hook import Scene

__all__ = ["THRIFTY", "ready"]

THRIFTY: dict[str, dict[str, Any]] = {"integrated_gradients": {"tolerance": 0.05}, "smoothgrad": {"samples": 16}}
"""Options that spare most of the time where many maps are made: a path refined until the map sums to what it should
within 5 %, and half of the noisy copies."""


def ready(scene: Scene, name: str, **options: Any) -> Analyzer:
    """The method `name` on the scene's model; one that learns from data is shown a sample of the training images."""
    analyzer = create_analyzer(name, scene.model, **options)
    if analyzer.method.needs_fit and scene.train is not None:
        analyzer.fit(_Batches(scene.train, scene.training_batches()))
    return analyzer


@dataclass(frozen=True, eq=False)
class _Batches:
    """Batches of images, made floats as they are asked for."""

    images: ImageSet
    indices: list[torch.Tensor]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.images.floats(part) for part in self.indices)
