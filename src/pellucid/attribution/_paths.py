"""Sums of gradients at many points near the same images or on paths to them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.attribution._missing import check_gradients, gradient_of
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.engine.first_layer import Entrance, entrance_of

__all__ = ["Gradients"]


class Gradients:
    """Weighted sum of each explained score's gradient over points image + scale · offset."""

    def __init__(
        self,
        subject: Subject,
        images: Tensor,
        targets: Sequence[Target],
        *,
        is_summed: bool = True,
        is_part: bool = False,
    ) -> None:
        """Create empty sums. With `is_part`, they are terms of a larger sum that the caller checks for gradients."""
        self._subject = subject
        self._images = images
        self._targets = targets
        self._sums = [_Sum(torch.zeros_like(images)) for _ in targets]
        self._squares = [] if is_summed else [torch.zeros_like(images) for _ in targets]
        self._is_part = is_part
        self._last = images
        """Most recent point at which gradients were computed."""
        self._is_checked = False

    def add(self, offset: Tensor, weight: float, *, scale: Tensor | float) -> None:
        """Add `weight` times the gradients at image + scale · offset; `offset` broadcasts to the images."""
        point = torch.addcmul(
            self._images, offset, torch.as_tensor(scale, dtype=offset.dtype, device=offset.device)
        ).requires_grad_()
        self._last, self._is_checked = point, False
        logits = self._subject.logits(point)
        last = len(self._targets) - 1
        for number, (target, total) in enumerate(zip(self._targets, self._sums, strict=True)):
            score, is_kept = target.scores(logits).sum(), number < last
            # The map from the first layer's output to the image is linear, so its gradient can be summed there and
            # mapped to the image once. Squares need the gradient at the image each time.
            entrance = None if self._squares else entrance_of(score, point, self._subject.model)
            if entrance is not None:
                total.add_at(entrance, entrance.gradient(score, is_kept=is_kept), weight)
                continue
            slope = gradient_of(score, point, is_kept=is_kept)
            total.add(slope * weight)
            if self._squares:
                self._squares[number] += slope.square() * weight

    def total(self, number: int) -> Tensor:
        """Return the weighted sum of one score's gradients.

        Raises `UnsupportedOperation` if a score depends on the image but has no gradient at any point.
        """
        self._check()
        return self._sums[number].collect()

    def squares(self, number: int) -> Tensor:
        """Return the weighted sum of squared gradients; raises the same errors as `total`."""
        self._check()
        return self._squares[number]

    def _check(self) -> None:
        """Check all sums at once, so that an error names every affected target."""
        if not (self._is_checked or self._is_part):
            self._is_checked = True
            sums = self._squares or [total.collect() for total in self._sums]  # squares do not cancel
            check_gradients(self._subject, self._last, self._targets, sums)


class _Sum:
    """A sum of gradients, partly still at the output of the first layer."""

    def __init__(self, total: Tensor) -> None:
        self._total = total
        self._entrance: Entrance | None = None
        self._waiting: Tensor | None = None

    def add(self, slope: Tensor) -> None:
        """Add a gradient at the image."""
        self._total += slope

    def add_at(self, entrance: Entrance, slope: Tensor, weight: float) -> None:
        """Add `weight` times a gradient at the first layer's output."""
        is_same = self._entrance is not None and self._entrance.key == entrance.key
        if self._waiting is not None and is_same and self._waiting.shape == slope.shape:
            self._waiting.add_(slope, alpha=weight)
            return
        self.collect()
        self._entrance, self._waiting = entrance, slope * weight

    def collect(self) -> Tensor:
        """Map the pending gradients to the image and return the whole sum."""
        if self._entrance is not None and self._waiting is not None:
            self._total += self._entrance.to_image(self._waiting)
        self._entrance = self._waiting = None
        return self._total
