"""Density models p(x) of a data set's images, one module per kind.

A density is fitted to the images of a data set; it then returns log p(x) of any image, differentiably.

>>> DENSITIES.names()
['gaussian_mixture', 'vae']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.densities._density import Density, HeldOut, held_out

__all__ = ["DENSITIES", "Density", "HeldOut", "held_out"]

DENSITIES: "Registry[type[Density]]" = Registry("density", __name__)
"""All densities by name; listing imports none of them."""


def __getattr__(name: str) -> Any:
    if name in ("Density", "HeldOut", "held_out"):
        return getattr(import_module("pellucid.densities._density"), name)
    raise AttributeError(f"module 'pellucid.densities' has no attribute {name!r}")
