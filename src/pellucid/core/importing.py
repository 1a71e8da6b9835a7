"""Import user functions named `MODULE:FUNCTION`, on the command line or in a run folder that the user trusts."""

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pellucid.core.errors import ConfigError, UnknownName

__all__ = ["check_trusted", "import_optional", "is_function_name", "load_function"]


MISMATCH = (
    "The installed torch and torchvision versions are incompatible; reinstall both: "
    "pip install --force-reinstall torch torchvision"
)
"""Hint for the obscure RuntimeError that torchvision raises on import when it was built for another torch version."""


def is_function_name(text: str) -> bool:
    """Return True if `text` has the form `package.module:function`.

    >>> is_function_name("shop.data:shoes"), is_function_name("folder:/data")
    (True, False)
    """
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text) is not None


def check_trusted(what: str, name: str, place: str | Path, trust: bool) -> None:
    """Raise `ConfigError` for a function that a file names, unless the user trusts it: importing it runs its code.

    `what` is "model" or "data set", `place` the file or folder that names the function.

    >>> check_trusted("model", "cnn", "save", trust=False)
    >>> check_trusted("model", "shop.nets:small", "save", trust=False)
    Traceback (most recent call last):
    pellucid.core.errors.ConfigError: the model in save is the function shop.nets:small, ...
    """
    if not trust and is_function_name(name):
        raise ConfigError(
            f"the {what} in {place} is the function {name}, and importing it runs its code. If you trust the origin of "
            "this folder, pass --trust on the command line, or trust=True in Python."
        )


def load_function(flag: str, name: str) -> Callable[..., Any]:
    """Import the function `name` ("package.module:function") given to `flag`, also from the current folder.

    Raises `ConfigError` (with the reason) if the module cannot be imported, and `UnknownName` if it has no such
    function.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that local files cannot shadow installed modules
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a script without a main guard may call sys.exit
        hint = MISMATCH if "torchvision::" in str(error) else "Install it, or run from the folder that contains it."
        raise ConfigError(
            f"{flag} {name}: the module {module_name!r} cannot be imported: {type(error).__name__}: {error}. {hint}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"function in {module_name}", function_name, known)
    return function


def import_optional(library: str, purpose: str, extra: str = "integrations") -> ModuleType:
    """Import an optional library; raises `ConfigError`, which names the extra, if it cannot be imported.

    >>> import_optional("json", "--dataset hf:…").__name__
    'json'
    >>> import_optional("no_such_library", "--dataset hf:…")
    Traceback (most recent call last):
    pellucid.core.errors.ConfigError: --dataset hf:… needs the package no_such_library. Install it with: pip install ...
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library.partition(".")[0]:
            raise ConfigError(f"{purpose} needs {library}, which cannot be imported: {error}.") from error
        raise ConfigError(
            f"{purpose} needs the package {library}. Install it with: pip install 'pellucid[{extra}]'"
        ) from error
    except (ImportError, RuntimeError) as error:
        hint = MISMATCH if "torchvision::" in str(error) else "Reinstall it."
        raise ConfigError(f"{purpose} needs {library}, which cannot be imported: {error}. {hint}") from error
