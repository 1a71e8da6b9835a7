"""Entries that installed packages add to the registries, by entry points in their metadata."""

import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
from types import MappingProxyType
from typing import Any

from pellucid.core.errors import ConfigError

__all__ = ["Installed", "find_installed", "report_once"]

PREFIX = "pellucid."
"""Prefix of the entry point groups, such as `pellucid.hooks`."""
NAME = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*"
"""Names that can be given on the command line and are safe in file names."""

_reported: set[str] = set()


@dataclass(frozen=True)
class Installed:
    """An entry of an installed package, imported on first use."""

    name: str
    package: str
    """Name and version of the package."""
    point: EntryPoint

    def load(self, kind: str) -> Any:
        """Import the entry; raises `ConfigError` with the package and the reason if that fails."""
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:
            raise self.failure(kind, f"{type(error).__name__}: {error}") from error

    def failure(self, kind: str, reason: str) -> ConfigError:
        """Return the error for an entry that cannot be used; `kind` is that of its registry, such as "hook"."""
        return ConfigError(
            f"the {kind} {self.name!r} of the installed package {self.package} cannot be loaded ({self.point.value}: "
            f"{reason.rstrip('.')}); repair or uninstall the package."
        )


def find_installed(group: str, kind: str, own: Collection[str]) -> Mapping[str, Installed]:
    """Return the entries of a group by name, without importing any.

    Names in `own` are taken by pellucid, and of two packages with the same name the first in alphabetical order is
    used; both are reported once on standard error.
    """
    found: dict[str, Installed] = {}
    for each in _all_installed(tuple(sys.path)).get(group, ()):
        if re.fullmatch(NAME, each.name) is None:
            report_once(
                f"the {kind} {each.name!r} of the installed package {each.package} is skipped: its name is invalid."
            )
        elif each.name in own:
            report_once(
                f"the {kind} {each.name!r} of the installed package {each.package} is skipped: "
                f"pellucid has a {kind} of that name."
            )
        elif each.name in found:
            report_once(
                f"the {kind} {each.name!r} of the installed package {each.package} is skipped: "
                f"{found[each.name].package} has one of that name."
            )
        else:
            found[each.name] = each
    return MappingProxyType(found)


@cache
def _all_installed(_path: tuple[str, ...]) -> Mapping[str, tuple[Installed, ...]]:
    """Return the entries of all packages by group; read once for each value of `sys.path`."""
    groups: dict[str, list[Installed]] = {}
    known: set[str] = set()
    for package in distributions():
        # a fast text search first: almost no package has entries for pellucid
        if PREFIX not in (package.read_text("entry_points.txt") or "") or package.name in known:
            continue
        known.add(package.name)  # an older copy further down the path is hidden by this one
        for point in package.entry_points:
            if point.group.startswith(PREFIX):
                entry = Installed(point.name, f"{package.name} {package.version}", point)
                groups.setdefault(point.group, []).append(entry)
    return {group: tuple(sorted(each, key=lambda one: (one.package, one.name))) for group, each in groups.items()}


def report_once(message: str) -> None:
    """Print a message to standard error, once per process."""
    from pellucid.core.terminal import print_error  # loads rich

    if message not in _reported:
        _reported.add(message)
        print_error(message)
