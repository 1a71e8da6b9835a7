"""Integrated gradients: the path integral of the gradient from a baseline (Sundararajan et al., 2017)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import COMPLETE, METHODS, Attribution, Outcome, Question, Subject, Target, sharing
from pellucid.attribution._baselines import Baseline, baseline_like
from pellucid.attribution._hidden import from_layers
from pellucid.attribution._paths import Gradients
from pellucid.core.errors import ConfigError
from pellucid.core.options import NotNegative
from pellucid.core.ranges import Range

MOST_NODES = 5000
"""Maximum number of points of the Gauss–Legendre rule, whose computation takes memory for the square of that number."""
Quadrature = Literal["gauss_legendre", "trapezoid"]
"""Quadrature rule: positions and weights of the points on the path."""


@METHODS.register("integrated_gradients")
@dataclass(frozen=True)
class IntegratedGradients(Attribution):
    """R = (x − x₀) ⊙ ∫₀¹ ∂f(x₀ + a(x − x₀)) da, in logits; sums to f(x) − f(x₀).

    With `tolerance`, each image's path is refined independently, adding 4, 5, 6, … points, until both the completeness
    residual and the change of the sum since the last refinement are within that fraction of |f(x) − f(x₀)| (of
    Σ|R| / 10, if that is larger), or `steps` points are used.
    """

    family: ClassVar[str] = "gradient"
    reaches_layers: ClassVar[bool] = True
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much each pixel adds to the logit along the path from a baseline to this image"
    promises: ClassVar[frozenset[str]] = COMPLETE
    remedy: ClassVar[str] = (
        "Use more points (steps=), or set tolerance= (such as 0.01) together with a larger steps= to refine each "
        "image's path until its sum is within tolerance."
    )

    steps: Annotated[int, Range(2)] = 64
    """Points on the path; with `tolerance`, the maximum in total."""
    quadrature: Quadrature = "gauss_legendre"
    """Quadrature rule of the points on the path."""
    tolerance: NotNegative | None = None
    """Relative tolerance of the sum; None: always use `steps` points."""
    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Its nodes are the eigenvalues of a matrix of steps × steps numbers.
        if self.quadrature == "gauss_legendre" and self.tolerance is None and self.steps > MOST_NODES:
            raise ConfigError(
                f"the option steps of IntegratedGradients is {self.steps}; 'gauss_legendre' has at most {MOST_NODES} "
                "points. Pass fewer, or quadrature='trapezoid'."
            )

    @property
    def gradients_per_image(self) -> int:
        return self.steps

    @from_layers
    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        baseline = baseline_like(self.baseline, images)
        logits, held = subject.predict(images, question.targets)
        with torch.no_grad():
            baseline_logits = subject.logits(baseline)
        promised = [(one.scores(logits) - one.scores(baseline_logits)).detach() for one in held]
        classes = [one.classes(logits) for one in held]
        if self.tolerance is not None:
            # The passes at image and baseline (+ 2) are shared by all targets and counted once.
            maps = [self._refined(subject, images, baseline, *pair) for pair in zip(held, promised, strict=True)]
            return [
                Outcome(relevance, logits, own, due, evaluations=spent + (2 if number == 0 else 0))
                for number, ((relevance, spent), own, due) in enumerate(zip(maps, classes, promised, strict=True))
            ]
        spent = torch.full((len(images),), self.steps + 2, device=images.device)
        return sharing(
            [
                Outcome(relevance, logits, own, due, evaluations=spent)
                for relevance, own, due in zip(
                    self._along(subject, images, baseline, held, self.steps), classes, promised, strict=True
                )
            ]
        )

    def _along(
        self, subject: Subject, images: Tensor, baseline: Tensor, targets: Sequence[Target], steps: int
    ) -> list[Tensor]:
        difference = images - baseline
        # Centered at the baseline: the points are baseline + place · difference.
        gradients = Gradients(subject, baseline, targets)
        for place, weight in zip(*nodes(self.quadrature, steps), strict=True):
            gradients.add(difference, weight, scale=place)
        return [gradients.total(number) * difference for number in range(len(targets))]

    def _refined(
        self, subject: Subject, images: Tensor, baseline: Tensor, target: Target, promised: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refine each image's map until it is within tolerance; return the maps and the evaluations on each path.

        The map of each rung joins the mean of the previous ones, weighted by its number of points, so no evaluation is
        wasted.
        """
        # NaN fails the comparison with the previous sum, so no image is done after the first rung.
        relevance, before = torch.zeros_like(images), torch.full_like(promised, torch.nan)
        spent = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        active, points = torch.arange(len(images), device=images.device), 0
        for steps in self._ladder():
            maps = self._along(subject, images[active], baseline[active], [target.part(active)], steps)[0]
            # Each rung is a complete quadrature of its own, so means of rungs are, too.
            maps = (relevance[active] * points + maps * steps) / (points + steps)
            relevance[active], points = maps, points + steps
            spent[active] += steps
            sums = maps.flatten(1).sum(1)
            allowed = self._scale(maps, promised[active]) * (self.tolerance or 0.0)
            # Two tests: a sum can be right by chance, while the map is still changing.
            is_done = ((sums - promised[active]).abs() <= allowed) & ((sums - before[active]).abs() <= allowed)
            before[active] = sums
            if target.score is not None:
                is_done = is_done.all().expand_as(is_done)  # a custom score may need the whole batch: keep it together
            active = active[~is_done]
            if not len(active):
                break
        return relevance, spent

    def _ladder(self) -> Iterator[int]:
        """Yield the number of points of each refinement, up to `steps` in total."""
        left = self.steps
        for rung in chain((4, 5, 6, 7, 8, 10, 12, 15), (20 * 2**power for power in count())):
            if left - rung < 2:  # a quadrature needs at least 2 points, so the last rung takes all that remain
                yield left
                return
            yield rung
            left -= rung

    @staticmethod
    def _scale(relevance: Tensor, promised: Tensor) -> Tensor:
        # Σ|R| keeps the tolerance above zero if the promised sum is close to zero.
        return torch.maximum(promised.abs(), relevance.flatten(1).abs().sum(1) / 10)

    def allowed_residual(self, outcome: Outcome) -> Tensor:
        """`tolerance` (0.05 by default) times max(|f(x) − f(x₀)|, Σ|R| / 10)."""
        assert outcome.promised is not None
        return self._scale(outcome.relevance, outcome.promised) * (0.05 if self.tolerance is None else self.tolerance)


def nodes(quadrature: Quadrature, steps: int) -> tuple[list[float], list[float]]:
    """Return positions in [0, 1] and their weights, which sum to 1.

    >>> nodes("trapezoid", 3)
    ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25])
    """
    if quadrature == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps).tolist(), weights.tolist()
    places, weights = np.polynomial.legendre.leggauss(steps)
    # From [−1, 1] to [0, 1]: half the interval, so half the weights.
    return ((places + 1) / 2).tolist(), (weights / 2).tolist()
