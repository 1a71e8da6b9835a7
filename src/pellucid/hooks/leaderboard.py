"""Leaderboard of explanation methods on the finished network: methods by metrics, with controls."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pellucid.evaluation import DEFAULT_METHODS, DEFAULT_METRICS, Evaluation
from pellucid.evaluation._run import plan, run
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._methods import FAST_OPTIONS, create_fitted

__all__ = ["Leaderboard", "summary"]

OPTIONS = {**FAST_OPTIONS, "integrated_gradients": {"steps": 12}, "smoothgrad": {"samples": 12}}
"""Options of the methods: every metric needs many maps, and finer ones change its mean by less than its interval."""


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
        count = min(len(scene.test), self.images)
        if not count:
            return
        # evenly spread, in case the test set is sorted by class
        indices = torch.arange(count) * len(scene.test) // count
        names = scene.methods or DEFAULT_METHODS
        methods = [create_fitted(scene, name, **OPTIONS.get(name, {})) for name in names]
        targets = scene.logits[indices].argmax(1)
        evaluation = run(plan(scene.model, scene.test.floats(indices), targets, methods, self.metrics, seed=scene.seed))
        yield Artifact(
            caption=f"{scene.title}: {summary(evaluation)}",
            figure=evaluation.figure(f"{scene.title}: leaderboard of explanation methods"),
            numbers=evaluation.to_dict(),
        )


def summary(evaluation: Evaluation) -> str:
    """Summarize an evaluation in one line: the best method by each metric."""
    best = ", ".join(f"{name} ({metric})" for metric in evaluation.metrics if (name := evaluation.best(metric)))
    return f"explanation methods evaluated on {evaluation.images} images. Best methods: {best}."
