"""A frozen classifier, and the images and labels that it is tested on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.errors import ModelError, ShapeError, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.diagnostics._arguments import check_tensors, holds_integers
from pellucid.diagnostics._corruptions import check_images
from pellucid.engine.derivatives import missing_derivative
from pellucid.engine.model import device_of, dtype_of, frozen, images_per_chunk

__all__ = ["Classified", "classified", "margins"]

IMAGES_AT_ONCE = 128
"""Larger batches of a small network exceed the processor's cache."""


@dataclass(frozen=True, eq=False)
class Classified:
    """A classifier in eval mode without parameter gradients, and labeled images on its device and in its dtype."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    chunk: int
    """Images per forward pass."""

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (batch, class)."""
        with torch.no_grad():
            # copies, because the model may work in place
            return torch.cat([self.model(part.clone()) for part in images.split(self.chunk)])

    def ascent(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logits, and the gradient of the logit of `targets` minus that of `labels`.

        Without targets, each image's target is the class with the largest logit other than the label.
        """
        images = images.detach().requires_grad_()
        # a copy, because the model may work in place, which torch forbids for leaves
        logits = self.model(images.clone())
        others = logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(1) if targets is None else targets
        gap = logits.gather(1, others[:, None]) - logits.gather(1, labels[:, None])
        try:
            (gradient,) = torch.autograd.grad(gap.sum(), images)
        except RuntimeError as error:
            way_out = "attacks need the gradient of the logits with respect to the images."
            raise missing_derivative(error, way_out) or UnsupportedOperation(f"{error} {way_out}") from error
        return logits.detach(), gradient


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (batch,) margins by which the largest other logit exceeds that of the label, in float64 on the CPU.

    The rounding of the logits is subtracted, because the sign of a smaller margin can depend on the batch.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    gap = logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own
    rounding = 64 * torch.finfo(logits.dtype).eps * logits.abs().nan_to_num(0, 0, 0).amax(1)
    return (gap - rounding).cpu().double()


@contextmanager
def classified(
    model: nn.Module, images: Any, labels: Any, pixel_range: tuple[float, float] | None = None
) -> Iterator[Classified]:
    """Freeze a model, and check that images and labels fit it; restore the model on exit."""
    check_tensors(images=images, labels=labels)
    if images.ndim != 4 or labels.shape != images.shape[:1] or not holds_integers(labels):
        raise ShapeError(
            f"got images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)} and dtype "
            f"{labels.dtype}; expected images (batch, channel, height, width) with one label each, a class index."
        )
    check_images(images, pixel_range)
    with isolated(), frozen(model) as network:
        images = images.detach().to(device_of(network), dtype_of(network, images.dtype))
        chunk = 1
        if len(images):
            with torch.no_grad():
                _check_logits(network(images[:1].clone()), labels)
            chunk = min(images_per_chunk(network, images), IMAGES_AT_ONCE)
        yield Classified(network, images, labels.to(images.device, torch.int64), chunk)


def _check_logits(logits: Any, labels: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the model returns a value of type {type(logits).__name__}; expected logits (batch, class). Wrap it in a "
            "module that returns its logits alone."
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ShapeError(
            f"the model returns shape {tuple(logits.shape)} for one image; expected logits (batch, class) of at least "
            "two classes."
        )
    if not logits.is_floating_point():
        raise ModelError(f"the model returns {logits.dtype}; expected logits as floating-point numbers.")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ShapeError(
            f"the labels range from {int(labels.min())} to {int(labels.max())}; expected 0 to {logits.shape[1] - 1}, "
            f"since the model has {logits.shape[1]} classes."
        )
