"""`pellucid build-native`: compile the native kernel in advance, for example into the image of a container."""

from pellucid.core.errors import ConfigError
from pellucid.core.terminal import console, print_line

__all__ = ["build_native"]

HELP = """usage: pellucid build-native [-h] [--force]

Compile the native kernel for Jacobians, unless it is in the user's cache, and print its path.

  --force   Compile even if the cache has it, for example after an update of the compiler."""


def build_native(arguments: list[str]) -> int:
    """Compile the native kernel for Jacobians into the user's cache"""
    if arguments in (["--help"], ["-h"]):
        console().print(HELP, markup=False)
        return 0
    if arguments not in ([], ["--force"]):
        raise ConfigError(f"`pellucid build-native` takes only --force, got {' '.join(arguments)}.")
    from pellucid.jacobians import build_native as build  # loads torch

    print_line(str(build(force=bool(arguments))))
    return 0
