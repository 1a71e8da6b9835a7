"""Mean absolute Jacobian by class, over all test images."""

from dataclasses import dataclass

from pellucid.hooks import HOOKS
from pellucid.hooks.jacobian_classes import JacobianClasses

__all__ = ["JacobianClassesAll"]


@HOOKS.register("jacobian_classes_all")
@dataclass(frozen=True)
class JacobianClassesAll(JacobianClasses):
    """Mean absolute Jacobian by class over all test images, computed once with the best weights."""

    when = "end"
    is_slow = True
    images: int | None = None
