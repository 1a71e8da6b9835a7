"""The result of `pellucid.recommend`: a method, the reason, the ranking and the evaluation behind them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pellucid.attribution import Analyzer
from pellucid.core.cards import card, table_html, text_html
from pellucid.core.errors import ConfigError
from pellucid.core.seeding import derive_seed
from pellucid.evaluation import CONTROLS
from pellucid.evaluation._evaluation import Evaluation
from pellucid.evaluation._race import FEWEST_IMAGES, Finish
from pellucid.evaluation._race_reasons import (
    no_recommendation,
    not_worse,
    quantity,
    recommendation,
    too_small,
    worse_than_control,
)
from pellucid.evaluation._ranks import Ranked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Recommended", "concluded"]


@dataclass(frozen=True, eq=False, repr=False)
class Recommended:
    """The attribution method to use for a model and its images, and what supports the choice."""

    method: str | None
    """Label as in `evaluation.methods`; None if the measurements support no method."""
    reason: str
    """The measurements that decided, in sentences."""
    ranking: tuple[Ranked, ...]
    """Mean rank of each method over the faithfulness metrics, the best first; methods that were dropped come last, with
    the ranks at which they left the race."""
    tied: tuple[str, ...]
    """Methods that are not significantly worse than the recommended one in mean rank."""
    evaluation: Evaluation
    """The remaining methods and the controls on all images that were used."""
    cost: int
    """Forward passes of one image through the model, as counted. Backward passes are not counted."""
    budget: int
    """Largest number of forward passes that was allowed."""
    excluded: Mapping[str, str]
    """Methods that cannot be recommended: they do not apply, are too expensive, or ignore the class, the weights or the
    image; with the reason."""
    _analyzers: Mapping[str, Analyzer] = field(default_factory=dict)

    def analyzer(self) -> Analyzer:
        """Return an analyzer of the recommended method, ready to explain the model.

        Raises `ConfigError` if no method is recommended.
        """
        if self.method is None:
            raise ConfigError(f"no method is recommended, so there is no analyzer. {self.reason}")
        return self._analyzers[self.method]

    def __repr__(self) -> str:
        """Return the method, the reason and the ranking as text."""
        used = quantity(self.evaluation.images, "image")
        width = max((len(one.method) for one in self.ranking), default=0)
        rows = [f"  {one.method:<{width}}  {_rank(one)}  {_standing(self, one)}".rstrip() for one in self.ranking]
        left_out = [f"  {name}: {why}" for name, why in self.excluded.items()]
        return "\n".join(
            [
                f"Recommended({self.method!r}, {used}, {self.cost:,} forward passes)",
                self.reason,
                *(["Mean rank (1: best), with 95% interval:"] if rows else []),
                *rows,
                *(["Excluded:"] if left_out else []),
                *left_out,
            ]
        )

    def _repr_html_(self) -> str:
        """Return the reason and the ranking as HTML for notebooks."""
        rows = [
            [
                one.method,
                f"{one.rank:.2f}",
                f"{one.low:.2f} to {one.high:.2f}",
                str(one.images),
                "dropped" if one.is_dropped else _standing(self, one),
            ]
            for one in self.ranking
        ]
        heading = ["method", "mean rank", "95% interval", "images", ""]
        left_out = " ".join(f"{name}: {why}" for name, why in self.excluded.items())
        spent = f"{self.cost:,} of {self.budget:,} forward passes, {quantity(self.evaluation.images, 'image')}."
        return card(
            f"Recommended method: {self.method or 'none'}",
            text_html(self.reason, is_warning=self.method is None),
            table_html(heading, rows) if rows else "",
            text_html(f"Excluded: {left_out}" if left_out else ""),
            text_html(spent),
        )

    def figure(self, title: str = "Which attribution method to use") -> "Figure":
        """Plot the mean ranks with their intervals; the recommended method is bold, dropped ones are gray."""
        # imported here, because results are computed without matplotlib
        from pellucid.plots.ranking import RankLine, ranking

        lines = [
            RankLine(
                one.method, one.rank, one.low, one.high, _standing(self, one), one.method == self.method, one.is_dropped
            )
            for one in self.ranking
        ]
        return ranking(lines, (title, self.reason))


def _rank(one: Ranked) -> str:
    return f"{one.rank:5.2f} ({one.low:.2f} to {one.high:.2f})"


def _standing(result: Recommended, one: Ranked) -> str:
    """Describe a method's part in the race in a few words."""
    if one.is_dropped:
        return f"dropped after {one.images} images, of {one.rivals}"
    if one.method == result.method:
        return "recommended"
    if one.method in result.tied:
        return "tied"
    beaten = worse_than_control(result.evaluation, one.method)
    return f"worse than a control in {beaten}" if beaten else "" if result.method is None else "significantly worse"


def concluded(finish: Finish, analyzers: Mapping[str, Analyzer], cost: int, budget: int) -> Recommended:
    """Turn the end of a race into a recommendation; `cost` is the number of forward passes made."""
    evaluation, tied = finish.evaluation, tuple[str, ...]()
    is_undecided = finish.ended == "budget" and evaluation.images < FEWEST_IMAGES
    method = None if is_undecided else evaluation.recommendation.method
    if method is not None:
        tied = not_worse(evaluation, method, derive_seed(evaluation.seed, "recommend", "ties"))
        reason = recommendation(finish, method, tied)
    elif is_undecided:
        reason = too_small(finish, budget, sum(name not in CONTROLS for name in analyzers))
    else:
        reason = no_recommendation(finish)
    return Recommended(method, reason, finish.ranking, tied, evaluation, cost, budget, finish.excluded, dict(analyzers))
