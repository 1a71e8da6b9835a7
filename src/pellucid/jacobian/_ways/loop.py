"""One backward pass per output, over one shared forward pass."""

from torch import Tensor

from pellucid.jacobian._ways._part import Part, gradients

__all__ = ["fill", "loop"]


def loop(part: Part) -> int:
    """J's rows one after the other: the k-th is the gradient of output k. K backward passes."""
    flat = part.run()
    cotangent = flat.new_zeros(flat.shape)
    for place, index in enumerate(part.plan.wanted):
        cotangent[:, index] = 1
        fill(part, place, gradients(flat, part.differentiated, cotangent))
        cotangent[:, index] = 0
    return len(part.plan.wanted)


def fill(part: Part, place: int, found: list[Tensor | None]) -> None:
    """Enter the gradients of one output; zero for inputs it does not depend on."""
    for rows, gradient in zip(part.rows, found, strict=True):
        rows[:, place] = 0 if gradient is None else gradient
