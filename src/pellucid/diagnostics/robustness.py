"""Robustness of a classifier: accuracy on corrupted images, smallest adversarial changes, stability of explanations.

- `corruption_accuracy`: accuracy under noise, blur, rotation, shift and loss of contrast, at five strengths each
- `adversarial_radius`: the smallest change of an image that changes its prediction, found by attacks
- `first_order_radius`: its estimate from the Jacobian
- `explanation_movement`: how far an explanation moves while the prediction stays

Radii have the unit of the pixels. Images are within `pixel_range`, and so is every changed image.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, DataError, UnknownName
from pellucid.core.types import Images, Labels
from pellucid.diagnostics._adversarial import Adversarial, Attack, adversarial_radius
from pellucid.diagnostics._arguments import check_tensors
from pellucid.diagnostics._balls import NORMS, Norm
from pellucid.diagnostics._classified import Classified, classified
from pellucid.diagnostics._corruptions import CORRUPTIONS, Corruption, corrupt
from pellucid.diagnostics._first_order import LEADING, FirstOrder, first_order_radius
from pellucid.diagnostics._movement import Movement, MovementSearch, explanation_movement, map_distance
from pellucid.diagnostics._proportions import wilson

__all__ = [
    "CORRUPTIONS",
    "LEADING",
    "NORMS",
    "Adversarial",
    "Attack",
    "Corruption",
    "CorruptionAccuracy",
    "FirstOrder",
    "Movement",
    "MovementSearch",
    "Norm",
    "adversarial_radius",
    "corrupt",
    "corruption_accuracy",
    "explanation_movement",
    "first_order_radius",
    "map_distance",
]


@dataclass(frozen=True, eq=False)
class CorruptionAccuracy:
    """Accuracy at each strength of each corruption, with 95% Wilson intervals."""

    strengths: Mapping[str, tuple[float, ...]]
    """Strengths by corruption; the first one is 0, the original images."""
    correct: Mapping[str, Int64[Tensor, " strength"]]
    """Number of correctly classified images. Logits that are NaN count as an error."""
    images: int

    def accuracy(self, name: str) -> Float64[Tensor, " strength"]:
        """Return the accuracies under a corruption."""
        return self.correct[name].double() / self.images

    def interval(self, name: str) -> tuple[Float64[Tensor, " strength"], Float64[Tensor, " strength"]]:
        """Return the lower and upper ends of the 95% intervals of the accuracies."""
        return wilson(self.correct[name], torch.tensor(self.images, device="cpu"))

    @property
    def mean_accuracy(self) -> float:
        """Mean over all corruptions and strengths above 0."""
        return float(torch.cat([self.accuracy(name)[1:] for name in self.correct]).mean())


def corruption_accuracy(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    pixel_range: tuple[float, float] = (0.0, 1.0),
    strengths: Mapping[str, tuple[float, ...]] | None = None,
    seed: int = 0,
) -> CorruptionAccuracy:
    """Measure the accuracy on corrupted images (idea: Hendrycks and Dietterich, 2019).

    Every strength uses the same random draws, so the curves differ in strength only. See `corrupt` for the corruptions.

    Args:
        model: maps images to logits.
        images: (batch, channel, height, width), within the pixel range.
        labels: true class of each image.
        pixel_range: pixel values of black and white.
        strengths: strengths above 0 by corruption; by default five for each of `CORRUPTIONS`.
        seed: random seed of the corruptions.

    Raises:
        ShapeError: if images, labels and model do not fit together.
        DataError: for no images, or pixels that are not finite or outside the pixel range.
        UnknownName: for an unknown corruption.
        ConfigError: for no strengths.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    >>> result = corruption_accuracy(model, images, labels, strengths={"blur": (0.1,)})
    >>> result.strengths, result.accuracy("blur").shape
    ({'blur': (0.0, 0.1)}, torch.Size([2]))
    """
    check_tensors(images=images)
    if not len(images):
        raise DataError("there are no images; pass at least one to measure an accuracy.")
    if strengths is None:
        strengths = {name: corruption.strengths for name, corruption in CORRUPTIONS.items()}
    for name in strengths:
        if name not in CORRUPTIONS:
            raise UnknownName("corruption", name, CORRUPTIONS)
    if not strengths or not all(strengths.values()):
        raise ConfigError(f"strengths is {dict(strengths)}; pass at least one corruption with at least one strength.")
    levels = {name: (0.0, *given) for name, given in strengths.items()}
    with classified(model, images, labels, pixel_range) as given:
        clean = _count_correct(given, given.images, slice(None))
        counts = {name: [clean] + [0] * (len(own) - 1) for name, own in levels.items()}
        # in chunks, which bounds the memory of the corrupted copies
        for start in range(0, len(images), given.chunk):
            place = slice(start, start + given.chunk)
            # moved into the range, since rounding may exceed it
            part = given.images[place].clamp(*pixel_range)
            for name, own in levels.items():
                for number, strength in enumerate(own[1:], 1):
                    changed = corrupt(part, name, strength, pixel_range=pixel_range, seed=seed, first=start)
                    counts[name][number] += _count_correct(given, changed, place)
    correct = {name: torch.tensor(values, dtype=torch.int64, device="cpu") for name, values in counts.items()}
    return CorruptionAccuracy(levels, correct, len(images))


def _count_correct(given: Classified, images: Tensor, place: slice) -> int:
    logits = given.logits(images)
    # argmax takes NaN for the largest value
    return int(((logits.argmax(1) == given.labels[place]) & ~logits.isnan().any(1)).sum())
