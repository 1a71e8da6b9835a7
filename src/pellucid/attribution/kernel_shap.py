"""KernelSHAP: Shapley values by weighted regression on random coalitions of segments (Lundberg and Lee, 2017)."""

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import torch
from torch import Generator, Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._segments import Segmented, Shown, shared_evenly
from pellucid.attribution._trials import Trials, progress
from pellucid.core.errors import ConfigError
from pellucid.core.options import Count
from pellucid.core.seeding import generator

LARGEST_LEVERAGE = 0.99
"""Leverages are clamped here, so that an error estimate from few coalitions is large rather than infinite."""


@METHODS.register("kernel_shap")
@dataclass(frozen=True)
class KernelShap(Segmented):
    """φ = argmin Σ_S π(S) (f(x_S) − f(x₀) − Σ_{p∈S} φₚ)² subject to Σ φ = f(x) − f(x₀), over coalitions S of segments.

    Outside a coalition, the image takes the values of the baseline x₀. With the Shapley kernel
    π(S) = (M − 1) / (C(M, |S|) |S| (M − |S|)), the solution over all 2^M coalitions of M segments is the Shapley values
    (Lundberg and Lee, 2017, theorem 2). If all coalitions fit into `coalitions`, the result is exact. Otherwise the
    smallest and largest coalitions are enumerated while they fit, and the rest is drawn by the kernel. Every coalition
    is paired with its complement, which reduces the variance (Covert and Lee, 2021), and the sum is exact in any case.

    `details["standard_error"]` holds the estimated standard error of each value of the map, in its shape; 0 if exact.
    For the error of a whole segment, multiply it by the number of the segment's values.
    """

    answers: ClassVar[str] = "how much each segment adds to the logit, averaged over coalitions of other segments"
    promises: ClassVar[frozenset[str]] = frozenset({"complete", "class_specific"})
    patches_along_axis: ClassVar[int] = 7

    coalitions: Count = 512
    """Maximum number of coalitions, each of which costs one evaluation; at least four times the number of segments, and
    preferably ten times."""
    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    seed: int = 0

    def attribute_segments(self, subject: Subject, images: Tensor, question: Question, index: Tensor) -> list[Outcome]:
        count = int(index.max()) + 1
        design = Design.of(count, self.coalitions, generator(self.seed, "kernel_shap"))
        trials = Trials(subject, images, question.targets, self.baseline)
        empty = trials.scores(trials.baseline[None])[:, 0]
        change = (trials.score - empty).double()
        if count == 1:
            values, error = change[..., None], torch.zeros_like(change)[..., None]
        else:
            coalitions = torch.stack([design.pairs, ~design.pairs], 1).flatten(0, 1)
            with progress("kernel_shap", len(coalitions)) as update:
                scores = Shown(trials, index, len(coalitions)).scores(coalitions, update).double()
            values, error = design.solve(scores[:, 0::2] - scores[:, 1::2], change)
        maps, errors = (shared_evenly(one, index).to(images) for one in (values, error))
        return trials.outcomes(maps, 2 * len(design.pairs) + 1, trials.score - empty, standard_error=errors)


