"""pellucid: what has my network learned?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.core import errors
    from pellucid.jacobian import jacobian
    from pellucid.runs import Run, load_run

__all__ = ["Run", "errors", "jacobian", "load_run"]

_HOMES = {
    "Run": "pellucid.runs",
    "errors": "pellucid.core",
    "jacobian": "pellucid.jacobian",
    "load_run": "pellucid.runs",
}
"""Where each public name lives; it is imported when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    if name == "errors":
        return import_module("pellucid.core.errors")
    if name == "jacobian":
        return import_module("pellucid.jacobian")  # the package, which is callable
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
