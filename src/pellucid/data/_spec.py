"""Parse and check the value of `--dataset` without importing anything heavy."""

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.importing import is_function_name
from pellucid.data import DATASETS

__all__ = ["AUTO", "FUNCTION", "check_spec", "is_function", "parse_spec"]

AUTO = "auto"
"""MNIST, or the bundled digits if it cannot be downloaded."""
FUNCTION = "module:function"
"""The name under which `parse_spec` reports user functions."""
WITHOUT_ARGUMENT = (AUTO, "digits", "mnist")


def parse_spec(spec: str) -> tuple[str, str]:
    """Return the data set's name and its argument; for a user function, `FUNCTION` and the whole spec.

    Raises `UnknownName` with close matches for an unknown name, and `ConfigError` for a missing or superfluous
    argument.

    >>> parse_spec("folder:photos/cats")
    ('folder', 'photos/cats')
    >>> parse_spec("mypackage.faces:load")
    ('module:function', 'mypackage.faces:load')
    """
    name, colon, argument = spec.partition(":")
    if name in WITHOUT_ARGUMENT and colon:
        raise ConfigError(f"the data set {name!r} takes no argument after a colon, got {spec!r}; use --dataset {name}.")
    if name == "folder" and not argument:
        raise ConfigError(f"--dataset {spec} names no folder; use --dataset folder:PATH.")
    if is_function(spec):
        return FUNCTION, spec
    if name == AUTO or name in DATASETS:
        return name, argument
    known = [AUTO, *("folder:PATH" if known == "folder" else known for known in DATASETS), FUNCTION]
    raise UnknownName("data set", name, known)


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
