"""Conductance: the flow of integrated gradients through the units of a hidden layer (Dhamdhere et al., 2018)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject, Target, sharing
from pellucid.attribution._baselines import Baseline, baseline_like
from pellucid.attribution._hidden import Reading, activations, is_cut, read
from pellucid.attribution._missing import check_gradients
from pellucid.attribution.integrated_gradients import MOST_NODES, nodes
from pellucid.core.errors import ConfigError
from pellucid.core.ranges import Range
from pellucid.engine.hidden import check_names
from pellucid.engine.units import Unit


@METHODS.register("conductance")
@dataclass(frozen=True)
class Conductance(Attribution):
    """R = ∫ ∂f/∂y(a) · dy(a)/da da over the straight path of inputs x₀ + a(x − x₀), where y is a layer's output.

    The sum over a layer that all paths pass through is f(x) − f(x₀), as for integrated gradients (Dhamdhere et al.,
    2018, equation 3). At the input, conductance is integrated gradients. The integral over each of `steps` intervals is
    the change of y times the mean of the gradients at both ends; several layers share all passes.

    With `through`, the map is that of the input: R = (x − x₀) ⊙ ∫ Σ_u ∂f/∂u ∂u/∂x da over the positions u of a hidden
    unit, the part of integrated gradients that flows through the unit (captum's NeuronConductance). The integral takes
    `steps` points of the Gauss–Legendre rule.
    """

    family: ClassVar[str] = "gradient"
    reaches_layers: ClassVar[bool] = True
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much of the logit's change from a baseline flows through each unit of a hidden layer"
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific", "deterministic"})
    remedy: ClassVar[str] = "Use more intervals (steps=)."

    steps: Annotated[int, Range(1, MOST_NODES)] = 64
    """Number of intervals on the path."""
    rule: Literal["trapezoid", "left"] = "trapezoid"
    """Gradient of an interval: the mean of both ends, or that of its start, as captum's LayerConductance takes it."""
    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    through: Unit | None = None
    """Hidden unit whose share of the input's relevance is wanted; "mean" selects all positions of its channel."""

    @property
    def gradients_per_image(self) -> int:
        return self.steps + 1

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        if self.through is not None:
            return self._through(subject, images, question, self.through)
        baseline = baseline_like(self.baseline, images)
        logits, held = subject.predict(images, question.targets)
        with torch.no_grad():
            start = subject.logits(baseline)
        places = replace(question, targets=tuple(held)).places
        totals = self._integrals(subject, images, baseline, question, held)
        if not question.layers:
            check_gradients(subject, images, held, totals)
        values = activations(subject, images, question.layers)
        # Finding out whether a layer is a cut costs one pass, so it is only done if the sum is checked.
        cuts = {
            layer: value is None or (question.is_certified and is_cut(subject, layer, value, baseline, logits))
            for layer, value in values.items()
        }
        checks = len(question.layers) if question.is_certified else 0
        spent = torch.full((len(images),), self.steps + 3 + checks + bool(question.layers), device=images.device)
        outcomes = []
        for total, (target, layer) in zip(totals, places, strict=True):
            change = (target.scores(logits) - target.scores(start)).detach()
            promised = change if cuts[layer] else None
            classes = target.classes(logits)
            outcomes.append(Outcome(total, logits, classes, promised, evaluations=spent, activations=values[layer]))
        return sharing(outcomes)

    def _integrals(
        self, subject: Subject, images: Tensor, baseline: Tensor, question: Question, held: list[Target]
    ) -> list[Tensor]:
        totals: list[Tensor] = []
        values: tuple[Tensor, ...] = ()
        before: list[list[Tensor]] = []
        for reading in self._readings(subject, images, baseline, question):
            slopes = list(reading.gradients(held))
            if not before:
                totals = [torch.zeros_like(slope) for own in slopes for slope in own]
            else:
                # in the memory of the old values, which nobody else reads
                changes = [torch.sub(new, old, out=old) for new, old in zip(reading.values, values, strict=True)]
                self._add(totals, [change for _ in held for change in changes], before, slopes)
            values, before = reading.values, slopes
        return totals

    def _add(
        self, totals: list[Tensor], changes: list[Tensor], before: list[list[Tensor]], after: list[list[Tensor]]
    ) -> None:
        """Add the integral over one interval to the totals, for each target and layer."""
        olds, news = itertools.chain.from_iterable(before), itertools.chain.from_iterable(after)
        for total, change, old, new in zip(totals, changes, olds, news, strict=True):
            if self.rule == "left":
                total.addcmul_(old, change)
            else:
                total.addcmul_(old, change, value=0.5).addcmul_(new, change, value=0.5)

    def _through(self, subject: Subject, images: Tensor, question: Question, unit: Unit) -> list[Outcome]:
        if question.layers:
            raise ConfigError("conductance through a unit is that of the input; omit to=, or the option through.")
        check_names(subject.model, [unit.layer])
        baseline = baseline_like(self.baseline, images)
        logits, held = subject.predict(images, question.targets)
        totals = [torch.zeros_like(images) for _ in held]
        for place, weight in zip(*nodes("gauss_legendre", self.steps), strict=True):
            reading = read(subject, torch.lerp(baseline, images, place).requires_grad_(), (unit.layer,))
            mask = _positions(unit, reading.values[0])
            for total, (slope,) in zip(totals, reading.gradients(held, is_kept=True), strict=True):
                total.add_(reading.pull(0, slope * mask), alpha=weight)
        spent = torch.full((len(images),), self.steps + 1, device=images.device)
        maps = [total * (images - baseline) for total in totals]
        return sharing(
            [Outcome(one, logits, target.classes(logits), evaluations=spent)
             for one, target in zip(maps, held, strict=True)]
        )  # fmt: skip

    def _readings(self, subject: Subject, images: Tensor, baseline: Tensor, question: Question) -> Iterator[Reading]:
        for number in range(self.steps + 1):
            point = torch.lerp(baseline, images, number / self.steps).requires_grad_()
            yield read(subject, point, question.layers)

    def allowed_residual(self, outcome: Outcome) -> Tensor:
        """0.05 times max(|f(x) − f(x₀)|, Σ|R| / 10)."""
        assert outcome.promised is not None
        return 0.05 * torch.maximum(outcome.promised.abs(), outcome.relevance.flatten(1).abs().sum(1) / 10)


def _positions(unit: Unit, output: Tensor) -> Tensor:
    """Return 1 at the positions of a unit in its layer's output, and 0 elsewhere."""
    with torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(unit.score(leaf).sum(), leaf)
    return (slope != 0).to(output.dtype)
