"""References: typical inputs that a method compares with, given as a tensor or taken from data by `fit`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution._fitting import FittedState, images_in
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.options import Count
from pellucid.engine.arrays import shown

__all__ = ["References", "WithReferences", "checked_references"]

References = Tensor | tuple[Any, ...] | Mapping[str, Any] | None
"""Reference inputs, (reference, …); for several inputs, in their structure; None before fitting."""


def checked_references(name: str, references: References, images: Tensor) -> Tensor:
    """Return references, (reference, …), for images (batch, …), in their dtype and on their device.

    Raises `ShapeError` unless they have the shape of the images.
    """
    if not isinstance(references, Tensor) or not references.ndim:
        raise ShapeError(
            f"references is {shown(references)}, but the model has a single input; pass a tensor (reference, …)."
        )
    if references.shape[1:] != images.shape[1:] or not len(references):
        raise ShapeError(
            f"{name} has {len(references)} references of {tuple(references.shape[1:])}, and the images "
            f"are {tuple(images.shape[1:])}; fit it on images (or token ids) of that size."
        )
    return references.to(images)


@dataclass(frozen=True)
class WithReferences(Attribution):
    """A method that compares each input with reference inputs."""

    needs_fit: ClassVar[bool] = True
    key: ClassVar[str]
    """Registered name of the method."""

    references: References = None
    """Reference images, (reference, …); None: `fit` takes them from data. For several inputs, in their structure."""
    keep: Count = 256
    """Number of reference images that `fit` keeps; it keeps the first ones."""

    @property
    def is_ready(self) -> bool:
        return self.references is not None

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> Attribution:
        kept: list[Tensor] = []
        for images in images_in(loader):
            if kept and images.shape[1:] != kept[0].shape[1:]:
                raise ShapeError(
                    f"the loader yields images of {tuple(images.shape[1:])} after {tuple(kept[0].shape[1:])}; "
                    f"{self.key} needs references of one size: pass images (or token ids) of one size."
                )
            kept.append(images)
            if sum(map(len, kept)) >= self.keep:
                break
        if not kept:
            raise ConfigError(f"the loader passed to fit is empty; {self.key} needs at least one batch.")
        return replace(self, references=torch.cat(kept)[: self.keep])

    def state(self) -> FittedState:
        if not isinstance(self.references, Tensor):
            raise ConfigError(
                "references of several inputs cannot be saved before the first call; use fit(loader) to set them."
            )
        return FittedState(self.key, {"references": self.references}, {})

    def restored(self, subject: Subject, state: FittedState) -> Attribution:
        state.check_kind(self.key)
        return replace(self, references=state.tensors["references"])
