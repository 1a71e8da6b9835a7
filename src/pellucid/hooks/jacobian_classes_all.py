"""What each class's logit reacts to on average over each class, over all test images."""

from dataclasses import dataclass

from pellucid.hooks import HOOKS
from pellucid.hooks.jacobian_classes import JacobianClasses

__all__ = ["JacobianClassesAll"]


@HOOKS.register("jacobian_classes_all")
@dataclass(frozen=True)
class JacobianClassesAll(JacobianClasses):
    """What `jacobian_classes` shows, over all test images: once, at the end, with the best weights."""

    when = "end"
    images: int | None = None
