"""Fitting: the batches that a method learns from, and the state that it saves."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.finite import check_inputs

__all__ = ["FittedState", "images_in"]


@dataclass(frozen=True, eq=False)
class FittedState:
    """The saved state of a fitted method."""

    kind: str
    """Family of methods that can load this state."""
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str]

    def check_kind(self, kind: str) -> None:
        """Raise `ConfigError` if another kind of method saved this state."""
        if self.kind != kind:
            raise ConfigError(f"the fitted state is of kind {self.kind!r}; expected {kind!r}.")


def images_in(loader: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the images of each batch of a loader, whose batches are images or tuples that start with images.

    Raises `ShapeError` for any other batch and `DataError` for an image with NaN or infinities.
    """
    seen = 0
    for batch in loader:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
            received = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise ShapeError(f"the loader yields {received}; expected float images in [0, 1] of shape (batch, …).")
        if len(images):
            check_inputs(images, "the loader's image", seen)
            seen += len(images)
            yield images.detach()
