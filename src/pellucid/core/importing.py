"""`MODULE:FUNCTION`: how a user's own functions are named on the command line."""

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pellucid.core.errors import ConfigError, UnknownName

__all__ = ["is_function_name", "load_function"]


MISMATCH = (
    "The installed torch and torchvision do not belong together; install both anew: "
    "pip install --force-reinstall torch torchvision"
)
"""The cure where torchvision, built for another torch, fails on import with an obscure RuntimeError."""


def is_function_name(text: str) -> bool:
    """Whether `text` has the form `package.module:function`.

    >>> is_function_name("shop.data:shoes"), is_function_name("folder:/data")
    (True, False)
    """
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text) is not None


def load_function(flag: str, name: str) -> Callable[..., Any]:
    """The function that `name`, given to `flag`, stands for; its module is imported, from the current folder too.

    Raises `ConfigError` where the module cannot be imported (with the reason), and `UnknownName` where it has no such
    function.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # at the end: a file there must not hide a module that others import
    try:
        module = import_module(module_name)
    except Exception as error:
        cure = MISMATCH if "torchvision::" in str(error) else "It must be installed or lie in the current folder."
        raise ConfigError(
            f"{flag} {name}: the module {module_name!r} cannot be imported: {type(error).__name__}: {error}. {cure}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"function in {module_name}", function_name, known)
    return function
