"""What may stand behind `--dataset`, checked without importing anything heavy."""

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.importing import is_function_name
from pellucid.data import DATASETS

__all__ = ["AUTO", "FUNCTION", "check_spec", "parse_spec"]

AUTO = "auto"
"""MNIST, or the digits where it cannot be had."""
FUNCTION = "module:function"
"""The name under which `parse_spec` reports a function of the user's own."""
WITHOUT_ARGUMENT = (AUTO, "digits", "mnist")


def parse_spec(spec: str) -> tuple[str, str]:
    """The data set's name and its argument; for a function of the user's own, `FUNCTION` and the whole spec.

    Raises `UnknownName` with the near matches for a name that does not exist, and `ConfigError` for an argument that
    is missing or too much.

    >>> parse_spec("folder:photos/cats")
    ('folder', 'photos/cats')
    >>> parse_spec("mypackage.faces:load")
    ('module:function', 'mypackage.faces:load')
    """
    name, colon, argument = spec.partition(":")
    if name in WITHOUT_ARGUMENT and colon:
        raise ConfigError(f"the data set {name!r} takes nothing behind a colon, got {spec!r}; use --dataset {name}.")
    if name == "folder" and not argument:
        raise ConfigError(f"--dataset {spec} names no folder; use --dataset folder:PATH.")
    if name == AUTO or name in DATASETS:
        return name, argument
    if is_function_name(spec):
        return FUNCTION, spec
    known = [AUTO, *("folder:PATH" if known == "folder" else known for known in DATASETS), FUNCTION]
    raise UnknownName("data set", name, known)


def check_spec(spec: str) -> None:
    """Nothing, for a spec that `load_data` can try; the errors of `parse_spec` otherwise.

    >>> check_spec("auto")
    >>> check_spec("minst")
    Traceback (most recent call last):
    pellucid.core.errors.UnknownName: there is no data set 'minst'; did you mean 'mnist'? The names are: ...
    """
    parse_spec(spec)
