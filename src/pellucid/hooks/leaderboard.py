"""Which explanation of the finished network can be trusted: methods by metrics, the controls below."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pellucid.attribution import Analyzer, create_analyzer
from pellucid.core.contracts import Artifact
from pellucid.evaluation import DEFAULT_METHODS, DEFAULT_METRICS, Evaluation
from pellucid.evaluation._run import plan, run
from pellucid.hooks import HOOKS
from pellucid.hooks._hook import Hook, Scene
from pellucid.hooks._methods import THRIFTY
from pellucid.quality import how_to_read, leaderboard_figure

__all__ = ["Leaderboard", "told"]


@HOOKS.register("leaderboard")
@dataclass(frozen=True)
class Leaderboard(Hook):
    """Every method measured by every default metric on test images spread evenly over the test set."""

    when: ClassVar[Literal["epoch", "end"]] = "end"

    images: int = 100
    """At most so many test images."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What is measured."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """One figure, and the numbers: `rows` (method, metric, value, low, high, images), `comparisons`, `curves`."""
        count = min(len(scene.test), self.images)
        if not count:
            return
        indices = torch.arange(count) * len(scene.test) // count
        methods = [_analyzer(name, scene) for name in scene.methods or DEFAULT_METHODS]
        targets = scene.logits[indices].argmax(1)
        found = run(plan(scene.model, scene.test.floats(indices), targets, methods, self.metrics, seed=scene.seed))
        yield Artifact(
            caption=f"{scene.title}: {told(found)}",
            figure=leaderboard_figure(found, (f"{scene.title}: which explanation can be trusted?", how_to_read(found))),
            numbers=found.to_dict(),
        )


def _analyzer(name: str, scene: Scene) -> Analyzer:
    return create_analyzer(name, scene.model, **THRIFTY.get(name, {}))


def told(found: Evaluation) -> str:
    """The best method of each metric, in a line."""
    best = ", ".join(f"{metric} {name}" for metric in found.metrics if (name := found.best(metric)))
    return f"explanations measured on {found.images} images; best by {best}."
