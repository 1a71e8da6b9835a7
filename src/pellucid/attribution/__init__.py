"""The list of explanation methods, one file per method or family, and `create_analyzer`, which makes one work.

>>> "lrp.epsilon" in METHODS
True
"""

from typing import TYPE_CHECKING, Any

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.attribution._analyzer import Analyzer, create_analyzer
    from pellucid.attribution._explanation import Explanation
    from pellucid.attribution._method import Attribution, Method, methods

__all__ = ["METHODS", "Analyzer", "Attribution", "Explanation", "Method", "create_analyzer", "methods"]

METHODS: Registry[type["Attribution"]] = Registry("method", "pellucid.attribution")
"""Every method by its name, listed without importing any of them."""

_HOMES = {
    "Analyzer": "_analyzer",
    "create_analyzer": "_analyzer",
    "Explanation": "_explanation",
    "Attribution": "_method",
    "Method": "_method",
    "methods": "_method",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"pellucid.attribution.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pellucid.attribution' has no attribute {name!r}")
