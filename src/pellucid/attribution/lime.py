"""LIME: a linear surrogate of the score, fitted on images with random segments hidden (Ribeiro et al., 2016)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._segments import Segmented, Shown, shared_evenly
from pellucid.attribution._trials import Trials, progress
from pellucid.core.errors import ConfigError
from pellucid.core.options import Count, NotNegative, Range
from pellucid.core.seeding import generator

LASSO_SWEEPS, LASSO_TOLERANCE = 1000, 1e-10
"""Maximum number of sweeps of coordinate descent for the lasso, and the change of a coefficient, relative to the
largest one, below which a sweep is the last."""


@METHODS.register("lime")
@dataclass(frozen=True)
class Lime(Segmented):
    """β of the surrogate b + Σ βₚ zₚ that minimizes Σᵢ wᵢ (f(x_zᵢ) − b − β·zᵢ)² + penalty(β), over random masks z.

    Each segment is shown (z = 1) with probability 1/2, otherwise it takes the values of the baseline. Masks have the
    weight w = exp(−D² / (2 width²)), where D = 1 − √(share of segments shown) is the cosine distance of z from
    (1, …, 1). The unperturbed image is one more sample. A segment's coefficient is divided evenly among its pixels and
    channels. Masks depend on the seed and are the same for every image.

    `details["r_squared"]` is the weighted R² of the surrogate, at most 1: the share of the score's variance over the
    masks that the map accounts for. `details["intercept"]` is b.
    """

    answers: ClassVar[str] = "how much each segment adds to a linear approximation of the logit near the image"
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific"})
    patches_along_axis: ClassVar[int] = 7

    samples: Count = 1000
    """Number of random masks, each of which costs one evaluation."""
    surrogate: Literal["ridge", "lasso"] = "ridge"
    """Penalty: `"ridge"`, λ Σ β², or `"lasso"`, 2 λ Σᵢwᵢ Σ |β|, which sets small coefficients to exactly 0. Both have
    scikit-learn's scale."""
    regularization: NotNegative | None = None
    """Weight λ of the penalty; None: 1 for ridge, 0.01 for lasso."""
    kernel_width: Annotated[float | int, Range(0, above=True)] = 0.25
    """Width of the kernel that weights masks by their distance from the unperturbed image."""
    baseline: Baseline = 0.0
    """Value of hidden pixels: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    seed: int = 0

    def attribute_segments(self, subject: Subject, images: Tensor, question: Question, index: Tensor) -> list[Outcome]:
        trials = Trials(subject, images, question.targets, self.baseline)
        masks = self.masks(int(index.max()) + 1)
        with progress("lime", self.samples) as update:
            scores = Shown(trials, index, self.samples).scores(masks, update)
        design = torch.cat([torch.ones_like(masks[:1]), masks]).to(images.device, torch.float64)
        rows = torch.cat([trials.score[:, None], scores], 1).double()
        coefficients, intercept, fit = self.fit_surrogate(design, rows.movedim(1, 0).flatten(1))
        shape = trials.score.shape
        maps = shared_evenly(coefficients.T.unflatten(0, shape), index).to(images)
        return trials.outcomes(
            maps, self.samples, intercept=intercept.view(shape).to(images), r_squared=fit.view(shape).to(images)
        )

    def masks(self, segments: int) -> Tensor:
        """Draw the masks, (sample, segment); True: shown."""
        source = generator(self.seed, "lime")
        return torch.rand(self.samples, segments, generator=source, dtype=torch.float64, device="cpu") < 0.5

    def fit_surrogate(self, design: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fit one surrogate to each column of scores, (sample, column), given the masks, (sample, segment).

        Returns the coefficients, (segment, column), the intercepts and the R², (column,) each; all in float64.
        """
        weights = self.weights(design)
        total = weights.sum()
        center, middle = weights @ design / total, weights @ scores / total
        deviations, targets = design - center, scores - middle
        gram = deviations.T @ (weights[:, None] * deviations)
        moments = deviations.T @ (weights[:, None] * targets)
        penalty = (1.0 if self.surrogate == "ridge" else 0.01) if self.regularization is None else self.regularization
        solve = _ridge if self.surrogate == "ridge" else _lasso
        coefficients = solve(gram, moments, penalty * (1.0 if self.surrogate == "ridge" else float(total)))
        missed = (weights[:, None] * (targets - deviations @ coefficients).square()).sum(0)
        variance = (weights[:, None] * targets.square()).sum(0)
        # a score that is the same for all masks is fitted perfectly by the intercept
        fit = torch.where(variance > 0, 1 - missed / variance, torch.ones_like(variance))
        return coefficients, middle - center @ coefficients, fit

    def weights(self, design: Tensor) -> Tensor:
        """Return the weight of each mask, (sample,)."""
        distances = 1 - design.mean(1).sqrt()
        return torch.exp(-distances.square() / (2 * self.kernel_width**2))


def _ridge(gram: Tensor, moments: Tensor, penalty: float) -> Tensor:
    """Minimize βᵀ gram β − 2 β·moments + penalty Σ β², for each column of the moments."""
    diagonal = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, problem = torch.linalg.cholesky_ex(gram + penalty * diagonal)
    size = factor.diagonal()
    if int(problem) or not float(size.min()) > 1e-7 * float(size.max()):
        raise ConfigError(
            f"the masks of lime do not determine the {len(gram)} coefficients of the surrogate; pass more samples or a "
            "larger regularization, a larger kernel_width or larger segments."
        )
    return torch.cholesky_solve(moments, factor)


def _lasso(gram: Tensor, moments: Tensor, penalty: float) -> Tensor:
    """Minimize βᵀ gram β / 2 − β·moments + penalty Σ |β| by coordinate descent, for each column of the moments."""
    coefficients = torch.zeros_like(moments)
    curvature = gram.diagonal()
    for _ in range(LASSO_SWEEPS):
        before = coefficients.clone()
        for number in curvature.nonzero().flatten().tolist():
            own = curvature[number]
            slope = moments[number] - gram[number] @ coefficients + own * coefficients[number]
            coefficients[number] = (slope.abs() - penalty).clamp(min=0) * slope.sign() / own
        if float((coefficients - before).abs().max()) <= LASSO_TOLERANCE * float(coefficients.abs().max()):
            break
    return coefficients
