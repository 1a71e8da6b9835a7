"""SmoothGrad and variants: statistics of the gradient over noisy copies of each image."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject, sharing
from pellucid.attribution._hidden import activations
from pellucid.attribution._method import SLOPE
from pellucid.attribution._paths import Gradients
from pellucid.core.options import Count, NotNegative
from pellucid.core.seeding import generator

VARIANTS = ("smoothgrad", "smoothgrad.squared", "smoothgrad.variance")
"""Names registered here; the registry reads them without importing this file."""


@METHODS.register("smoothgrad")
@dataclass(frozen=True)
class SmoothGrad(Attribution):
    """Mean input gradient over noisy copies of each image, in logits per unit of pixel value (Smilkov et al., 2017).

    The noise depends on the seed and is the same for every image up to its scale.
    """

    family: ClassVar[str] = "gradient"
    reaches_layers: ClassVar[bool] = True
    unit: ClassVar[str] = SLOPE
    answers: ClassVar[str] = (
        "how sensitive the explained logit is to each pixel, averaged over a neighborhood of the image"
    )
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific"})
    images_at_once: ClassVar[int] = 16

    samples: Count = 32
    """Number of noisy copies to average."""
    noise_share: NotNegative = 0.15
    """Noise standard deviation, as a fraction of each image's value range (of each input's, for several inputs)."""
    seed: int = 0

    @property
    def gradients_per_image(self) -> int:
        return self.samples

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        logits, held = subject.predict(images, question.targets)
        # Relative to each image's range, so that the noise looks alike for dark and bright images.
        spread = _ranges(subject, images) * self.noise_share
        gradients = Gradients(subject, images, held, is_summed=self.is_linear, layers=question.layers)
        source = generator(self.seed, "smoothgrad")
        # Drawn in float64 on the CPU: the same noise for every device and dtype.
        for _ in range(self.samples):
            noise = torch.randn(images.shape[1:], generator=source, dtype=torch.float64, device="cpu").to(images)
            gradients.add(noise, 1.0, scale=spread)
        spent = torch.full((len(images),), self.samples + 1, device=images.device)
        values = activations(subject, images, question.layers)
        places = replace(question, targets=tuple(held)).places
        return sharing(
            [
                Outcome(
                    self.statistic(gradients, number),
                    logits,
                    target.classes(logits),
                    evaluations=spent,
                    activations=values[layer],
                )
                for number, (target, layer) in enumerate(places)
            ]
        )

    is_linear: ClassVar[bool] = True
    """True if the statistic only needs the sum of the gradients."""

    def statistic(self, gradients: Gradients, number: int) -> Tensor:
        """Compute the map of one target from its gradients."""
        return gradients.total(number) / self.samples


@METHODS.register("smoothgrad.squared")
@dataclass(frozen=True)
class SmoothGradSquared(SmoothGrad):
    """Mean squared input gradient over noisy copies of each image (Hooker et al., 2019)."""

    answers: ClassVar[str] = "which pixels the explained logit is sensitive to anywhere near the image"
    unit: ClassVar[str] = f"({SLOPE})²"
    is_linear: ClassVar[bool] = False

    def statistic(self, gradients: Gradients, number: int) -> Tensor:
        return gradients.squares(number) / self.samples


@METHODS.register("smoothgrad.variance")
@dataclass(frozen=True)
class SmoothGradVariance(SmoothGrad):
    """Variance of the input gradient over noisy copies of each image (Adebayo et al., 2018)."""

    answers: ClassVar[str] = "where the sensitivity of the explained logit varies most near the image"
    unit: ClassVar[str] = f"({SLOPE})²"
    is_linear: ClassVar[bool] = False

    def statistic(self, gradients: Gradients, number: int) -> Tensor:
        # In this form, two sums are enough and no gradient has to be kept.
        variance = gradients.squares(number) / self.samples - (gradients.total(number) / self.samples).square()
        return variance.clamp(min=0)  # rounding can make it slightly negative


def _ranges(subject: Subject, images: Tensor) -> Tensor:
    """Return the range of each image's values, (batch, 1, …), or that of each of several inputs, (batch, value)."""
    if subject.packing is None:
        rows = images.flatten(1)
        return (rows.amax(1) - rows.amin(1)).view(-1, *(1 for _ in images.shape[1:]))
    own = [images[:, part.start : part.stop] for part in subject.packing.parts]
    return torch.cat([(rows.amax(1) - rows.amin(1))[:, None].expand_as(rows) for rows in own], 1)
