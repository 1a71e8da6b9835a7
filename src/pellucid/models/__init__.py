"""Networks from images to logits: one module each, discovered by the registry.

- `_spec`: parses the value of `--model` without importing torch
- `_load`: loads the model that it names, with weights, preprocessing and class names
- `_build`: builds a registered model or calls a user's function, with seeded weights, and checks the fit to the data
- `_torchvision`, `_timm`, `_transformers`: the models of these libraries
- `_library`: code shared by these
- `_weights`: reads weights from files and loads them, listing all mismatches
- `_presets`: converts the preprocessing descriptions of these libraries
- `_preprocessing`: chooses the preprocessing and class names of a model
- `_class_names`: reads class names from a file
- `_adapted`: wraps a user's model, so that it takes images in [0, 1] and returns a tensor of logits
- every other file: the network of that name, a function of `channels`, `classes` and `image_size`

>>> MODELS.names()
['basic', 'cnn', 'mlp', 'small_cnn']
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pellucid.models._build import build_model, check_fit, count_parameters
    from pellucid.models._load import load_model
    from pellucid.models._spec import check_spec

__all__ = ["MODELS", "build_model", "check_fit", "check_spec", "count_parameters", "load_model"]

MODELS: "Registry[Callable[..., nn.Module]]" = Registry("model", __name__, "pellucid.models")
"""All models that `--model` knows by name: functions of `channels`, `classes` and `image_size`."""


__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        **dict.fromkeys(("build_model", "check_fit", "count_parameters"), "._build"),
        "check_spec": "._spec",
        "load_model": "._load",
    },
)
