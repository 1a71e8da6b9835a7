"""Operations and rules of installed packages, loaded with the engine."""

from collections.abc import Callable
from typing import Any

from pellucid.core.errors import ConfigError
from pellucid.core.installed import find_installed, report_once
from pellucid.core.registry import Registry
from pellucid.engine.table import OPERATIONS

__all__ = ["RULES", "load_installed"]

GROUP = "pellucid.rules"

RULES: Registry[Callable[..., Any]] = Registry("rule", "pellucid.engine.rules")
"""Rules that can be given by name, as in `rules={"dense": "halved"}`: those of installed packages."""


def load_installed() -> None:
    """Import every entry of the group `pellucid.rules`: modules that register operations, and rules.

    Operations that pellucid knows keep their handlers. Broken entries are reported and skipped.
    """
    for name, installed in find_installed(GROUP, "rule", ()).items():
        before = OPERATIONS.entries()
        try:
            entry = installed.load("rule")
        except ConfigError as error:
            report_once(str(error))
            entry = None
        if callable(entry) and name not in RULES:
            RULES.register(name)(entry)
        replaced = OPERATIONS.restore(before)
        if replaced:
            report_once(
                f"the rule {name!r} of the installed package {installed.package} cannot replace the handlers of "
                f"{', '.join(replaced)}, which are built into pellucid."
            )
