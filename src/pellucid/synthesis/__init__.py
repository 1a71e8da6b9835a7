"""Activation maximization: synthesize prototype images of a network's classes and units.

A prior is a frozen dataclass of hyperparameters that scores how plausible an image is; `synthesise` searches for the
plausible images with the strongest response.

>>> PRIORS.names()
['code', 'expert', 'l2']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.synthesis._objective import objective
    from pellucid.synthesis._prior import Prior
    from pellucid.synthesis._prototypes import Prototypes
    from pellucid.synthesis._search import synthesise

__all__ = ["PRIORS", "Prior", "Prototypes", "objective", "synthesise"]

PRIORS: "Registry[type[Prior]]" = Registry("prior", __name__)
"""All priors by name; listing imports none of them."""

_HOMES = {"Prior": "_prior", "Prototypes": "_prototypes", "objective": "_objective", "synthesise": "_search"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"pellucid.synthesis.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pellucid.synthesis' has no attribute {name!r}")
