"""Leaderboard of explanation methods on the finished network: methods by metrics, with controls."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch

from pellucid.evaluation import CONTROLS, DEFAULT_METRICS, METRICS, Evaluation, Metric
from pellucid.evaluation._run import plan, run
from pellucid.evaluation.continuity import Continuity
from pellucid.evaluation.parameter_randomisation import ParameterRandomisation
from pellucid.evaluation.random_logit import RandomLogit
from pellucid.evaluation.selectivity import Selectivity
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._methods import (
    FAST_OPTIONS,
    Selection,
    affordable_methods,
    bounded_options,
    create_fitted,
    explain_each,
)

__all__ = ["Leaderboard", "summary"]

OPTIONS = {**FAST_OPTIONS, "integrated_gradients": {"steps": 12}, "smoothgrad": {"samples": 12}}
"""Options of the methods: every metric needs many maps, and finer ones change its mean by less than its interval."""
WANTED = 12
"""Number of images for which a budget leaves out metrics and methods."""


@HOOKS.register("leaderboard")
@dataclass(frozen=True)
class Leaderboard(Hook):
    """Evaluation of every method by every default metric, on images spread evenly over the test set."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    is_slow: ClassVar[bool] = True

    images: int = 100
    """Maximum number of test images."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Metrics to compute."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with numbers: `rows` (method, metric, value, low, high, images), `comparisons`, `curves`."""
        if not len(scene.test):
            return
        allowance = Allowance(scene, "leaderboard")
        selection = affordable_methods(scene, allowance, partial(_options, scene), wanted=0)
        metrics, most = self._affordable(allowance, selection)
        count = min(len(scene.test), most) if selection.prices else 0
        if not count:
            yield selection.artifact(scene)
            return
        # evenly spread, in case the test set is sorted by class
        indices = torch.arange(count) * len(scene.test) // count
        methods, inapplicable = explain_each(
            selection.prices, lambda name: create_fitted(scene, name, **_options(scene, name))
        )
        targets, images = scene.logits[indices].argmax(1), scene.test.floats(indices)
        with allowance.spending():
            request = plan(scene.model, images, targets, list(methods.values()), metrics, seed=scene.seed)
            evaluation = run(request)
        evaluation = replace(evaluation, refused={**selection.refused, **inapplicable, **evaluation.refused})
        yield Artifact(
            caption=f"{scene.title}: {summary(evaluation)}{selection.note}",
            figure=evaluation.figure(f"{scene.title}: leaderboard of explanation methods"),
            numbers={**evaluation.to_dict(), **selection.numbers},
        )

    def _affordable(self, allowance: Allowance, selection: Selection) -> tuple[tuple[str | Metric, ...], int]:
        """Return the metrics and the number of images that the budget covers; leaves out methods if necessary.

        Fewer metrics and methods are better than very few images.
        """
        prices, most = selection.prices, allowance.images(self.images)
        if not allowance.is_limited:
            return self.metrics, most
        names = list(prices)
        half = sorted(names, key=lambda name: prices[name])[: max(1, len(names) // 2)]
        levels = _levels()
        for methods, metrics in (
            (names, levels[0]), (names, levels[1]), (half, levels[0]), (names, levels[2]), (half, levels[1]),
        ):  # fmt: skip
            count = allowance.affordable(_price(prices, methods, metrics), most, 10 * len(methods))
            if count >= WANTED:
                break
        else:
            methods, metrics = half, levels[2]
            count = allowance.affordable(_price(prices, methods, metrics), most, 4 * len(methods))
        for name in [name for name in names if name not in methods]:
            selection.leave_out(name)
        return metrics, count


def _options(scene: Scene, name: str) -> Mapping[str, Any]:
    return OPTIONS.get(name, {}) if scene.budget is None else bounded_options(scene, name)


def _levels() -> tuple[tuple[Metric, ...], ...]:
    """Return the default metrics under a budget, from the most to the least expensive selection."""
    cheap = (METRICS["completeness"](), METRICS["sparseness"](), METRICS["random_logit"]())
    return (
        tuple(METRICS[name]() for name in DEFAULT_METRICS),
        (Selectivity(steps=8), Continuity(pixels=0), *cheap, ParameterRandomisation(stages=3)),
        (Selectivity(steps=4), *cheap, ParameterRandomisation(stages=1)),
    )


def _price(prices: Mapping[str, float], names: Iterable[str], metrics: Iterable[Metric]) -> float:
    """Return the cost of evaluating methods on one image, in forward passes."""
    # for every method: the map itself, and the maps of similar images, of another class, or of other weights
    maps, forwards = 1, 0
    for metric in metrics:
        match metric:
            case Selectivity():
                # both orders; the whole and the empty image are shared by all methods
                forwards += 2 * (metric.steps - 1)
            case Continuity():
                maps += metric.noises + (4 if metric.pixels else 0)
            case ParameterRandomisation():
                maps += metric.stages
            case RandomLogit():
                maps += 1
    names = list(names)
    return 3 + maps * sum(prices[name] for name in names) + forwards * (len(names) + len(CONTROLS))


def summary(evaluation: Evaluation) -> str:
    """Summarize an evaluation: the recommended method, and the best one by each metric."""
    best = ", ".join(f"{name} ({metric})" for metric in evaluation.metrics if (name := evaluation.best(metric)))
    return (
        f"explanation methods evaluated on {evaluation.images} images. {evaluation.recommendation.reason} "
        f"Best methods: {best}."
    )
