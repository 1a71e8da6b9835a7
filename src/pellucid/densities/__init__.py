"""Density models p(x) of a data set's images, one module per kind.

A density is fitted to the images of a data set; it then returns log p(x) of any image, differentiably.

- `_density`: `Density`, the base class, and `held_out`, the log-likelihood of held-out images
- `_components`: principal components, from which the fits start
- every other file: the density of that name

>>> DENSITIES.names()
['gaussian_mixture', 'vae']
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.densities._density import Density, HeldOut, Minimise, held_out

__all__ = ["DENSITIES", "Density", "HeldOut", "Minimise", "held_out"]

DENSITIES: "Registry[type[Density]]" = Registry("density", __name__)
"""All densities by name; listing imports none of them."""

__getattr__, __dir__ = lazy_exports(
    __name__, dict.fromkeys(("Density", "HeldOut", "Minimise", "held_out"), "._density")
)
