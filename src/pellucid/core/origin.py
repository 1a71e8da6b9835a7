"""Where a model that pellucid built or opened comes from: kept beside the model, which itself stays as it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Origin", "origin_of", "remember_origin"]


@dataclass(frozen=True)
class Origin:
    """What is known of a model beyond its weights."""

    image_shape: tuple[int, int, int]
    """Channels, height and width of the images it was made for."""
    save: Path | None = None
    """The save folder of its run."""


_ORIGINS: "WeakKeyDictionary[Any, Origin]" = WeakKeyDictionary()


def remember_origin(model: "nn.Module", origin: Origin) -> None:
    """Remember where `model` comes from, as long as it lives."""
    _ORIGINS[model] = origin


def origin_of(model: "nn.Module") -> Origin | None:
    """Where `model` comes from; None where pellucid neither built nor opened it (a copy is another model)."""
    return _ORIGINS.get(model)