@dataclass(frozen=True, eq=False)
class Design:
    """The coalitions of a regression, in pairs of complements, of which only one is stored."""

    pairs: Tensor
    """(pair, segment): True for the segments of the first coalition of each pair."""
    weights: Tensor
    """(pair,): share of the pair in the Shapley kernel, float64; they sum to 1."""
    sampled: int
    """Number of pairs that are drawn at random, at the end."""

    @staticmethod
    def of(players: int, budget: int, source: Generator) -> "Design":
        """Choose at most `budget` coalitions of `players` segments; `ConfigError` if the budget is too small.

        >>> design = Design.of(3, 100, torch.Generator())
        >>> design.pairs.int().tolist(), design.sampled
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 0)
        """
        if players == 1:
            none = torch.zeros(0, 1, dtype=torch.bool, device="cpu")
            return Design(none, torch.zeros(0, dtype=torch.float64, device="cpu"), 0)
        mass = _masses(players)
        pairs, weights, left, size, rest = list[Tensor](), list[Tensor](), budget // 2, 1, 1.0
        is_exact = budget >= 2**players - 2
        if not is_exact and budget < 4 * players:
            raise ConfigError(
                f"kernel_shap has {budget} coalitions for {players} segments, too few for an estimate; pass "
                f"coalitions={10 * players}, or at least {4 * players}, or larger segments."
            )
        # A size is enumerated if sampling would draw as many coalitions of this size as there are. Single segments
        # always are, because they determine all values.
        while size <= len(mass):
            number = _pair_count(players, size)
            if not is_exact and size > 1 and left * mass[size - 1] / rest < number:
                break
            pairs.append(_all_of_size(players, size))
            weights.append(torch.full((number,), mass[size - 1] / number, dtype=torch.float64, device="cpu"))
            left, rest, size = left - number, rest - mass[size - 1], size + 1
        if not is_exact:
            pairs.append(_drawn(players, left, mass, size, source))
            weights.append(torch.full((left,), rest / left, dtype=torch.float64, device="cpu"))
        return Design(torch.cat(pairs), torch.cat(weights), 0 if is_exact else left)

    def solve(self, differences: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values and their standard errors, (…, batch, segment), by constrained least squares.

        `differences` are the scores of the first minus the second coalition of each pair, (…, pair, batch), and
        `change` is the sum of the values, (…, batch); both float64.
        """
        # The sum of a pair's scores does not depend on the values, given their total. Their difference is
        # Σ s φ with s = ±1, and φ = total / M + θ with Σ θ = 0, so that s can be replaced by its deviations.
        signs = self.pairs.to(differences.device).double() * 2 - 1
        weights, mean = self.weights.to(differences.device), signs.mean(1)
        deviations = signs - mean[:, None]
        count = signs.shape[1]
        gram = deviations.T @ (weights[:, None] * deviations)
        # The deviations have no component along (1, …, 1): any multiple of its projection makes the matrix invertible.
        factor = torch.linalg.cholesky(gram + gram.trace() / count**2)
        # (segment, pair): the derivative of each value with respect to each pair's difference
        linear = torch.cholesky_solve((weights[:, None] * deviations).T, factor)
        parts = differences - mean[:, None] * change.unsqueeze(-2)
        theta = torch.einsum("sp,...pb->...bs", linear, parts)
        values = change[..., None] / count + theta
        if not self.sampled:
            return values, torch.zeros_like(values)
        residuals = parts - torch.einsum("ps,...bs->...pb", deviations, theta)
        return values, self._standard_error(linear, (deviations * linear.T).sum(1), residuals)

    def _standard_error(self, linear: Tensor, leverage: Tensor, residuals: Tensor) -> Tensor:
        """Return the heteroscedasticity-robust standard errors (HC3; MacKinnon and White, 1985) of the drawn pairs."""
        drawn, count = slice(len(leverage) - self.sampled, None), self.sampled
        # Enumerated pairs are the same for every seed and so contribute no error.
        rows = linear[:, drawn]
        errors = residuals[..., drawn, :] / (1 - leverage[drawn].clamp(max=LARGEST_LEVERAGE))[:, None]
        sums = torch.einsum("sp,...pb->...bs", rows, errors)
        squares = torch.einsum("sp,...pb->...bs", rows.square(), errors.square())
        # n/(n − 1) Σ (gᵢ − ḡ)²; for a single pair, the spread is unknown, and its square stands for it
        return (
            ((squares - sums.square() / count if count > 1 else squares) * count / max(1, count - 1))
            .clamp(min=0)
            .sqrt()
        )


def _masses(players: int) -> list[float]:
    """Share of the Shapley kernel of all coalitions with 1, 2, … ⌊M / 2⌋ players and their complements."""
    kernel = [(1 if 2 * size == players else 2) / (size * (players - size)) for size in range(1, players // 2 + 1)]
    return [each / sum(kernel) for each in kernel]


def _pair_count(players: int, size: int) -> int:
    return comb(players, size) // (2 if 2 * size == players else 1)


def _all_of_size(players: int, size: int) -> Tensor:
    """Return all coalitions of a size, (coalition, player); of half of the players, one of each pair."""
    everyone = torch.arange(players, device="cpu")
    members = torch.combinations(everyone, size)[: _pair_count(players, size)]  # the first half contains player 0
    return torch.zeros(len(members), players, dtype=torch.bool, device="cpu").scatter_(1, members, True)


def _drawn(players: int, count: int, mass: list[float], least: int, source: Generator) -> Tensor:
    """Draw coalitions of at least `least` players and at most half of them, with sizes by their mass."""
    share = torch.tensor(mass[least - 1 :], dtype=torch.float64, device="cpu").cumsum(0)
    offset = torch.rand(count, generator=source, dtype=torch.float64, device="cpu")
    # stratified: one size from each of `count` equal parts of the distribution
    position = (torch.arange(count, device="cpu") + offset) / count * share[-1]
    sizes = least + torch.searchsorted(share, position).clamp(max=len(share) - 1)
    ranks = torch.rand(count, players, generator=source, dtype=torch.float64, device="cpu").argsort(1).argsort(1)
    return ranks < sizes[:, None]
