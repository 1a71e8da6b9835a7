"""Temperature scaling: divide the logits by one number, fitted to held-out images."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.core.options import Range, check_argument
from pellucid.core.seeding import generator
from pellucid.diagnostics._predicted import check_logits

__all__ = ["CrossFittedTemperature", "Temperature", "cross_fit_temperature", "fit_temperature"]

LOWEST, HIGHEST = 0.01, 100.0
"""Range of temperatures."""
TWO_SIDED = 1.96
"""Standard errors in half of a 95% interval."""
MOST_STEPS = 200
PRECISION = 1e-13
"""Relative width of the bracket or length of a step at which the search ends."""


@dataclass(frozen=True)
class Temperature:
    """A temperature T, by which logits are divided: above 1, the probabilities become less confident."""

    value: float
    """T, 0.01 to 100."""
    low: float
    """Lower end of the 95% interval of T; NaN if T is not determined."""
    high: float
    """Upper end; infinite if the data do not bound it."""
    loss_before: float
    """Mean cross-entropy of the fitted images at T = 1, in nats."""
    loss: float
    """The same at T."""
    images: int
    """Number of fitted images."""
    note: str = ""
    """Why the images do not determine T, which is then at an end of its range (or 1); empty if they do."""

    @property
    def is_determined(self) -> bool:
        """True if the loss has a minimum inside the range."""
        return not self.note

    def apply(self, logits: Float[Tensor, "image class"]) -> Float[Tensor, "image class"]:
        """Return the logits divided by T; predictions remain the same."""
        return logits / self.value


@dataclass(frozen=True, eq=False)
class CrossFittedTemperature:
    """Two temperatures, each fitted to one half of the images and applied to the other."""

    temperatures: tuple[Temperature, Temperature]
    """Fitted to the first and to the second half."""
    is_first: Bool[Tensor, " image"]
    """True for images of the first half."""

    @property
    def is_determined(self) -> bool:
        """True if both temperatures are."""
        return all(one.is_determined for one in self.temperatures)

    @property
    def note(self) -> str:
        """Why a temperature is not determined; empty if both are."""
        return next((one.note for one in self.temperatures if one.note), "")

    def apply(self, logits: Float[Tensor, "image class"]) -> Float[Tensor, "image class"]:
        """Return the logits of the same images, those of each half divided by the temperature of the other."""
        if len(logits) != len(self.is_first):
            raise ShapeError(
                f"got logits of {len(logits)} images, but the temperatures were fitted to {len(self.is_first)}; pass "
                "logits of the same images, in the same order."
            )
        first, second = self.temperatures
        return torch.where(self.is_first.to(logits.device)[:, None], logits / second.value, logits / first.value)


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """Fit the temperature that minimizes the cross-entropy of softmax(logits / T) (Guo et al., 2017).

    `logits` are (image, class), `labels` class indices (image,), of images that the network was not trained on. The
    loss is convex in 1/T, so the minimum is found to rounding, by Newton's method within a bracket. The interval is
    that of a maximum-likelihood estimate of 1/T whose model may be wrong (the "sandwich" of Huber, 1967).

    If T has no finite minimum above 0, it is set to an end of its range, 0.01 or 100, and `note` has the reason: the
    loss falls for T → 0 if all images are classified correctly, and for T → ∞ if the logits say nothing about the
    labels. Raises `ShapeError` or `DataError` for invalid logits or labels.

    >>> logits = torch.tensor([[4.0, 0.0]]).repeat(4, 1)  # confidence 98%, but 3 of 4 are right
    >>> temperature = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
    >>> round(temperature.value, 3), round(temperature.apply(logits).softmax(1)[0, 0].item(), 3)
    (3.641, 0.75)
    """
    check_logits(logits, labels)
    values, labels = logits.detach().double().cpu(), labels.detach().long().cpu()
    # the softmax does not depend on a shift of the logits; with a maximum of 0, nothing overflows
    values = values - values.amax(1, keepdim=True)
    true = values.gather(1, labels[:, None])[:, 0]
    inverse, note = _minimize(values, true)
    low, high = (math.nan, math.nan) if note else _interval(values, true, inverse)
    before, after = (float((scale * values).logsumexp(1).mean() - scale * true.mean()) for scale in (1.0, inverse))
    return Temperature(1 / inverse, low, high, before, after, len(values), note)


def cross_fit_temperature(logits: Tensor, labels: Tensor, *, seed: int = 0) -> CrossFittedTemperature:
    """Fit a temperature to each of two random halves, to be applied to the other one.

    This shows what temperature scaling changes where there is no separate validation set: each image is scaled by a
    temperature that its label did not influence. Needs at least two images; raises the errors of `fit_temperature`.

    >>> logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> both = cross_fit_temperature(logits, logits.softmax(1).multinomial(1)[:, 0])
    >>> [one.images for one in both.temperatures], both.apply(logits).shape
    ([50, 50], torch.Size([100, 3]))
    """
    check_logits(logits, labels, fewest=2)
    check_argument("cross_fit_temperature", "seed", seed, Annotated[int, Range(0)])
    order = torch.randperm(len(logits), generator=generator(seed, "halves"), device="cpu")
    is_first = torch.zeros(len(logits), dtype=torch.bool, device="cpu")
    is_first[order[: len(logits) // 2]] = True
    values, labels = logits.detach().cpu(), labels.detach().cpu()
    first, second = (fit_temperature(values[half], labels[half]) for half in (is_first, ~is_first))
    return CrossFittedTemperature((first, second), is_first)


def _minimize(values: Tensor, true: Tensor) -> tuple[float, str]:
    """Return the 1/T of the smallest loss, and a note if there is none within the range."""
    if not values.any():
        return 1.0, "all logits of an image are equal, so a temperature has no effect"
    low, high = 1 / HIGHEST, 1 / LOWEST
    if _slopes(values, true, low)[0] >= 0:
        return low, f"the logits say nothing about the labels (the loss falls up to T = {HIGHEST:g})"
    if _slopes(values, true, high)[0] <= 0:
        return high, f"almost no image is misclassified (the loss falls down to T = {LOWEST:g})"
    inverse = 1.0
    for _ in range(MOST_STEPS):
        slope, curvature = _slopes(values, true, inverse)
        # the derivative grows with 1/T, so its sign tells on which side the minimum is
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.nan
        # outside of the bracket, bisect; on a logarithmic scale, since T can be of any order of magnitude
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - inverse) <= PRECISION * inverse or high - low <= PRECISION * low:
            break
        inverse = following
    return inverse, ""


def _slopes(values: Tensor, true: Tensor, inverse: float) -> tuple[float, float]:
    """Return the first and the second derivative of the mean loss with respect to 1/T."""
    probabilities = (inverse * values).softmax(1)
    mean = (probabilities * values).sum(1)
    variance = (probabilities * (values - mean[:, None]).square()).sum(1)
    return float((mean - true).mean()), float(variance.mean())


def _interval(values: Tensor, true: Tensor, inverse: float) -> tuple[float, float]:
    """Return the ends of the 95% interval of T."""
    _, curvature = _slopes(values, true, inverse)
    scores = ((inverse * values).softmax(1) * values).sum(1) - true
    if curvature <= 0:
        return 0.0, math.inf
    half = TWO_SIDED * math.sqrt(float(scores.square().mean()) / len(values)) / curvature
    return 1 / (inverse + half), 1 / (inverse - half) if half < inverse else math.inf
