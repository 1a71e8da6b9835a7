"""The result of a prototype search."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.cards import card, facts_html, text_html
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

    def _repr_html_(self) -> str:
        """Return the images with their class and probability, as HTML for notebooks of at most 300 kB."""
        # imported here, because computing prototypes does not need it
        from pellucid.synthesis._tiles import tiles_html

        count = len(self.images)
        captions = [self._caption(number) for number in range(count)]
        facts = [("prior", self.prior), ("seed", self.seed), ("shape", "×".join(map(str, self.images.shape[1:])))]
        tiles, note = tiles_html(self.images, captions)
        return card(f"{count} prototype{'' if count == 1 else 's'}", facts_html(facts), tiles, text_html(note))

    def _caption(self, number: int) -> str:
        label = int(self.classes[number])
        name = "function" if label < 0 else f"class {label}"
        if self.log_probability is None:
            return f"{name if label < 0 else f'channel {label}'}: activation {float(self.logit[number]):.3g}"
        return f"{name}: {float(self.log_probability[number].exp()):.1%}"
