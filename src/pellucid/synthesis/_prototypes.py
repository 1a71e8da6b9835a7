"""What a search found."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.showing import Shown
from pellucid.core.types import Images

__all__ = ["Prototypes"]


@dataclass(frozen=True, eq=False, repr=False)
class Prototypes(Shown):
    """Images that a network is most sure of, and how sure."""

    images: Images
    """(prototype, channel, height, width) in [0, 1]: by class, then by number where there are several of one."""
    classes: Int64[Tensor, " prototype"]
    """The class of each, or the channel of a layer; −1 for a function."""
    log_probability: Float[Tensor, " prototype"] | None
    """The log p(class | x) of each, in nats; None where no class was asked for."""
    logit: Float[Tensor, " prototype"]
    """The class's logit, or the unit's activation."""
    objective: Float[Tensor, " prototype"]
    """log p(class | x) + weight · log p(x), or the activation in place of the first; of the image as it is."""
    log_prior: Float[Tensor, " prototype"]
    """log p(x), in nats, up to the prior's constant."""
    history: Float[Tensor, "prototype step"]
    """The objective at each step of the kept search and its refinement; at first, of an image moved at random."""
    seed: int
    prior: str
    """The prior's name."""
