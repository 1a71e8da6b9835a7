"""Sums of gradients at many points near the same images or on paths to them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.attribution._hidden import read
from pellucid.attribution._missing import check_gradients
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target

__all__ = ["Gradients"]


class Gradients:
    """Weighted sum of each explained score's gradient over points image + scale · offset.

    The gradients are those with respect to the image, or to the outputs of `layers`, in the order of `Question.places`.
    """

    def __init__(
        self,
        subject: Subject,
        images: Tensor,
        targets: Sequence[Target],
        *,
        is_summed: bool = True,
        is_part: bool = False,
        layers: tuple[str, ...] = (),
    ) -> None:
        """Create empty sums. With `is_part`, they are terms of a larger sum that the caller checks for gradients."""
        self._subject = subject
        self._images = images
        self._targets = targets
        self._layers = layers
        self._is_summed = is_summed
        self._sums: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._is_part = is_part or bool(layers)  # at layers, the gradients of each point are checked
        self._last = images
        """Most recent point at which gradients were computed."""
        self._is_checked = False

    def add(self, offset: Tensor, weight: float, *, scale: Tensor | float) -> None:
        """Add `weight` times the gradients at image + scale · offset; `offset` broadcasts to the images."""
        # `addcmul` takes only tensors, but `scale` may be a number.
        point = torch.addcmul(
            self._images, offset, torch.as_tensor(scale, dtype=offset.dtype, device=offset.device)
        ).requires_grad_()
        self._last, self._is_checked = point, False
        reading = read(self._subject, point, self._layers)
        number = 0
        for slopes in reading.gradients(self._targets):
            for slope in slopes:
                self._add(number, slope, weight)
                number += 1

    def _add(self, number: int, slope: Tensor, weight: float) -> None:
        if number == len(self._sums):
            self._sums.append(torch.zeros_like(slope))
            self._squares += [] if self._is_summed else [torch.zeros_like(slope)]
        self._sums[number].add_(slope, alpha=weight)
        if not self._is_summed:
            self._squares[number] += slope.square() * weight

    def total(self, number: int) -> Tensor:
        """Return the weighted sum of one score's gradients.

        Raises `UnsupportedOperation` if a score depends on the image but has no gradient at any point.
        """
        self._check()
        return self._sums[number]

    def squares(self, number: int) -> Tensor:
        """Return the weighted sum of squared gradients; raises the same errors as `total`."""
        self._check()
        return self._squares[number]

    def _check(self) -> None:
        """Check all sums at once, so that an error names every affected target."""
        if not (self._is_checked or self._is_part):
            self._is_checked = True
            sums = self._squares or self._sums  # squares do not cancel
            check_gradients(self._subject, self._last, self._targets, sums)
