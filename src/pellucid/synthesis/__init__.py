"""Activation maximization: synthesize prototype images of a network's classes and units.

A prior scores how plausible an image is; `synthesise` searches for the plausible images with the strongest response.

- `_prior`: `Prior`, the base class of priors: a frozen dataclass of hyperparameters
- every other file without an underscore: the prior of that name
- `_search`: `synthesise`, the search; `_goal`: the response to maximize; `_prototypes`: `Prototypes`, the result,
  and `_tiles`, its images as HTML
- `_objective`: the objective of given images, to compare them with prototypes
- `_fourier`, `_regularisers`: parametrization and penalties of the images

>>> PRIORS.names()
['code', 'expert', 'l2']
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.synthesis._objective import objective
    from pellucid.synthesis._prior import Parameters, Prior
    from pellucid.synthesis._prototypes import Prototypes
    from pellucid.synthesis._search import synthesise

__all__ = ["PRIORS", "Parameters", "Prior", "Prototypes", "objective", "synthesise"]

PRIORS: "Registry[type[Prior]]" = Registry("prior", __name__)
"""All priors by name; listing imports none of them."""

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Parameters": "._prior",
        "Prior": "._prior",
        "Prototypes": "._prototypes",
        "objective": "._objective",
        "synthesise": "._search",
    },
)
