"""DeepLIFT: the change of the logit from a baseline, distributed by the change of each activation."""

from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from pellucid.attribution import COMPLETE, METHODS, Attribution, Outcome, Question, Subject, Target, sharing, weighted
from pellucid.attribution._baselines import Baseline, baseline_like, is_per_image
from pellucid.attribution._references import References, checked_references
from pellucid.core.errors import ConfigError, UnsupportedOperation
from pellucid.engine.lockstep import Multipliers


@METHODS.register("deeplift")
@dataclass(frozen=True)
class DeepLift(Attribution):
    """R = m ⊙ (x − x₀), in logits; sums to f(x) − f(x₀) (Shrikumar et al., 2017, the rescale rule).

    The multiplier m is Δy/Δx at each activation and the transpose at linear operations. Max-pooling assigns everything
    to the winner on the side (image or baseline) with the larger maximum; products, softmax and layer norms have rules
    that keep the sum exact. If the map still misses its sum, because a mask differs between image and baseline,
    `UnsupportedOperation` is raised.
    """

    family: ClassVar[str] = "relevance"
    reaches_layers: ClassVar[bool] = True
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much each pixel's difference from a baseline changes the logit"
    promises: ClassVar[frozenset[str]] = COMPLETE
    remedy: ClassVar[str] = (
        "Compute in float64 (model.double() and images.double()), where rounding is far smaller, or choose a "
        "baseline nearer to the images."
    )

    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    references: References = None
    """A distribution of baselines, (reference, …), instead of `baseline`: the map is the mean over all of them, which
    sums to f(x) − mean f(x₀). For several inputs, in their structure."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.references is not None and not (isinstance(self.baseline, float | int) and self.baseline == 0):
            raise ConfigError("deeplift got a baseline and references; pass one of them.")

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        if self.references is None:
            return self._from_one(subject, images, question)
        references = checked_references("deeplift", self.references, images)
        # one reference at a time, for all images: memory does not depend on the number of references
        each = [
            replace(self, references=None, baseline=reference)._from_one(subject, images, question)
            for reference in references
        ]
        return sharing([_mean(list(outcomes)) for outcomes in zip(*each, strict=True)])

    def _from_one(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        """Compute the relevance of a batch with one baseline for each image."""
        # A baseline for all images is run once: its recorded pass broadcasts to the batch.
        alike = images if is_per_image(self.baseline, images) else images[:1]
        baseline = baseline_like(self.baseline, alike)
        results = subject.multipliers(
            images, baseline, lambda logits: [target.slope(logits) for target in question.targets], question
        )
        outcomes = [self._outcome(result, target) for result, (target, _) in zip(results, question.places, strict=True)]
        if any(_misses_its_sum(outcome) for outcome in outcomes):
            _refuse(subject.differing_selection(images, baseline))
        return sharing(outcomes)

    def _outcome(self, result: Multipliers, target: Target) -> Outcome:
        parts = weighted(result.logits - result.baseline_logits, result.slope)
        # A layer that other paths bypass has a share of the change that nobody knows in advance.
        promised = parts.reshape(len(parts), -1).sum(1) if result.is_cut else None
        relevance = result.values * result.change
        return Outcome(
            relevance,
            result.logits,
            target.classes(result.logits),
            promised,
            precision=result.precision,
            activations=result.activations,
        )


def _mean(outcomes: list[Outcome]) -> Outcome:
    """Average the outcomes of several baselines."""
    first, count = outcomes[0], len(outcomes)
    relevance, promised = torch.zeros_like(first.relevance), torch.zeros_like(first.logits.flatten(1)[:, 0])
    sums = [outcome.promised for outcome in outcomes if outcome.promised is not None]
    for outcome in outcomes:
        relevance += outcome.relevance / count
    for each in sums:
        promised += each / count
    spent = torch.full((len(relevance),), count, device=relevance.device)
    # A layer that other paths bypass has no promised sum, for any baseline.
    return replace(first, relevance=relevance, promised=promised if sums else None, evaluations=spent)


def _misses_its_sum(outcome: Outcome) -> bool:
    if outcome.promised is None:
        return False
    residual = outcome.relevance.flatten(1).sum(1) - outcome.promised
    return bool((residual.abs() > _beyond_rounding(outcome)).any())


def _refuse(place: str) -> NoReturn:
    raise UnsupportedOperation(
        "the map does not sum to the change of the logit: the model computes a mask or an index that differs between "
        f"image and baseline{f', first at {place}' if place else ''}, for which DeepLIFT has no rule; choose another "
        "baseline, or a method such as 'integrated_gradients' or 'lrp.epsilon'."
    )


def _beyond_rounding(outcome: Outcome) -> Tensor:
    """Residual too large for rounding, (batch,): beyond it, a rule must be wrong.

    100 times 1e-4 (1e-9 in float64) of max(|f(x) − f(x₀)|, Σ|R| / 10, |f(x)| / 100). Smaller residuals above the
    tolerance are reported as rounding.
    """
    assert outcome.promised is not None
    size = torch.maximum(outcome.promised.abs(), outcome.relevance.flatten(1).abs().sum(1) / 10)
    logits = outcome.logits.nan_to_num(0.0, 0.0, 0.0).abs().reshape(len(size), -1).amax(1)  # −∞ marks masked classes
    return torch.maximum(size, logits / 100) * (1e-7 if (outcome.precision or size.dtype) == torch.float64 else 1e-2)
