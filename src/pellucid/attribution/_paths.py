"""Sums of gradients at many points near or on the way to the same images."""

import torch
from torch import Tensor

from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.engine.first_layer import Entrance, entrance_of

__all__ = ["Gradients"]


class Gradients:
    """Weighted sums of the explained score's gradient at points image + scale · offset."""

    def __init__(self, subject: Subject, images: Tensor, target: Target, *, is_summed: bool = True) -> None:
        self._subject = subject
        self._images = images
        self._target = target
        self._total = torch.zeros_like(images)
        self._squares = None if is_summed else torch.zeros_like(images)
        self._entrance: Entrance | None = None
        self._at_entrance: Tensor | None = None

    def add(self, offset: Tensor, weight: float, *, scale: Tensor | float) -> None:
        """Add `weight` times the gradient at image + scale · offset; `offset` broadcasts to the images."""
        point = torch.addcmul(
            self._images, offset, torch.as_tensor(scale, dtype=offset.dtype, device=offset.device)
        ).requires_grad_()
        score = self._target.scores(self._subject.logits(point)).sum()
        entrance = entrance_of(score, point, self._subject.model) if self._squares is None else None
        if entrance is not None:
            self._add_at_entrance(entrance, entrance.gradient(score), weight)
            return
        slope = torch.autograd.grad(score, point, materialize_grads=True)[0]
        self._total += slope * weight
        if self._squares is not None:
            self._squares += slope.square() * weight

    def _add_at_entrance(self, entrance: Entrance, slope: Tensor, weight: float) -> None:
        is_same = self._entrance is not None and self._entrance.key == entrance.key
        if self._at_entrance is not None and is_same and self._at_entrance.shape == slope.shape:
            self._at_entrance.add_(slope, alpha=weight)
            return
        self._collect()
        self._entrance, self._at_entrance = entrance, slope * weight

    def _collect(self) -> None:
        """Carry what was summed at the first layer to the images."""
        if self._entrance is not None and self._at_entrance is not None:
            self._total += self._entrance.to_image(self._at_entrance)
        self._entrance = self._at_entrance = None

    def total(self) -> Tensor:
        """The weighted sum of the gradients."""
        self._collect()
        return self._total

    def squares(self) -> Tensor:
        """The weighted sum of their squares."""
        assert self._squares is not None
        return self._squares
