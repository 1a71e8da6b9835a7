"""Parse and check the value of `--model` without importing anything heavy."""

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.importing import is_function_name
from pellucid.models import MODELS

__all__ = ["FUNCTION", "LIBRARIES", "REGISTERED", "check_spec", "is_function", "parse_spec"]

REGISTERED = "registered"
"""The kind of a registered model."""
FUNCTION = "module:function"
"""The kind of a user's function or class."""
LIBRARIES = {
    "torchvision": "torchvision:NAME",
    "timm": "timm:NAME",
    "hf": "hf:FOLDER-OR-REPOSITORY",
    "run": "run:FOLDER",
}
"""Sources of models, with the form of their `--model` value."""


def parse_spec(spec: str) -> tuple[str, str]:
    """Return the kind of a model (`REGISTERED`, `FUNCTION` or a key of `LIBRARIES`) and its argument.

    Raises `UnknownName` with close matches for an unknown name, and `ConfigError` for a missing argument.

    >>> parse_spec("torchvision:resnet18"), parse_spec("small_cnn")
    (('torchvision', 'resnet18'), ('registered', 'small_cnn'))
    >>> parse_spec("shop.nets:Small")
    ('module:function', 'shop.nets:Small')
    """
    kind, colon, argument = spec.partition(":")
    if kind in LIBRARIES and colon:
        if not argument.strip():
            raise ConfigError(f"--model {spec} does not name a model; use --model {LIBRARIES[kind]}.")
        return kind, argument
    if is_function_name(spec):
        return FUNCTION, spec
    if spec in MODELS:
        return REGISTERED, spec
    raise UnknownName("model", spec, [*MODELS, "MODULE:FUNCTION", *LIBRARIES.values()])


def is_function(spec: str) -> bool:
    """Return True if a model is a user's function or class; `torchvision:resnet18` only looks like one.

    >>> is_function("shop.nets:Small"), is_function("torchvision:resnet18")
    (True, False)
    """
    return is_function_name(spec) and spec.partition(":")[0] not in LIBRARIES


def check_spec(spec: str) -> str:
    """Return `spec` if it has the form of a model; otherwise raise the errors of `parse_spec`.

    The names of torchvision, timm and transformers are checked when the model is built.
    """
    parse_spec(spec)
    return spec
