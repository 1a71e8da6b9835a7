"""Parse and check the value of `--dataset` without importing anything heavy."""

import re

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.importing import is_function_name
from pellucid.data import DATASETS

__all__ = ["AUTO", "FUNCTION", "check_spec", "is_function", "parse_spec", "split_options"]

AUTO = "auto"
"""MNIST, or the bundled digits if it cannot be downloaded."""
FUNCTION = "module:function"
"""The name under which `parse_spec` reports user functions."""
WITHOUT_ARGUMENT = (AUTO, "digits", "mnist")
WITH_ARGUMENT = {
    "folder": "folder:PATH",
    "hf": "hf:NAME-OR-FOLDER",
    "numpy": "numpy:PATH",
    "parquet": "parquet:PATH",
    "torchvision": "torchvision:NAME",
    "webdataset": "webdataset:PATH",
    "zarr": "zarr:PATH",
}
"""Data sets that need an argument, in the form in which they are listed."""
SUFFIXES = {
    ".npy": "numpy",
    ".npz": "numpy",
    ".arrow": "parquet",
    ".feather": "parquet",
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".zarr": "zarr",
}
"""Data sets of files that are given by their paths alone."""


def parse_spec(spec: str) -> tuple[str, str]:
    """Return the data set's name and its argument; for a user function, `FUNCTION` and the whole spec.

    Raises `UnknownName` with close matches for an unknown name, and `ConfigError` for a missing or superfluous
    argument.

    >>> parse_spec("folder:photos/cats")
    ('folder', 'photos/cats')
    >>> parse_spec("photos.parquet")
    ('parquet', 'photos.parquet')
    >>> parse_spec("mypackage.faces:load")
    ('module:function', 'mypackage.faces:load')
    """
    name, colon, argument = spec.partition(":")
    if name in WITHOUT_ARGUMENT and colon:
        raise ConfigError(f"the data set {name!r} takes no argument after a colon, got {spec!r}; use --dataset {name}.")
    if name in WITH_ARGUMENT and not argument:
        kind = "folder" if name == "folder" else "data set"
        raise ConfigError(f"--dataset {spec} does not name a {kind}; use --dataset {WITH_ARGUMENT[name]}.")
    if name in WITH_ARGUMENT:
        if name != "folder":  # any character may be part of a folder's name
            split_options(argument)
        return name, argument
    # before functions: a path may look like one
    for suffix, source in SUFFIXES.items():
        if spec.partition("?")[0].lower().endswith(suffix):
            split_options(spec)
            return source, spec
    if is_function(spec):
        return FUNCTION, spec
    if name == AUTO or name in DATASETS:
        return name, argument
    known = [AUTO, *(WITH_ARGUMENT.get(known, known) for known in DATASETS), "FILE.parquet", "FILE.npz", FUNCTION]
    raise UnknownName("data set", name, known)


def split_options(argument: str) -> tuple[str, dict[str, str]]:
    """Split `PATH?label=COLUMN&split=NAME` into the path and its options.

    Raises `ConfigError` if an option has no name or no value.

    >>> split_options("photos.parquet?label=kind&split=validation")
    ('photos.parquet', {'label': 'kind', 'split': 'validation'})
    """
    path, mark, query = argument.partition("?")
    options = {}
    for option in query.split("&") if mark else ():
        name, _, value = option.partition("=")
        if not re.fullmatch(r"[a-z_]+", name) or not value:
            raise ConfigError(f"{option!r} in --dataset …{argument} is not an option; expected NAME=VALUE after the ?.")
        options[name] = value
    return path, options


def is_function(spec: str) -> bool:
    """Return True if a data set is a user function; `confound:digits` only looks like one.

    >>> is_function("mypackage.faces:load"), is_function("confound:digits")
    (True, False)
    """
    return is_function_name(spec) and spec.partition(":")[0] not in (AUTO, *DATASETS)


def check_spec(spec: str) -> None:
    """Raise the errors of `parse_spec`; return nothing for a spec that `load_data` can try.

    >>> check_spec("auto")
    >>> check_spec("minst")
    Traceback (most recent call last):
    pellucid.core.errors.UnknownName: there is no data set 'minst'; did you mean 'mnist'? Available: ...
    """
    parse_spec(spec)
