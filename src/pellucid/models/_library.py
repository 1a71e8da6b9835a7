"""Code shared by the models of torchvision, timm and transformers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pellucid.core.errors import ConfigError
from pellucid.core.preprocessing import Preprocessing
from pellucid.models._weights import head_shapes, load_weights, matching_classes

__all__ = ["LoadedModel", "Wanted", "build_filled", "new_head_notice"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with its preprocessing, class names and origin."""

    model: nn.Module = field(repr=False)
    """The model as its library or function returned it, in eval mode: it takes normalized images."""
    preprocessing: Preprocessing | None
    """Steps from a PIL image to the model's input; None if unknown."""
    classes: tuple[str, ...] | None
    """Class names by logit; None if unknown."""
    name: str
    """The value of `--model`, with an absolute path for a folder."""
    weights: str | None
    """Origin of the trained weights; None for random weights or those of a user's function."""
    notice: str = ""
    """Message for the user, such as that the last layer has new weights."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the architecture for `rebuild_model`; JSON-compatible."""


@dataclass(frozen=True)
class Wanted:
    """Request for a model: weights, image shape and classes."""

    weights: str | None = None
    image_shape: tuple[int, int, int] | None = None
    """Channels, height and width; None if unknown."""
    classes: int | None = None
    """Number of classes of the data; None if unknown."""
    new_head: bool = False
    """True to replace a last layer for another number of classes by a new one, for training."""


def build_filled(
    build: Callable[[int], nn.Module], tensors: Mapping[str, Tensor], source: str, wanted: Wanted
) -> tuple[nn.Module, str]:
    """Build a model for the number of classes in its weights, and load them; return it with a notice for the user.

    With `wanted.new_head`, the model has `wanted.classes` classes, and its last layer keeps its random weights if the
    numbers differ. Raises `ModelError` if anything else does not fit.
    """
    trained = matching_classes(build, tensors) or wanted.classes
    if trained is None:
        raise ConfigError(f"the number of classes cannot be determined from {source}; pass --class-names FILE.")
    if not wanted.new_head or wanted.classes in (None, trained):
        model = build(trained)
        load_weights(model, tensors, source)
        return model, ""
    assert wanted.classes is not None
    model, head = build(wanted.classes), head_shapes(build)
    load_weights(model, tensors, source, replaced=head)
    return model, new_head_notice(trained, wanted.classes, head)


def new_head_notice(trained: int, classes: int, names: Mapping[str, object]) -> str:
    """Return the message that a last layer was replaced."""
    return (
        f"The weights are for {trained} classes and the data has {classes}, so the last layer ({', '.join(names)}) "
        "starts with random weights."
    )
