"""Sums of gradients at many points near or on the way to the same images."""

import torch
from torch import Tensor

from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target

__all__ = ["Gradients"]


class Gradients:
    """Weighted sums of the explained score's gradient at points image + scale · offset."""

    def __init__(self, subject: Subject, images: Tensor, target: Target, *, is_summed: bool = True) -> None:
        self._subject = subject
        self._images = images
        self._target = target
        self._total = torch.zeros_like(images)
        self._squares = None if is_summed else torch.zeros_like(images)

    def add(self, offset: Tensor, weight: float | Tensor, *, scale: Tensor | float) -> None:
        """Add `weight` times the gradient at image + scale · offset; `offset` broadcasts to the images."""
        point = torch.addcmul(
            self._images, offset, torch.as_tensor(scale, dtype=offset.dtype, device=offset.device)
        ).requires_grad_()
        logits = self._subject.logits(point)
        slope = torch.autograd.grad(self._target.scores(logits).sum(), point, materialize_grads=True)[0]
        self._total += slope * weight
        if self._squares is not None:
            self._squares += slope.square() * weight

    def total(self) -> Tensor:
        """The weighted sum of the gradients."""
        return self._total

    def squares(self) -> Tensor:
        """The weighted sum of their squares."""
        assert self._squares is not None
        return self._squares
