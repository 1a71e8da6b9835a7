"""Sums of gradients at many points near or on the way to the same images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target

__all__ = ["Gradients"]


class Gradients:
    """Weighted sums of each explained score's gradient at points image + scale · offset."""

    def __init__(self, subject: Subject, images: Tensor, targets: Sequence[Target], *, is_summed: bool = True) -> None:
        self._subject = subject
        self._images = images
        self._targets = targets
        self.totals = [torch.zeros_like(images) for _ in targets]
        """The weighted sum of the gradients, one per target."""
        self.squares = [] if is_summed else [torch.zeros_like(images) for _ in targets]
        """The weighted sum of their squares."""

    def add(self, offset: Tensor, weight: float | Tensor, *, scale: Tensor | float) -> None:
        """Add `weight` times the gradients at image + scale · offset; `offset` broadcasts to the images."""
        point = torch.addcmul(
            self._images, offset, torch.as_tensor(scale, dtype=offset.dtype, device=offset.device)
        ).requires_grad_()
        logits = self._subject.logits(point)
        last = len(self._targets) - 1
        for number, target in enumerate(self._targets):
            score = target.scores(logits).sum()
            slope = torch.autograd.grad(score, point, materialize_grads=True, retain_graph=number < last)[0]
            self.totals[number] += slope * weight
            if self.squares:
                self.squares[number] += slope.square() * weight
