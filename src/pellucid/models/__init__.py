"""Networks from images to logits: one module each, discovered by the registry.

- `_build`: builds the network that `--model` names, with seeded weights, and checks that it fits the data
- `_adapted`: wraps a user's model, so that it takes images in [0, 1] and returns a tensor of logits
- every other file: the network of that name, a function of `channels`, `classes` and `image_size`

>>> MODELS.names()
['basic', 'cnn', 'mlp', 'small_cnn']
"""

from typing import TYPE_CHECKING

from pellucid.core.errors import UnknownName
from pellucid.core.importing import is_function_name
from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pellucid.models._build import build_model, check_fit, count_parameters

__all__ = ["MODELS", "build_model", "check_fit", "check_spec", "count_parameters"]

MODELS: "Registry[Callable[..., nn.Module]]" = Registry("model", __name__)
"""All models that `--model` knows by name: functions of `channels`, `classes` and `image_size`."""


def check_spec(spec: str) -> str:
    """Return `spec` if it is a model's name or has the form MODULE:FUNCTION; otherwise raise `UnknownName`."""
    if is_function_name(spec) or spec in MODELS:
        return spec
    raise UnknownName("model", spec, [*MODELS, "MODULE:FUNCTION"])


__getattr__, __dir__ = lazy_exports(
    __name__, dict.fromkeys(("build_model", "check_fit", "count_parameters"), "._build")
)
