"""Gradients of all classes, from a forward pass that the caller has run."""

from collections.abc import Iterator

from torch import Tensor

from pellucid.engine.derivatives import derivatives

__all__ = ["class_gradients"]


def class_gradients(logits: Tensor, leaf: Tensor, way_out: str) -> Iterator[Tensor]:
    """Yield the gradient (batch, …) of each column of `logits` (batch, class) with respect to `leaf` (batch, …).

    The images must not depend on each other. The last gradient frees the graph of the logits. Raises
    `UnsupportedOperation`, ending in `way_out`, if an operation has no derivative.
    """
    last = logits.shape[1] - 1
    for index in range(last + 1):
        # a new tensor for each class, because it can be the gradient itself, for a model that only reshapes
        cotangent = logits.new_zeros(logits.shape)
        cotangent[:, index] = 1  # for all images at once
        (gradient,) = derivatives(logits, [leaf], cotangent, way_out=way_out, retain_graph=index < last)
        assert gradient is not None
        yield gradient
