"""Parse the arguments of a command."""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from itertools import zip_longest
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

from pellucid.core.errors import ConfigError
from pellucid.core.ranges import Range

__all__ = ["parse_arguments"]

T = TypeVar("T")


def parse_arguments(config: type[T], command: str, arguments: Sequence[str]) -> T:
    """Parse the arguments of `pellucid COMMAND`; raises `SystemExit` for `--help` and for unknown flags.

    Raises `ConfigError` for a word in place of a number, which tyro explains at length.
    """
    numbers = dict(_numbers(config))
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        if flag.startswith("--") and name in numbers:
            _check_number(name, *numbers[name], value if equals else following)
    return tyro.cli(config, prog=f"pellucid {command}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))


def _numbers(config: type) -> Iterator[tuple[str, tuple[type, Range | None]]]:
    """Yield the flags that take a number: name, type and range."""
    for name, hint in get_type_hints(config, include_extras=True).items():
        if is_dataclass(hint):
            yield from _numbers(hint)  # type: ignore[arg-type]
            continue
        allowed = next((entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Range)), None)
        bare = getattr(hint, "__origin__", hint)
        for kind in (int, float):
            if bare is kind or kind in get_args(bare):
                yield name, (kind, allowed)


def _check_number(name: str, kind: type[Any], allowed: Range | None, text: str) -> None:
    try:
        kind(text)
    except ValueError:
        if not text or text.startswith("--") or text == "None":  # tyro reports a missing value; None is the default
            return
        what = "a whole number" if kind is int else "a number"
        limits = f", {allowed}" if allowed is not None else ""
        raise ConfigError(f"--{name.replace('_', '-')} must be {what}{limits}, got {text!r}.") from None
