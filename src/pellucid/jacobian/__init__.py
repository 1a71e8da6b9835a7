"""Jacobians of a model: the derivative of every output with respect to every input.

`pellucid.jacobian` is both this package and a function: calling the package computes a Jacobian.
"""

import inspect
import sys
from types import ModuleType
from typing import Any

from pellucid.jacobian._augment import Augmented, augment
from pellucid.jacobian._check import JacobianCheck, check_jacobian
from pellucid.jacobian._class_means import ClassMeans, jacobian_class_means
from pellucid.jacobian._jacobian import JacobianReport, jacobian, jacobian_report
from pellucid.jacobian._products import jacobian_product, transposed_product
from pellucid.jacobian._spectrum import JacobianSpectrum, jacobian_spectrum

__all__ = [
    "Augmented",
    "ClassMeans",
    "JacobianCheck",
    "JacobianReport",
    "JacobianSpectrum",
    "augment",
    "check_jacobian",
    "jacobian",
    "jacobian_class_means",
    "jacobian_product",
    "jacobian_report",
    "jacobian_spectrum",
    "transposed_product",
]


class _CallableModule(ModuleType):
    """A module that can be called.

    Importing a subpackage sets it as an attribute of its parent and would hide a function `pellucid.jacobian`, so the
    package itself acts as that function.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return jacobian(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
__wrapped__, __signature__ = jacobian, inspect.signature(jacobian)
__doc__ = (jacobian.__doc__ or "").partition(">>>")[0]  # without the example: doctest already runs it in `_jacobian`
