"""The registry of attribution methods, one file per method or family, and `create_analyzer`, the entry point.

>>> "lrp.epsilon" in METHODS
True
"""

from typing import TYPE_CHECKING, Any

from pellucid.attribution._aliases import ALIASES
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.attribution._analyzer import Analyzer, create_analyzer
    from pellucid.attribution._explanation import AmplificationWarning, CompletenessWarning, Explanation
    from pellucid.attribution._method import Attribution, FittedState, Method, methods
    from pellucid.attribution._target import Contrast

__all__ = [
    "METHODS",
    "AmplificationWarning",
    "Analyzer",
    "Attribution",
    "CompletenessWarning",
    "Contrast",
    "Explanation",
    "FittedState",
    "Method",
    "check_method",
    "create_analyzer",
    "methods",
]

METHODS: Registry[type["Attribution"]] = Registry("method", "pellucid.attribution")
"""Attribution methods by name; listing the names imports none of them."""


def check_method(name: str) -> str:
    """Return `name` if it is a method or an alias; raise `UnknownName` with close matches otherwise.

    >>> check_method("lrp.epsilon"), check_method("Saliency")
    ('lrp.epsilon', 'Saliency')
    """
    return name if name in ALIASES else METHODS.check(name)


# Exports load on first access: importing this package must not import torch.
_HOMES = {
    "Analyzer": "_analyzer",
    "create_analyzer": "_analyzer",
    "AmplificationWarning": "_explanation",
    "CompletenessWarning": "_explanation",
    "Explanation": "_explanation",
    "Attribution": "_method",
    "FittedState": "_method",
    "Method": "_method",
    "methods": "_method",
    "Contrast": "_target",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"pellucid.attribution.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pellucid.attribution' has no attribute {name!r}")
