"""The result of a prototype search."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.showing import Shown
from pellucid.core.types import Images

__all__ = ["Prototypes"]


@dataclass(frozen=True, eq=False, repr=False)
class Prototypes(Shown):
    """Prototype images with their scores."""

    images: Images
    """(prototype, channel, height, width) in [0, 1], ordered by class, then by number within a class."""
    classes: Int64[Tensor, " prototype"]
    """Class or channel of each prototype; −1 for a function."""
    log_probability: Float[Tensor, " prototype"] | None
    """log p(class | x) of each prototype, in nats; None for units."""
    logit: Float[Tensor, " prototype"]
    """The class's logit, or the unit's activation."""
    objective: Float[Tensor, " prototype"]
    """log p(class | x) + weight · log p(x), without random transformations; for units, with the activation first."""
    log_prior: Float[Tensor, " prototype"]
    """log p(x), in nats, up to the prior's constant."""
    history: Float[Tensor, "prototype step"]
    """Objective at each step of the best search and its refinement; the first steps use randomly transformed images."""
    seed: int
    prior: str
    """Name of the prior."""
