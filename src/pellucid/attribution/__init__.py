"""The registry of attribution methods, one file per method or family, and `create_analyzer`, the entry point.

>>> "lrp.epsilon" in METHODS
True
"""

from typing import TYPE_CHECKING

from pellucid.attribution._aliases import ALIASES
from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.attribution._analyzer import Analyzer, create_analyzer
    from pellucid.attribution._explanation import AmplificationWarning, CompletenessWarning, Explanation, Outcome
    from pellucid.attribution._method import Attribution, FittedState, Method, methods
    from pellucid.attribution._subject import Subject
    from pellucid.attribution._target import Contrast, Target

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
    "Outcome",
    "Subject",
    "Target",
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


__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AmplificationWarning": "._explanation",
        "Analyzer": "._analyzer",
        "Attribution": "._method",
        "CompletenessWarning": "._explanation",
        "Contrast": "._target",
        "Explanation": "._explanation",
        "FittedState": "._method",
        "Method": "._method",
        "Outcome": "._explanation",
        "Subject": "._subject",
        "Target": "._target",
        "create_analyzer": "._analyzer",
        "methods": "._method",
    },
)
