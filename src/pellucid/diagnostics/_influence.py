"""The result of an influence method: signed scores of training images, and the strongest of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.types import Labels, Pixels, Targets
from pellucid.diagnostics._gradients import Explained, as_floats
from pellucid.diagnostics._projection import Projection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Influence", "Ranked", "Scores"]

Scores = Float[Tensor, "test train"]
"""Influence of each training image on each explained image."""


class Ranked(NamedTuple):
    """Training images in order of their influence on each explained image."""

    indices: Tensor
    """(test, rank): indices of training images."""
    scores: Tensor
    """(test, rank): their influence."""


@dataclass(frozen=True, eq=False)
class Influence:
    """Influence of each training image on each explained image: positive if it raised the score of the target.

    Training images with positive scores are proponents: without them, the network would favor the target less. Those
    with negative scores are opponents. Scores of one explained image are comparable with each other; `tracin` and
    `trak` say what their unit is.
    """

    scores: Scores
    """(test, train), on the CPU."""
    targets: Targets
    """(test,): class of each explained image whose margin or loss the scores are about."""
    labels: Labels
    """(train,): labels of the training images."""
    method: str
    """`trak` or `tracin`."""
    checkpoints: int
    """Number of checkpoints over which the method averages or sums."""
    parameters: int
    """Number of parameters whose gradients are used."""
    projection: Projection | None = None
    """Random projection of the gradients; None for exact gradients."""
    ridges: tuple[float, ...] = ()
    """TRAK: value added to the diagonal of the features' Gram matrix, for each checkpoint."""
    learning_rates: tuple[float, ...] = ()
    """TracIn: weight of each checkpoint."""
    images: Explained | None = field(default=None, repr=False)
    """The explained images, for the figure."""
    train_images: Pixels | None = field(default=None, repr=False)
    """The training images, for the figure."""
    notes: tuple[str, ...] = ()
    """Remarks on the choice of checkpoints."""

    @property
    def projection_error(self) -> float:
        """Upper bound of the standard error of inner products of gradients, as a share of the product of their norms.

        0 for exact gradients; see `Projection`.
        """
        return 0.0 if self.projection is None else self.projection.error_for(self.parameters)

    def proponents(self, count: int = 5) -> Ranked:
        """Return the training images with the largest scores for each explained image, the largest first.

        Scores are negative only if there are fewer than `count` proponents.
        """
        return self._ranked(count, 1)

    def opponents(self, count: int = 5) -> Ranked:
        """Return the training images with the smallest scores for each explained image, the most negative first."""
        return self._ranked(count, -1)

    def _ranked(self, count: int, sign: int) -> Ranked:
        if count < 1:
            raise ConfigError(f"count is {count}, expected at least 1 image.")
        # stable, so that ties keep the order of the training images on every device
        order = (self.scores * sign).argsort(dim=1, descending=True, stable=True)[:, :count]
        return Ranked(order, self.scores.gather(1, order))

    def figure(
        self, rows: Sequence[int] | None = None, *, count: int = 5, classes: Sequence[str] | None = None
    ) -> "Figure":
        """Draw explained images, each with its strongest proponents and opponents.

        `rows` selects explained images (default: the first eight), and `classes` are the names of the classes. Raises
        `ConfigError` if the result holds no images.
        """
        from pellucid.plots.influence import influence_figure

        if self.images is None or self.train_images is None:
            raise ConfigError("this result holds no images to draw; keep those passed to `trak` or `tracin`.")
        chosen = list(range(min(8, len(self.targets)))) if rows is None else list(rows)
        ranked = [self.proponents(count), self.opponents(count)]
        names = classes or [str(label) for label in range(int(max(self.labels.max(), self.targets.max())) + 1)]
        return influence_figure(
            as_floats(self.images[chosen]).detach().cpu().numpy(),
            [names[label] for label in self.targets[chosen].tolist()],
            [as_floats(self.train_images[one.indices[chosen]].flatten(0, 1)).detach().cpu().numpy() for one in ranked],
            [[names[label] for label in self.labels[one.indices[chosen]].flatten().tolist()] for one in ranked],
            [one.scores[chosen].numpy() for one in ranked],
            f"Influence of {self.scores.shape[1]:,} training images ({self.method})",
        )
