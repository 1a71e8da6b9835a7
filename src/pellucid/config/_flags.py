"""Types of flags: how a value is described in `--help`, parsed and checked."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pellucid.core.errors import ConfigError
from pellucid.core.ranges import Range

__all__ = [
    "Choice",
    "Count",
    "Dataset",
    "Mirrors",
    "Rate",
    "Seed",
    "Threads",
    "Trust",
    "address_flag",
    "check_device",
    "check_ranges",
    "expand_paths",
    "flag",
    "path_flag",
]


def flag(metavar: str, default: str | None = None) -> object:
    """Describe a flag in `--help`: the values it takes and, for a default that depends on context, a phrase for it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=None if default is None else f"(default: {default})")


def path_flag(metavar: str) -> PrimitiveConstructorSpec[Path | None]:
    """Parse a path that is not empty: an empty one would be the current folder."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=_parse_path,
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def address_flag(metavar: str) -> PrimitiveConstructorSpec[str]:
    """Parse a path that is not empty, or an address such as s3://bucket/maps.zarr, which a `Path` would change."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=_parse_address,
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


def _parse_path(words: list[str]) -> Path:
    return Path(_parse_address(words))


def _parse_address(words: list[str]) -> str:
    if not words[0].strip():
        raise ValueError("the path is empty; use . for the current folder")
    return words[0]


Dataset = Annotated[str, flag("auto|mnist|digits|folder:PATH|FILE|torchvision:NAME|hf:NAME|MODULE:FUNCTION")]


Count = Annotated[int, Range(1), flag("INT≥1")]


Threads = Annotated[int, Range(1, 1024), flag("1…1024")]


Seed = Annotated[int, Range(0, 2**63 - 1), flag("INT≥0")]


Mirrors = Annotated[tuple[str, ...], flag("ADDRESS|FOLDER"), tyro.conf.UseAppendAction]


Trust = Annotated[bool, tyro.conf.FlagCreatePairsOff]


Rate = Annotated[float, Range(0, 10, above=True), flag("0<FLOAT≤10")]


def _choice_of(words: list[str]) -> bool:
    """Parse an optional `yes` or `no`; a flag without a value means `yes`."""
    answers = {"yes": True, "true": True, "no": False, "false": False}
    if len(words) > 1 or (words and words[0].lower() not in answers):
        raise ValueError(f"got {' '.join(words)!r}; expected yes or no, or no value, which means yes")
    return answers[words[0].lower()] if words else True


Choice: PrimitiveConstructorSpec[bool | None] = PrimitiveConstructorSpec(
    nargs="*",
    metavar="[yes|no]",
    instance_from_str=_choice_of,
    is_instance=lambda value: value is None or isinstance(value, bool),
    str_from_instance=lambda value: [str(value)],
)
"""Parses a flag with three states: given, given as `no`, or left to a default."""


def check_device(device: str) -> None:
    """Raise `ConfigError` for a misspelled device; missing devices are found later."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ConfigError(f"invalid --device {device!r}: expected auto, cpu, cuda, cuda:N (such as cuda:0) or mps.")


def expand_paths(group: Any) -> None:
    """Replace `~` in every path."""
    for option in fields(group):
        if isinstance(value := getattr(group, option.name), Path):
            object.__setattr__(group, option.name, value.expanduser())  # plain assignment fails in a frozen dataclass


def check_ranges(group: Any) -> None:
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        value = getattr(group, name)
        for allowed in getattr(hint, "__metadata__", ()):
            if isinstance(allowed, Range) and value is not None and value not in allowed:
                raise ConfigError(f"--{name.replace('_', '-')} must be {allowed}, got {value}.")
