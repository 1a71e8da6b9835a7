"""Fitting: the batches that a method learns from, and the state that it saves."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.finite import check_inputs
from pellucid.engine.inputs import Several, as_inputs, check_is_loader

__all__ = ["Batches", "FittedState", "images_in"]


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


class Batches:
    """Batches of a loader, with their inputs converted: token ids to embeddings, several inputs to rows.

    A batch consists of inputs (a tensor, or a dict of several inputs) or is a tuple that starts with them; several
    inputs in a tuple are nested in that tuple.
    """

    def __init__(self, loader: Any, model: nn.Module) -> None:
        check_is_loader(loader, "the loader passed to fit")
        self._model = model
        first = next(source := iter(loader), None)
        # Looking at the first batch consumes it if the loader is its own iterator: put it back.
        self._loader = chain([first], source) if source is loader and first is not None else loader
        self.convert: Callable[[Any], Tensor] | None = None
        """Function that makes a tensor of the inputs of each batch; None: they are tensors."""
        self.first = None if first is None else self._inputs(first)
        """Inputs of the first batch."""

    def _inputs(self, batch: Any) -> Tensor | Several:
        own = batch[0] if isinstance(batch, tuple | list) and batch else batch
        return as_inputs(own, self._model, "the loader's images")

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            inputs: Any = self._inputs(batch)
            if self.convert is not None:
                inputs = self.convert(inputs)
            elif isinstance(inputs, Several):
                raise ShapeError("the loader yields several inputs after a single one; each batch needs the same ones.")
            yield (inputs, *batch[1:]) if isinstance(batch, tuple | list) else inputs
