"""Images made for a network: prototypes of its classes and units, by activation maximisation.

A prior is a frozen dataclass of knobs that tells which images are plausible; `synthesise` looks for the image that a
network is most sure of among them.

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
"""Every prior by its name, listed without importing any of them."""

_HOMES = {"Prior": "_prior", "Prototypes": "_prototypes", "objective": "_objective", "synthesise": "_search"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"pellucid.synthesis.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pellucid.synthesis' has no attribute {name!r}")
