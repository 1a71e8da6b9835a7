"""A race of explanation methods: measure all on few images, drop those that fall behind, and repeat on more images.

The statistic is that of F-race (Birattari et al., 2002): the rank of a method on an image, averaged over the
faithfulness metrics. A method leaves the race when its mean rank is significantly worse than that of the best one, by
paired tests with Holm's correction and a level divided by the number of rounds. Which of the remaining methods is
recommended is decided by `_recommendation`, as for any evaluation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pellucid.core.seeding import derive_seed, generator
from pellucid.evaluation import CONTROLS
from pellucid.evaluation._conclusions import remarks
from pellucid.evaluation._evaluation import Evaluation
from pellucid.evaluation._joining import joined
from pellucid.evaluation._metric import Metric
from pellucid.evaluation._passes import Passes
from pellucid.evaluation._ranks import Ranked, mean_ranks, ranked, worse_than
from pellucid.evaluation._recommendation import beats_controls, faithfulness, qualified
from pellucid.evaluation._run import Plan, Record, run

__all__ = ["FEWEST_IMAGES", "FIRST_IMAGES", "Finish", "balanced", "race"]

FIRST_IMAGES = 16
"""Number of images of the first round; each later round doubles the total."""
FEWEST_IMAGES = 12
"""Number of images below which nothing is recommended: paired tests on so few can hardly be significant."""
PRICING_SHARE = 0.25
"""Largest share of the budget that one method may use on `FEWEST_IMAGES` images."""
RESERVE = 0.95
"""Share of the remaining budget to plan with, because the prices of adaptive methods vary from image to image."""
LEVEL = 0.05
"""Significance level of all rounds together."""
COSTLY = 2.0
"""Multiple of the median price at which a method is left out if the budget covers too few images."""


@dataclass(frozen=True, eq=False)
class Finish:
    """The state of a race at its end."""

    evaluation: Evaluation
    """The remaining methods on all images that were used."""
    ranking: tuple[Ranked, ...]
    """The remaining methods by mean rank, then the dropped ones, the last to leave first."""
    excluded: Mapping[str, str]
    """Methods that cannot be recommended, each with its reason."""
    ended: str
    """Reason for the end: `decided`, `images` or `budget`."""
    wanted: int = 0
    """Number of passes that `FEWEST_IMAGES` images would have taken."""


@dataclass(eq=False)
class Race:
    """The running state of a race; `request` holds all images, in the order in which they are used."""

    request: Plan
    passes: Passes
    budget: int
    progress: Callable[[int], None]
    active: list[str]
    parts: list[Evaluation] = field(default_factory=list)
    dropped: list[Ranked] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    prices: dict[tuple[str, str], float] = field(default_factory=dict)
    """Passes per image by method and metric, in the last round that measured them."""

    @property
    def used(self) -> int:
        """Number of images used so far."""
        return sum(part.images for part in self.parts)

    @property
    def left(self) -> int:
        """Remaining passes."""
        return self.budget - self.passes.total

    @property
    def evaluation(self) -> Evaluation:
        """The active methods on all images used so far."""
        return joined(self.parts, self.active)

    def measure(self, count: int, metrics: Mapping[str, Metric], limit: float = math.inf) -> None:
        """Measure the active methods on the next `count` images, and update their prices."""
        start, labels = self.used, tuple(metrics)
        # the controls come first, so that they pay for what all methods share
        names = [*(name for name in self.request.analyzers if name in CONTROLS), *self.active]
        self.passes.blocks.clear()
        self.passes.start(names[0])

        def finished(done: int, _: str) -> None:
            self.passes.close(labels[(done - 1) % len(labels)])
            if done % len(labels) == 0 and done < len(names) * len(labels):
                self.passes.start(names[done // len(labels)], limit)
            self.progress(self.passes.total)

        chosen = slice(start, start + count)
        targets = self.request.targets
        part = replace(
            self.request,
            images=self.request.images[chosen],
            targets=None if targets is None else targets[chosen],
            analyzers={name: self.request.analyzers[name] for name in names},
            metrics=metrics,
        )
        self.parts.append(run(part, Record(progress=finished)))
        # the check for constant maps after the last block belongs to no method
        self.passes.start("")
        self.prices.update({key: used / count for key, used in self.passes.blocks.items()})

    def price(self, methods: Sequence[str], metrics: Sequence[str]) -> float:
        """Return the passes per image for these methods and the controls."""
        names = [*methods, *(name for name in self.request.analyzers if name in CONTROLS)]
        return sum(self.prices.get((name, metric), 0.0) for name in names for metric in metrics)

    def affordable(self, metrics: Sequence[str]) -> int:
        """Return the number of images on which the budget covers the active methods and the controls."""
        return int(RESERVE * self.left // max(self.price(self.active, metrics), 1))

    def exclude(self, reasons: Mapping[str, str]) -> None:
        """Take methods out of the race, with the reasons."""
        self.excluded.update({name: why for name, why in reasons.items() if name in self.active})
        self.active = [name for name in self.active if name not in reasons]


def race(request: Plan, passes: Passes, budget: int, progress: Callable[[int], None] = lambda _: None) -> Finish:
    """Race the methods of a request on its images, in their order, within a budget of forward passes of one image.

    `passes` counts those of the request's model. The first image prices the methods: those that would use more than a
    quarter of the budget on `FEWEST_IMAGES` images are stopped. Metrics that don't measure faithfulness are checks,
    which are computed in the first round only.
    """
    entrants = [name for name in request.analyzers if name not in CONTROLS]
    state = Race(request, passes, budget, progress, entrants)
    _set_prices(state)
    metrics = faithfulness(state.parts[0])
    faithful = {label: request.metrics[label] for label in metrics}
    first, total = _first_images(state), len(request.images)
    rounds = 1 + max(0, math.ceil(math.log2(total / FIRST_IMAGES))) if total else 1
    if not state.active or first + 1 < min(FEWEST_IMAGES, total):
        wanted = passes.total + (FEWEST_IMAGES - 1) * state.price(state.active, list(request.metrics)) / RESERVE
        return _finish(state, metrics, "budget", math.ceil(wanted) if state.active else 0)
    if first:
        state.measure(first, request.metrics)
    while True:
        _narrow(state, metrics, LEVEL / rounds)
        if _is_decided(state) or state.used == total:
            return _finish(state, metrics, "decided" if _is_decided(state) else "images")
        # Each round doubles the number of images; the last one may be shorter.
        count = min(state.used, state.affordable(metrics), total - state.used)
        if count < 1:
            return _finish(state, metrics, "budget")
        state.measure(count, faithful)


def _is_decided(state: Race) -> bool:
    """Return True if no method is left, or a single one that already qualifies for a recommendation."""
    return not state.active or (len(state.active) == 1 and state.evaluation.recommendation.method is not None)


def balanced(classes: Tensor, seed: int) -> Tensor:
    """Return a random order of images in which the classes take turns, as (image,) positions.

    >>> classes = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> sorted(classes[balanced(classes, seed=0)[:4]].tolist())
    [0, 0, 1, 1]
    """
    order = torch.randperm(len(classes), generator=generator(seed, "recommend", "order"), device="cpu")
    turns, seen = [], dict[int, int]()
    for one in classes.cpu()[order].tolist():
        seen[one] = seen.get(one, -1) + 1
        turns.append(seen[one])
    return order[torch.tensor(turns, dtype=torch.int64, device="cpu").argsort(stable=True)]


def _set_prices(state: Race) -> None:
    """Measure one image, and exclude the methods that do not apply or are too expensive."""
    limit = max(1.0, PRICING_SHARE * state.budget / FEWEST_IMAGES)
    state.measure(1, state.request.metrics, limit)
    refused = {name: why for name, why in state.parts[0].refused.items() if name in state.active}
    stopped = {
        name: f"It needs more than {most:,} forward passes per image, too many for the budget of {state.budget:,}."
        for name, most in state.passes.stopped.items()
    }
    state.exclude({**refused, **stopped})


def _first_images(state: Race) -> int:
    """Return the number of images of the first round; leaves out expensive methods if it would be too small."""
    labels, total = list(state.request.metrics), len(state.request.images)
    while True:
        affordable = state.affordable(labels)
        own = {name: sum(state.prices.get((name, label), 0.0) for label in labels) for name in state.active}
        if affordable + 1 >= min(FEWEST_IMAGES, total) or len(own) < 3:
            return max(0, min(affordable, FIRST_IMAGES - 1, total - 1))
        worst = max(own, key=lambda name: own[name])
        if own[worst] < COSTLY * np.median(list(own.values())):
            return max(0, min(affordable, FIRST_IMAGES - 1, total - 1))
        state.exclude(
            {
                worst: f"It needs {own[worst]:,.0f} forward passes per image, so that the budget of {state.budget:,} "
                f"would cover fewer than {FEWEST_IMAGES} images."
            }
        )


def _narrow(state: Race, metrics: Sequence[str], level: float) -> None:
    """Exclude the methods whose maps ignore the image, the weights or the class, and drop those that fall behind."""
    evaluation = state.evaluation
    state.exclude({name: f"{why[0].upper()}{why[1:]}." for name, why in remarks(evaluation).items()})
    if not state.active:
        return
    seed = derive_seed(state.request.seed, "recommend", state.used)
    behind = _behind(evaluation, state.active, metrics, level, seed)
    known = {one.method: one for one in ranked(evaluation, state.active, metrics, seed)}
    state.dropped[:0] = [replace(one, is_dropped=True) for name, one in known.items() if name in behind]
    state.active = [name for name in state.active if name not in behind]


def _behind(
    evaluation: Evaluation, methods: Sequence[str], metrics: Sequence[str], level: float, seed: int
) -> list[str]:
    """Return the methods that are significantly worse than the best one and may leave the race.

    A method that is significantly better than every control in every metric is sure to qualify for a recommendation, so
    it can replace any other. As long as there is none, the methods that qualify at present stay: the best one may turn
    out to be worse than a control.
    """
    ranks = mean_ranks(evaluation, methods, metrics)
    known = (~np.isnan(ranks)).sum(0)
    means = np.where(known, np.nan_to_num(ranks).sum(0) / np.maximum(known, 1), np.inf)
    sure = [
        column
        for column, method in enumerate(methods)
        if all(beats_controls(evaluation, method, metric) for metric in metrics)
    ]
    best = min(sure or range(len(methods)), key=lambda column: means[column])
    kept = () if sure else qualified(evaluation, metrics)
    return [methods[column] for column in worse_than(ranks, best, level, seed) if methods[column] not in kept]


def _finish(state: Race, metrics: Sequence[str], ended: str, wanted: int = 0) -> Finish:
    evaluation = state.evaluation
    seed = derive_seed(state.request.seed, "recommend", "ranking")
    remaining = ranked(evaluation, state.active, metrics, seed) if state.active and metrics else []
    return Finish(evaluation, (*remaining, *state.dropped), state.excluded, ended, wanted)
