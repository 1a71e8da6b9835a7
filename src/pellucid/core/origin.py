"""Provenance of the models that pellucid built or opened, stored outside the models so that they stay unmodified."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Origin", "origin_of", "remember_origin"]


@dataclass(frozen=True)
class Origin:
    """Facts about a model beyond its weights."""

    image_shape: tuple[int, int, int]
    """Channels, height and width of the images the model was built for."""
    save: Path | None = None
    """Save folder of the run the model was loaded from."""


# weak keys: an entry disappears with its model
_ORIGINS: "WeakKeyDictionary[Any, Origin]" = WeakKeyDictionary()


def remember_origin(model: "nn.Module", origin: Origin) -> None:
    """Record the origin of `model` for as long as it is alive."""
    _ORIGINS[model] = origin


def origin_of(model: "nn.Module") -> Origin | None:
    """Return the origin of `model`; None if pellucid neither built nor opened it (copies have no origin)."""
    return _ORIGINS.get(model)
